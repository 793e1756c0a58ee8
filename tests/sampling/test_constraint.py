"""The form that an answer is asked to have: what is taken, and what is refused by name."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from cullama.errors import ConstraintError, UnknownOptionError
from cullama.sampling.constraint import json_rules
from cullama.sampling.json_schema import MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH
from cullama.sampling.params import SamplingParams

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}, "required": ["b"]}
WAYS: dict[str, Any] = {
    "json_schema": SCHEMA,
    "json_object": True,
    "regex": "[0-9]+",
    "grammar": 'start: "a" | "b"',
    "choice": ["yes", "no"],
}


def refusal(**wishes: Any) -> ConstraintError:
    with pytest.raises(ConstraintError) as caught:
        SamplingParams(**wishes)
    return caught.value


@pytest.mark.parametrize("name", WAYS)
def test_each_way_makes_one_constraint_of_its_kind(name: str) -> None:
    constraint = SamplingParams(**{name: WAYS[name]}).constraint
    assert constraint is not None
    assert constraint.kind == name
    assert SamplingParams().constraint is None


@pytest.mark.parametrize("name", WAYS)
def test_parameters_with_a_form_can_be_hashed_compared_and_pickled(name: str) -> None:
    params = SamplingParams(**{name: WAYS[name]}, seed=1)
    copy = pickle.loads(pickle.dumps(params))
    assert copy == params
    assert hash(copy) == hash(params)
    assert copy.replace(seed=2) == params.replace(seed=2)
    assert params != params.replace(**{name: None})


def test_a_schema_keeps_the_order_of_its_properties() -> None:
    text = SamplingParams(json_schema=SCHEMA).json_schema
    assert list(json.loads(text)["properties"]) == ["b", "a"]
    assert SamplingParams(json_schema=json.dumps(SCHEMA)).json_schema == text


def test_a_pydantic_model_is_its_schema() -> None:
    class Person(BaseModel):
        name: str
        age: int

    schema = json.loads(SamplingParams(json_schema=Person).json_schema)
    assert schema["required"] == ["name", "age"]
    assert "title" not in schema


@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("second", WAYS)
def test_only_one_form_can_be_asked_for(first: str, second: str) -> None:
    if first != second:
        error = refusal(**{first: WAYS[first], second: WAYS[second]})
        assert error.param in (first, second)
        assert first in str(error)
        assert second in str(error)


@pytest.mark.parametrize("name", WAYS)
def test_stop_strings_are_refused_beside_a_form(name: str) -> None:
    assert refusal(**{name: WAYS[name]}, stop="x").param == "stop"


ANNOTATIONS: dict[str, Any] = {
    "title": "t",
    "description": "d",
    "default": 1,
    "examples": [1],
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "x",
    "$comment": "c",
    "deprecated": True,
    "readOnly": True,
    "format": "int32",
    "discriminator": {"propertyName": "kind"},
    "unheard-of": 1,
    "uniqueItems": False,
}


@pytest.mark.parametrize("keyword", ANNOTATIONS)
def test_what_only_annotates_is_left_out(keyword: str) -> None:
    schema = {"type": "array", keyword: ANNOTATIONS[keyword], "items": {"type": "integer"}}
    text = SamplingParams(json_schema=schema).json_schema
    assert json.loads(text) == {"type": "array", "items": {"type": "integer"}}


def test_properties_may_have_the_names_of_keywords() -> None:
    schema = {"properties": {"not": {"type": "null"}, "title": {}, "x-guidance": {}}}
    assert json.loads(SamplingParams(json_schema=schema).json_schema) == schema


UNSUPPORTED = (
    *("not", "if", "then", "else", "dependentSchemas", "dependentRequired", "dependencies"),
    *("uniqueItems", "contains", "minContains", "maxContains", "additionalItems"),
    *("propertyNames", "unevaluatedItems", "unevaluatedProperties"),
    *("$dynamicRef", "$recursiveRef", "x-guidance"),
)
PLACES: dict[str, Any] = {
    "": lambda part: part,
    "/properties/a": lambda part: {"properties": {"a": part}},
    "/patternProperties/^a": lambda part: {"patternProperties": {"^a": part}},
    "/additionalProperties": lambda part: {"additionalProperties": part},
    "/items": lambda part: {"items": part},
    "/prefixItems/1": lambda part: {"prefixItems": [{}, part]},
    "/anyOf/0": lambda part: {"anyOf": [part]},
    "/oneOf/0": lambda part: {"oneOf": [part]},
    "/allOf/0": lambda part: {"allOf": [part]},
    "/$defs/x": lambda part: {"$defs": {"x": part}},
    "/definitions/x": lambda part: {"definitions": {"x": part}},
}


@pytest.mark.parametrize("keyword", UNSUPPORTED)
def test_a_keyword_that_is_not_supported_is_named(keyword: str) -> None:
    error = refusal(json_schema={keyword: {}})
    assert error.param == "json_schema"
    assert repr(keyword) in str(error)


@pytest.mark.parametrize("place", PLACES)
def test_a_keyword_is_found_wherever_schemas_stand(place: str) -> None:
    error = refusal(json_schema=PLACES[place]({"not": {}}))
    assert f"at {place}/not:" in str(error)


WRONG: dict[str, Any] = {
    "type": ["string", "text"],
    "enum": [],
    "$ref": "https://example.com/schema.json",
    "required": "a",
    "pattern": 1,
    "minLength": -1,
    "maxItems": 1.5,
    "minProperties": True,
    "minimum": "1",
    "exclusiveMaximum": True,
    "multipleOf": 0,
    "anyOf": [],
    "allOf": {},
    "items": [{}],
    "properties": ["a"],
    "$defs": {"a": 1},
    "prefixItems": 3,
}


@pytest.mark.parametrize("keyword", WRONG)
def test_a_keyword_of_a_wrong_value_is_named(keyword: str) -> None:
    error = refusal(json_schema={keyword: WRONG[keyword]})
    assert f"/{keyword}" in str(error)
    assert "expected" in str(error)


@pytest.mark.parametrize(
    "value", [3, None.__class__, "[]", '"x"', "{", "1" * 5000, False, [{}], {1}]
)
def test_what_is_no_schema_is_refused(value: Any) -> None:
    assert refusal(json_schema=value).param == "json_schema"


def test_large_and_deep_schemas_are_refused() -> None:
    assert "bytes" in str(refusal(json_schema={"enum": ["x" * MAX_SCHEMA_BYTES]}))
    for opening, closing in (('{"items":', "}"), ('{"const":' + "[" * 2, "]" * 2 + "}")):
        deep = opening * MAX_SCHEMA_DEPTH + "{}" + closing * MAX_SCHEMA_DEPTH
        assert "deeper" in str(refusal(json_schema=deep))
    hopeless = "[" * 200_000
    assert refusal(json_schema=hopeless).param == "json_schema"


@pytest.mark.parametrize("name", ["regex", "grammar"])
@pytest.mark.parametrize("value", ["", 3, b"a", ["a"], "\ud800", "x" * (MAX_SCHEMA_BYTES + 1)])
def test_what_is_no_text_is_refused(name: str, value: Any) -> None:
    assert refusal(**{name: value}).param == name


@pytest.mark.parametrize("value", ["yes", [""], [1], ["\ud800"], {"a": 1}, ["a"] * 1025, 3])
def test_what_are_no_choices_is_refused(value: Any) -> None:
    assert refusal(choice=value).param == "choice"


def test_schemas_in_a_grammar_are_checked_as_schemas_are() -> None:
    texts, schemas = json_rules('start: a b\na: %json {"title": "x", "type": "null"}\nb: "%"')
    assert schemas == ['{"type":"null"}']
    assert texts == ["start: a b\na: %json ", '\nb: "%"']
    error = refusal(grammar='start: %json {"items": {"not": {}}}')
    assert error.param == "grammar"
    assert "/items/not" in str(error)


@pytest.mark.parametrize("name", ["x-guidance", "x\\u002dguidance", "\\u0078-guidance"])
def test_switches_of_the_grammar_library_are_refused(name: str) -> None:
    for grammar in (f'start: %json {{"{name}": {{}}}}', f'start: "a" // %json\n {{"{name}": 1}}'):
        assert "x-guidance" in str(refusal(grammar=grammar))


@pytest.mark.parametrize("name", ["guided_json", "guided_choice", "response_format"])
def test_names_of_other_libraries_are_answered_with_ours(name: str) -> None:
    with pytest.raises(UnknownOptionError, match=r"json_schema|choice"):
        SamplingParams.from_mapping({name: {}})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts),
    max_leaves=10,
)
KEYWORDS = st.sampled_from([*UNSUPPORTED, *WRONG, *ANNOTATIONS, "const", "a"])


@given(st.dictionaries(KEYWORDS, JSON, max_size=5))
def test_any_json_is_taken_or_refused_in_words(schema: dict[str, Any]) -> None:
    try:
        text = SamplingParams(json_schema=schema).json_schema
    except ConstraintError:
        return
    assert SamplingParams(json_schema=text).json_schema == text, "checked again, it is the same"
