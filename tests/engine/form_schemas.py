"""JSON schemas over the keywords that are followed, and ones that are refused.

For the tests, and for scripts/check_forms.py.
"""

from __future__ import annotations

from typing import Any

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def text(**more: Any) -> dict[str, Any]:
    return {"type": "string", "maxLength": 12, **more}


def whole(**more: Any) -> dict[str, Any]:
    return {"type": "integer", "minimum": -99, "maximum": 99, **more}


def array(items: Any, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, "maxItems": 3, **more}


def closed(*required: str, **properties: Any) -> dict[str, Any]:
    """An object of these properties only."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TREE = {
    "$defs": {"node": closed("value", value=whole(), children=array({"$ref": "#/$defs/node"}))},
    "$ref": "#/$defs/node",
}
LIST = closed("head", head=whole(), tail={"anyOf": [{"type": "null"}, {"$ref": "#"}]})

# All are bounded, but for those that refer to themselves: a model that goes on as long as it may
# comes to an end.
SCHEMAS: dict[str, Any] = {
    "null": {"type": "null"},
    "boolean": {"type": "boolean"},
    "integer": whole(),
    "number": {"type": "number", "minimum": 0, "maximum": 1},
    "string": text(),
    "several types": {"type": ["boolean", "null", "integer"], "minimum": 0, "maximum": 50},
    "enum of texts": {"enum": ["red", "green", "blue"]},
    "enum of everything": {"enum": [None, True, 3, -1.5, "x", [1, "a"], {"k": "v"}]},
    "enum with letters that are escaped": {"enum": ['"', "\\", "\n", "é", "東京", "\u0001"]},
    "enum within a type": {"type": "string", "enum": ["yes", "no", 3]},
    "const": {"const": {"a": [1, 2, {"b": None}], "c": "…"}},
    "const text": {"const": "a long text of which there is no other"},
    "minimum": {"type": "integer", "minimum": 37, "maximum": 1000},
    "negative range": {"type": "integer", "minimum": -250, "maximum": -13},
    "exclusive range": {"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 12},
    "fractions": {"type": "number", "exclusiveMinimum": 0.25, "maximum": 0.75},
    "multiple of": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700},
    "multiple of a fraction": {"type": "number", "multipleOf": 0.5, "minimum": 0, "maximum": 9},
    "min length": {"type": "string", "minLength": 5, "maxLength": 9},
    "exact length": {"type": "string", "minLength": 4, "maxLength": 4},
    "pattern": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
    "pattern not anchored": {"type": "string", "pattern": "[0-9]{2}", "maxLength": 10},
    "pattern of alternatives": {"type": "string", "pattern": "^(cat|dog)s?$"},
    "pattern and length": {"type": "string", "pattern": "^[a-f]+$", "minLength": 3, "maxLength": 6},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time", "maxLength": 20},
    "date-time": {"type": "string", "format": "date-time", "maxLength": 30},
    "uuid": {"type": "string", "format": "uuid"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "email": {"type": "string", "format": "email", "maxLength": 30},
    "hostname": {"type": "string", "format": "hostname", "maxLength": 20},
    "format that only annotates": {"type": "string", "format": "color", "maxLength": 12},
    "person": PERSON,
    "empty object": closed(),
    "optional properties": closed(a=whole(), b=text(), c={"type": "boolean"}),
    "some required": closed("b", a=whole(), b=text(), c={"type": "null"}),
    "required without a property": {
        "type": "object",
        "required": ["x"],
        "additionalProperties": {"type": "boolean"},
        "maxProperties": 3,
    },
    "object of objects": closed("outer", outer=closed("inner", inner=closed("v", v=whole()))),
    "names of every kind": closed(
        *("with space", 'quo"te', "ünï", "type", ""),
        **{"with space": whole(), 'quo"te': whole(), "ünï": whole(), "type": whole(), "": whole()},
    ),
    "map": {
        "type": "object",
        "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9},
        "minProperties": 1,
        "maxProperties": 2,
    },
    "pattern properties": {
        "type": "object",
        "patternProperties": {"^n_[a-z]{1,4}$": whole(), "^b_[a-z]{1,4}$": {"type": "boolean"}},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 2,
    },
    "array": array(whole()),
    "array of a length": array(whole(), minItems=3),
    "empty array": array(whole(), maxItems=0),
    "tuple": {
        "type": "array",
        "prefixItems": [whole(), text(), {"type": "boolean"}],
        "items": False,
        "minItems": 3,
    },
    "tuple and more": {
        "type": "array",
        "prefixItems": [{"const": "head"}],
        "items": whole(),
        "minItems": 2,
        "maxItems": 3,
    },
    "array of arrays": array(array({"type": "boolean"}, maxItems=2), minItems=1),
    "array of objects": array(closed("k", k={"enum": ["a", "b"]}), minItems=1, maxItems=2),
    "any of": {"anyOf": [whole(), {"type": "null"}, closed("ok", ok={"type": "boolean"})]},
    "any of objects": {
        "anyOf": [
            closed("kind", "meows", kind={"const": "cat"}, meows={"type": "boolean"}),
            closed("kind", "barks", kind={"const": "dog"}, barks=whole()),
        ]
    },
    "one of, told apart": {
        "oneOf": [
            closed("kind", "r", kind={"const": "circle"}, r=whole()),
            closed("kind", "w", kind={"const": "square"}, w=whole()),
        ]
    },
    "one of types": {"oneOf": [{"type": "null"}, {"type": "boolean"}]},
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": whole()}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]},
            {"maxProperties": 2},
        ]
    },
    "all of ranges": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 8}]},
    "reference": {"$defs": {"n": whole()}, **closed("a", "b", a={"$ref": "#/$defs/n"}, b=text())},
    "reference to definitions": {
        "definitions": {"p": PERSON},
        **array({"$ref": "#/definitions/p"}, minItems=1, maxItems=2),
    },
    "reference with more beside it": {
        "$defs": {"t": {"type": "string"}},
        "$ref": "#/$defs/t",
        "maxLength": 6,
    },
    "tree": TREE,
    "linked list": LIST,
    "expression": {
        "$defs": {
            "e": {
                "anyOf": [
                    whole(),
                    closed(
                        "op", "l", "r", op={"enum": ["+", "*"]}, l={"$ref": "#/$defs/e"}, r=whole()
                    ),
                ]
            }
        },
        "$ref": "#/$defs/e",
    },
    "titles and defaults": {
        "title": "T",
        "description": "D",
        **closed("a", a=whole(title="A", default=3, examples=[1])),
    },
    "as pydantic writes it": {
        "$defs": {
            "Colour": {"enum": ["red", "green"], "title": "Colour", "type": "string"},
            "Point": {
                **closed("x", "y", x=whole(title="X"), y=whole(title="Y")),
                "title": "Point",
            },
        },
        "title": "Shape",
        **closed(
            *("colour", "points"),
            colour={"$ref": "#/$defs/Colour"},
            points=array({"$ref": "#/$defs/Point"}),
            note={"anyOf": [text(), {"type": "null"}], "default": None},
        ),
    },
    "as OpenAI's guide has it": closed(
        *("steps", "final_answer"),
        steps=array(closed("explanation", "output", explanation=text(), output=text()), maxItems=2),
        final_answer=text(),
    ),
    "any value but bounded": {
        "anyOf": [{"type": "null"}, {"type": "boolean"}, text(), array(text())]
    },
}

# What is refused, and the keyword that the message has to name.
REFUSED: dict[str, tuple[Any, str]] = {
    "not": ({"not": {"type": "string"}}, "not"),
    "if": ({"if": {"type": "string"}, "then": {"maxLength": 2}}, "if"),
    "else": ({"else": {}}, "else"),
    "uniqueItems": (array(whole(), uniqueItems=True), "uniqueItems"),
    "contains": ({"type": "array", "contains": {"const": 1}}, "contains"),
    "propertyNames": ({"type": "object", "propertyNames": {"maxLength": 3}}, "propertyNames"),
    "dependentRequired": ({"dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    "dependentSchemas": ({"dependentSchemas": {"a": {}}}, "dependentSchemas"),
    "dependencies": ({"dependencies": {"a": ["b"]}}, "dependencies"),
    "unevaluatedProperties": ({"unevaluatedProperties": False}, "unevaluatedProperties"),
    "additionalItems": ({"additionalItems": False}, "additionalItems"),
    "items as a list": ({"items": [{"type": "null"}]}, "items"),
    "one of that overlap": ({"oneOf": [{"type": "string"}, text()]}, "oneOf"),
    "look-ahead": ({"type": "string", "pattern": "^(?=a)"}, "pattern"),
    "back-reference": ({"type": "string", "pattern": "(a)\\1"}, "pattern"),
    "not regular": ({"type": "string", "pattern": "["}, "pattern"),
    "wrong pattern property": ({"patternProperties": {"(?!a)": {}}}, "pattern"),
    "patterns that overlap": (
        {"type": "object", "patternProperties": {"^a": {"type": "null"}, "b$": whole()}},
        "patternProperties",
    ),
    "remote reference": ({"$ref": "https://example.com/x.json"}, "$ref"),
    "dangling reference": ({"$ref": "#/$defs/nothing"}, "$ref"),
    "circle of references": (
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        "$ref",
    ),
    "dynamic reference": ({"$dynamicRef": "#a"}, "$dynamicRef"),
    "unknown type": ({"type": "text"}, "type"),
    "empty enum": ({"enum": []}, "enum"),
    "empty range": ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum"),
    "empty length": ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength"),
    "empty count": (array(whole(), minItems=4), "minItems"),
    "properties at least, some of them optional": (
        {**closed(a=whole(), b=whole(), c=whole()), "minProperties": 2},
        "minProperties",
    ),
    "negative length": ({"type": "string", "maxLength": -1}, "maxLength"),
    "zero multiple": ({"type": "integer", "multipleOf": 0}, "multipleOf"),
    "draft 4 exclusive minimum": ({"minimum": 1, "exclusiveMinimum": True}, "exclusiveMinimum"),
    "required as a flag": ({"properties": {"a": {"required": True}}}, "required"),
    "switch": ({"x-guidance": {"lenient": True}, "not": {}}, "x-guidance"),
}
