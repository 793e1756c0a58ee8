"""Probes a tokenizer.json: can the `tokenizers` library load it and encode texts within bounds?

`tokenizer_file.py` runs this file as a child process, because the library aborts the whole process
when memory runs out, and cannot be interrupted. It reads the file's bytes from standard input,
prints each step before it is taken, and at the end a verdict. It imports nothing of cullama, so
that the process starts in a few hundredths of a second.

Rules come first, for what encoding a few texts cannot find; then texts. A component of an unknown
kind is not refused: it is held to the bounds for all components, and to the texts.
"""

from __future__ import annotations

import base64
import json
import math
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NoReturn

VALID, REFUSED, AT = "valid", "refused: ", "at: "  # how lines of output begin

# Far above what published tokenizers hold, and low enough to be harmless.
MAX_DEPTH = 32  # levels of JSON
MAX_TOKEN_ID = 1 << 24
MAX_TOKEN_LENGTH = 1024  # characters
MAX_PATTERN_LENGTH = 1 << 14
MAX_STRING_LENGTH = 256  # of any other string in a component
MAX_LIST_LENGTH = 256  # in any list of a component
MAX_GROWTH = 64  # bytes that a normaliser may make of one byte
RANGES = {  # of numbers in components, by their names
    "length": (1, 1 << 16),  # FixedLength: 0 panics
    "start": (0, 1024),
    "stop": (0, 1024),  # Strip
    "max_input_chars_per_word": (1, 1024),  # WordPiece takes its square
}
PIPELINE = ("normalizer", "pre_tokenizer")  # applied to a text before the model
COMPONENTS = (*PIPELINE, "post_processor", "decoder")

RUN = 3000  # characters of a probe text: enough to expose exponential time


class UnsafeTokenizerError(Exception):
    """The file is refused; the message follows the file's name."""


def main(seconds: int, size: int) -> None:
    """Probe the tokenizer.json on standard input; print steps and verdict on standard output."""
    content = sys.stdin.buffer.read()
    limit_resources(seconds, size)
    try:
        for step in probe(content):
            print(AT + step, flush=True)
        verdict = VALID
    except UnsafeTokenizerError as error:
        verdict = REFUSED + str(error)
    except MemoryError:
        verdict = f"{REFUSED}it takes more than {size >> 20:,} MiB of memory to load"
    print(" ".join(verdict.encode(errors="replace").decode().split()), flush=True)


def limit_resources(seconds: int, size: int) -> None:
    """Limit this process to so many seconds of CPU and bytes of address space; no core dumps."""
    import resource  # here, because Windows has none

    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, size),
    ):
        with suppress(ValueError, OSError):  # macOS has no limit of memory
            resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))


def probe(content: bytes) -> Iterator[str]:
    """Run all steps, yielding the name of each before it is taken.

    Raises:
        UnsafeTokenizerError: the file breaks a rule, or the library fails on it.
    """
    yield "reading its JSON"
    document = parsed(content)
    yield "checking its settings"
    check(document)
    yield "loading it"
    tokenizer = _loaded(content)
    for name, text in probe_texts(document):
        yield f"encoding {name}"
        _encode(tokenizer, name, text)
        # The first text is encoded as a template's, with special tokens; the others as users'.
        tokenizer.encode_special_tokens = True
    yield "decoding its tokens"
    size = tokenizer.get_vocab_size()
    # A sample, because a panic at a token in use is caught there, too.
    _decode_ids(tokenizer, list(range(0, size, max(1, size // RUN))))
    for index in range(0, size, max(1, size // 500)):
        _decode_ids(tokenizer, [index])


# ------------------------------------------------------------------------------------------ JSON


def parsed(content: bytes) -> dict[str, Any]:
    """Parse a JSON object, refusing what JSON parsers disagree about."""
    try:
        document = json.loads(
            content.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON
        raise UnsafeTokenizerError(f"cannot be read as JSON: {error}") from None
    if not isinstance(document, dict):
        raise UnsafeTokenizerError(f"holds a {type(document).__name__}, expected a JSON object")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise UnsafeTokenizerError(f"key {twice[:80]!r} is given twice, expected once")
    return found


def _refuse_constant(word: str) -> NoReturn:
    raise UnsafeTokenizerError(f"holds {word}, expected finite numbers")


# ------------------------------------------------------------------------------------------- rules


def check(document: dict[str, Any]) -> None:
    """Check the bounds that encoding a few texts cannot.

    Raises:
        UnsafeTokenizerError: names the setting, what it is, and what was expected.
    """
    _check_ids(document)
    model = document.get("model")
    if isinstance(model, dict):
        rest = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
        _check_component("model", rest)
    for name in COMPONENTS:
        _check_component(name, document.get(name))
    _check_growth(PIPELINE, document)
    _check_growth(("decoder",), document)


def _fail(where: str, found: object, expected: str) -> NoReturn:
    raise UnsafeTokenizerError(f"{where} is {_short(found)}, expected {expected}")


def _short(value: object) -> str:
    if isinstance(value, str) and len(value) > 80:
        return f"{len(value):,} characters long"
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _check_ids(document: dict[str, Any]) -> None:
    """Check that each token has an id of its own; otherwise the model would read another token."""
    contents: dict[int, str] = {}
    for where, content, index in _tokens(document):
        low = 1 if where == "added_tokens" else 0  # vocabularies hold empty filler tokens
        if not isinstance(content, str) or not low <= len(content) <= MAX_TOKEN_LENGTH:
            _fail(f"{where}: a token", content, f"{low} to {MAX_TOKEN_LENGTH:,} characters")
        if type(index) is not int or not 0 <= index < MAX_TOKEN_ID:
            expected = f"a whole number below {MAX_TOKEN_ID:,}"
            _fail(f"{where}: the id of token {_short(content)}", index, expected)
        if contents.setdefault(index, content) != content:
            both = f"{_short(contents[index])} and {_short(content)}"
            raise UnsafeTokenizerError(
                f"{where}: id {index} is that of {both}, expected of one token"
            )


def _tokens(document: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield place, content and id of every token."""
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        yield from (("model.vocab", content, index) for content, index in vocabulary.items())
    if isinstance(vocabulary, list):  # Unigram: the index is the id
        for index, entry in enumerate(vocabulary):
            yield "model.vocab", entry[0] if isinstance(entry, list) and entry else entry, index
    added = document.get("added_tokens")
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, dict):
            yield "added_tokens", entry.get("content"), entry.get("id")


def _check_component(where: str, value: Any, depth: int = 1) -> None:
    """Check bounds of all values in a component, whether its kind is known here or not."""
    if depth > MAX_DEPTH:
        raise UnsafeTokenizerError(
            f"{where[:80]} is nested more than {MAX_DEPTH} deep, expected settings"
        )
    name = where.rpartition(".")[2]
    if isinstance(value, str) and name == "precompiled_charsmap":
        _check_charsmap(where, value)
    elif isinstance(value, str):
        limit = MAX_PATTERN_LENGTH if name in ("Regex", "String") else MAX_STRING_LENGTH
        if len(value) > limit:
            _fail(where, value, f"at most {limit:,}")
    elif isinstance(value, int | float):
        low, high = RANGES.get(name, (-(1 << 31), 1 << 31))
        if not math.isfinite(value) or not low <= value <= high:
            _fail(where, value, f"a number from {low:,} to {high:,}")
    elif isinstance(value, dict | list):
        if len(value) > MAX_LIST_LENGTH:
            raise UnsafeTokenizerError(
                f"{where} holds {len(value):,}, expected at most {MAX_LIST_LENGTH}"
            )
        if isinstance(value, dict) and value.get("type") == "TemplateProcessing":
            _check_template(where, value.get("single"))
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            _check_component(f"{where}.{str(key)[:40]}", part, depth + 1)


def _check_charsmap(where: str, text: str) -> None:
    """Check SentencePiece's table: the size of a trie, the trie, and zero-terminated strings."""
    try:
        table = base64.b64decode(text, validate=True)
        [size] = struct.unpack_from("<I", table)
    except (ValueError, struct.error):
        raise UnsafeTokenizerError(
            f"{where} is not a table, expected one of SentencePiece's"
        ) from None
    if not 0 < size <= len(table) - 4 or size % 4:
        raise UnsafeTokenizerError(
            f"{where} has a trie of {size:,} bytes, expected 4 to {max(4, len(table) - 4):,}"
        )
    longest = max(map(len, table[4 + size :].split(b"\0")))
    if longest > MAX_STRING_LENGTH:
        raise UnsafeTokenizerError(
            f"{where} replaces a character by {longest:,} bytes, "
            f"expected at most {MAX_STRING_LENGTH}"
        )


def _check_template(where: str, pieces: Any) -> None:
    """Check that a template holds the text once: each repetition would multiply its tokens."""
    if not isinstance(pieces, list):
        return
    texts = [
        piece["Sequence"] for piece in pieces if isinstance(piece, dict) if "Sequence" in piece
    ]
    if len(texts) != 1 or not isinstance(texts[0], dict) or texts[0].get("id") != "A":
        _fail(f"{where}.single", pieces, "a template that holds the text A once")


def _check_growth(names: tuple[str, ...], document: dict[str, Any]) -> None:
    growth = 1.0
    for component in _components([document.get(name) for name in names]):
        growth *= _growth(component)
    if growth > MAX_GROWTH:
        raise UnsafeTokenizerError(
            f"{' and '.join(names)} can make a text {growth:,.0f} times as long, "
            f"expected at most {MAX_GROWTH} times"
        )


def _components(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict) and "type" in value:
        yield value
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            yield from _components(inner)


def _growth(component: dict[str, Any]) -> float:
    """Return by how much a component can lengthen a text, at most."""
    kind, pattern = component.get("type"), component.get("pattern")
    if kind == "ByteLevel":
        return 2.0  # most bytes become a character of two bytes
    if kind != "Replace":
        return 1.0
    content = len(str(component.get("content")).encode(errors="replace"))
    text = pattern.get("String") if isinstance(pattern, dict) else None
    replaced = len(text.encode(errors="replace")) if isinstance(text, str) else 0
    # A regular expression may match the empty string, between any two bytes.
    return max(1.0, content / replaced if replaced else 1.0 + content)


# ----------------------------------------------------------------------------------- probe texts


def probe_texts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield names and texts that have made tokenizers fail or hang."""
    added = [content for where, content, _ in _tokens(document) if where == "added_tokens"]
    yield "its added tokens", "".join(added)[:RUN]
    yield "nothing", ""
    yield "a sentence", "It's 10:45 o'clock; naïve HTTPServers aren't  there…\r\n\t<s>[INST]</s>\n"
    places = (place for place in range(0, 0x110000, 997) if not 0xD800 <= place < 0xE000)
    yield "characters from all of Unicode", " ".join(map(chr, places))
    yield "noncharacters", "\0\ufeff\ufffe\uffff\ufffd\u202e\u200d\U0010ffff\x7f\x85\ufdfa" * 20
    yield "a long text", "the quick brown fox, " * (RUN // 21)
    for name, character in RUNS.items():
        yield f"{name}, repeated", character * RUN
    tokens = sorted({content for _, content, _ in _tokens(document)}, key=len)[-3:]
    for token in tokens:
        yield "its longest tokens", token * (RUN // max(1, len(token)))


RUNS = {
    "a letter": "a",
    "two letters": "ab",
    "a space": " ",
    "a digit": "0",
    "an exclamation mark": "!",
    "a line's end": "\n",
    "a Chinese character": "漢",
    "a ligature": "\ufdfa",  # which NFKC expands to 18 characters
    "an emoji": "🦙",
    "an accent": "\u0301",
}


def _loaded(content: bytes) -> Any:
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
    except BaseException as error:  # a panic of the library is no Exception
        raise UnsafeTokenizerError(f"not a valid tokenizer: {error}"[:300]) from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _encode(tokenizer: Any, name: str, text: str) -> None:
    try:
        ids = tokenizer.encode(text).ids
    except Exception:  # no token for a character: reported when a user's text has one
        return
    except BaseException as error:
        raise UnsafeTokenizerError(f"the library panics at {name}: {error}"[:300]) from None
    if len(ids) > MAX_GROWTH * (len(text.encode()) + MAX_STRING_LENGTH):
        raise UnsafeTokenizerError(
            f"makes {len(ids):,} tokens of {len(text):,} characters, expected about as many"
        )
    _decode_ids(tokenizer, ids)


def _decode_ids(tokenizer: Any, ids: list[int]) -> None:
    try:
        tokenizer.decode(ids)
    except BaseException as error:
        raise UnsafeTokenizerError(f"the library fails to decode tokens: {error}"[:300]) from None


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
