"""Settings in files: errors are one line that names file and field."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cullama.errors import ModelFileError
from cullama.files.fields import MAX_COUNT, Fields, load_json

PATH = Path("somewhere/config.json")


def fields(**values: Any) -> Fields:
    return Fields(PATH, values)


def refusal(read: Callable[[], Any], *named: str) -> str:
    """The one line with which something is refused; it holds everything `named`."""
    with pytest.raises(ModelFileError) as caught:
        read()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 1000
    for word in named:
        assert word in message
    return message


def refusal_if_any(read: Callable[[], Any]) -> str:
    """Only a ModelFileError of one line may be raised."""
    try:
        read()
    except ModelFileError as error:
        message = str(error)
    else:
        return ""
    assert len(message.splitlines()) == 1
    return message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


# --- JSON


def test_an_object_is_read_as_it_is(file: Path) -> None:
    file.write_text('{"a": 1, "b": [null, true, 1.5, "é"], "c": {"a": 1}}', encoding="utf-8")
    assert load_json(file) == {"a": 1, "b": [None, True, 1.5, "é"], "c": {"a": 1}}


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 1}', '{"b": {"a": 1, "a": 2}}', '[{"a": 1, "a": 2}]'],
)
def test_a_key_given_twice_is_refused_by_name(file: Path, text: str) -> None:
    file.write_text(text)
    refusal(lambda: load_json(file), "config.json", "'a'", "twice")


def test_a_key_given_twice_among_thousands_is_named(file: Path) -> None:
    entries = [f'"key {index}": 0' for index in range(5000)]
    file.write_text("{" + ", ".join([*entries, '"key 4999": 1']) + "}")
    refusal(lambda: load_json(file), "config.json", "'key 4999'", "twice")


def test_a_hundred_thousand_keys_are_read_quickly(file: Path) -> None:
    file.write_text(json.dumps({f"key {index}": 0 for index in range(100_000)}))
    started = time.perf_counter()
    assert len(load_json(file)) == 100_000
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(file: Path, word: str) -> None:
    file.write_text(f'{{"a": {word}}}')
    refusal(lambda: load_json(file), "config.json", word, "finite")


@pytest.mark.parametrize("number", ["1e309", "-1e309", "1e999999"])
def test_a_number_beyond_float64_is_refused(file: Path, number: str) -> None:
    file.write_text(f'{{"a": {number}}}')
    refusal(lambda: Fields(file, load_json(file)).number("a"), "config.json", "number")


def test_an_integer_of_five_thousand_digits_is_refused(file: Path) -> None:
    file.write_text('{"a": ' + "9" * 5000 + "}")
    refusal(lambda: Fields(file, load_json(file)).integer("a"), "config.json")


def test_an_integer_beyond_float64_is_refused(file: Path) -> None:
    file.write_text('{"a": 1' + "0" * 400 + "}")
    refusal(lambda: Fields(file, load_json(file)).number("a"), "config.json", "a is 1000")


@pytest.mark.parametrize("depth", [100, 5_000, 200_000])
@pytest.mark.parametrize("bracket", ["[", '{"a":'])
def test_nesting_without_end_is_refused(file: Path, bracket: str, depth: int) -> None:
    file.write_text('{"a": ' + bracket * depth)
    refusal(lambda: load_json(file), "config.json")


@pytest.mark.parametrize("depth", [5_000, 200_000])
def test_deep_nesting_that_is_closed_is_refused(file: Path, depth: int) -> None:
    file.write_text('{"a": ' + "[" * depth + "]" * depth + "}")
    refusal(lambda: load_json(file), "config.json")


@pytest.mark.parametrize("text", ["[]", "[1, 2]", "1", "null", "true", '"a text"'])
def test_json_that_is_not_an_object_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    refusal(lambda: load_json(file), "config.json", "expected a JSON object")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" \n",
        b"{",
        b'{"a": 1',
        b"{'a': 1}",
        b'{"a": 01}',
        b'{"a": 1,}',
        b'{"a": 1} more',
        b"\xff\xfe\x00\x01",
        b'{"a": "\xff"}',
        b"GGUF\x03\x00\x00\x00" + b"\x00" * 64,
        b"\x7fELF" + bytes(range(256)),
        '{"a": 1}'.encode("utf-16"),
    ],
    ids=range(13),
)
def test_a_file_that_is_not_json_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    refusal(lambda: load_json(file), "config.json", "JSON")


def test_a_byte_order_mark_is_either_skipped_or_named(file: Path) -> None:
    """Editors on Windows write one; transformers refuses it, and JSON allows to skip it."""
    file.write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}')
    message = refusal_if_any(lambda: load_json(file))
    assert "BOM" in message if message else load_json(file) == {"a": 1}


def test_a_file_that_is_not_there_is_refused(file: Path) -> None:
    refusal(lambda: load_json(file), "config.json", "No such file")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    refusal(lambda: load_json(tmp_path), str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(file: Path) -> None:
    file.write_text("{}")
    file.chmod(0)
    refusal(lambda: load_json(file), "config.json", "Permission denied")


def test_a_loop_of_links_is_refused(file: Path) -> None:
    file.symlink_to(file)
    refusal(lambda: load_json(file), "config.json")


@given(st.binary(max_size=64))
def test_no_bytes_raise_anything_but_our_own_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_bytes(content)
    refusal_if_any(lambda: load_json(file))


# --- kinds


@pytest.mark.parametrize("value", [1, 7, MAX_COUNT])
def test_a_whole_number_is_read(value: int) -> None:
    assert fields(a=value).integer("a") == value


@pytest.mark.parametrize(
    "value", [None, "7", 7.0, 7.5, True, False, [], [7], {}, 0, -1, MAX_COUNT + 1, 10**30]
)
def test_an_integer_out_of_range_is_refused(value: Any) -> None:
    refusal(lambda: fields(a=value).integer("a"), str(PATH), "a is ", "expected a whole number")


@pytest.mark.parametrize("value", [1, 0.5, 1e-300, 1e12])
def test_a_number_is_read_as_a_float(value: float) -> None:
    number = fields(a=value).number("a")
    assert number == value
    assert type(number) is float


@pytest.mark.parametrize(
    "value",
    [None, "1", True, [], {}, 0, 0.0, -1.5, 1.1e12, math.nan, math.inf, -math.inf, 10**400],
    ids=lambda value: str(value)[:8],
)
def test_a_number_out_of_range_is_refused(value: Any) -> None:
    refusal(lambda: fields(a=value).number("a"), str(PATH), "a is ", "expected a number")


@pytest.mark.parametrize("value", ["true", 0, 1, [], {}, 1.0])
def test_a_flag_that_is_not_a_bool_is_refused(value: Any) -> None:
    refusal(lambda: fields(a=value).flag("a", False), str(PATH), "expected true or false")


@pytest.mark.parametrize("value", [None, 0, True, [], {}, ["a"]])
def test_a_text_that_is_not_a_string_is_refused(value: Any) -> None:
    refusal(lambda: fields(a=value).text("a"), str(PATH), "expected a string")


@pytest.mark.parametrize("value", ["a", 0, True, [], [{}]])
def test_a_group_that_is_not_an_object_is_refused(value: Any) -> None:
    refusal(lambda: fields(a=value).group("a"), str(PATH), "expected an object")


@pytest.mark.parametrize("value", ["1", 1.0, True, [1, "2"], [None], [[1]], {}])
def test_a_token_id_of_another_type_is_refused(value: Any) -> None:
    refusal(lambda: fields(a=value).token_ids("a", 9), str(PATH), "expected a token id")


def test_token_ids_come_alone_in_a_list_or_not_at_all() -> None:
    assert fields(a=0).token_ids("a", 9) == (0,)
    assert fields(a=[3, 1]).token_ids("a", 9) == (3, 1)
    assert fields(a=[]).token_ids("a", 9) == ()
    assert fields(a=None).token_ids("a", 9) == fields().token_ids("a", 9) == ()
    assert fields(a=[3, 1]).token_id("a", 9) == 3
    assert fields(a=[]).token_id("a", 9) is None


@pytest.mark.parametrize("outside", [-1, 9, 10**2000])
def test_token_ids_outside_the_vocabulary_are_passed_over(
    outside: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert fields(a=[outside, 8]).token_ids("a", 9) == (8,)
    assert not caplog.messages
    assert fields(a=[outside, 8]).token_ids("a", 9, warns=True) == (8,)
    [message] = caplog.messages
    assert message.startswith(f"{PATH}: a holds the id ")
    assert len(message) < 300


def test_null_counts_as_absent() -> None:
    both = fields(), fields(a=None)
    for one in both:
        assert "a" not in one
        assert one.integer("a", 5) == 5
        assert one.number("a", 0.5) == 0.5
        assert one.flag("a", True) is True
        assert one.text("a", "so") == "so"
        assert one.integer("a", None) is None
        assert one.group("a") is None
    assert "a" in fields(a=0)


@pytest.mark.parametrize("kind", ["integer", "number", "text"])
def test_a_missing_field_without_default_is_called_missing(kind: str) -> None:
    read = getattr(fields(), kind)
    refusal(lambda: read("a"), "a is missing")


@pytest.mark.parametrize("kind", ["integer", "number", "text"])
def test_a_default_does_not_excuse_a_wrong_kind(kind: str) -> None:
    read = getattr(fields(a=[1]), kind)
    refusal(lambda: read("a", None), "a is [1]")


def test_bounds_include_their_ends_as_said() -> None:
    assert fields(a=0).integer("a", low=0) == 0
    assert fields(a=9).integer("a", high=9) == 9
    refusal(lambda: fields(a=10).integer("a", high=9), "from 1 to 9")
    assert fields(a=1.0).number("a", high=1.0) == 1.0
    refusal(lambda: fields(a=0.0).number("a", low=0.0, high=1.0), "above 0, at most 1")


def test_a_prefix_is_part_of_the_name_in_errors() -> None:
    prefixed = Fields(PATH, {"llama.a": "x", "a": 7}, prefix="llama.")
    refusal(lambda: prefixed.integer("a"), "llama.a is 'x'")
    assert "b" not in prefixed


def test_a_field_in_a_group_is_named_with_its_group() -> None:
    inner = fields(rope_scaling={"factor": "x"}).group("rope_scaling")
    assert inner is not None
    refusal(lambda: inner.number("factor"), "rope_scaling", "factor is 'x'")


@pytest.mark.parametrize("value", ["x" * 10_000, list(range(10_000)), "line\nline\r\u2028line"])
def test_a_found_value_is_shown_briefly_and_in_one_line(value: Any) -> None:
    refusal(lambda: fields(a=value).integer("a"))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
                    max_leaves=5))  # fmt: skip
def test_any_value_is_read_or_refused(value: Any) -> None:
    one = fields(a=value)
    for read in (one.integer, one.number, one.text, one.group, lambda a: one.token_ids(a, 9)):
        refusal_if_any(partial(read, "a"))
