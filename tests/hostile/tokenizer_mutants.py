"""Valid tokenizer.json files, changed at random with an eye to their structure.

Changes are of JSON's structure, and of what has made the `tokenizers` library fail before; what a
change means is not known. The same seed gives the same mutants.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import hostile_tokenizers as hostile

REAL = Path(__file__).resolve().parents[1] / "fixtures" / "text" / "tokenizer.json"

Place: TypeAlias = tuple[Any, Any]  # a dict or list, and a key or index of it

NUMBERS = [0, 1, -1, 2, 255, 256, 65_535, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 63, 1 << 64, 10**30]
FLOATS = [0.5, -0.0, 1e308, -1e308, 1e-320, 2.0]
TEXTS = ["", "a", "▁", " ", "\0", "\ufffd", "🦙", "漢字", "<s>", "##", "a" * 300, "é" * 5000, "\n"]
PATTERNS = [
    *("", "(", "a*", ".", r"\s+", "(a+)+$", "(a|a)*b", "(?:a?){25}a{25}", "((a{0,99}){0,99}){0,9}"),
    *(r"(?<x>a\g<x>?b?)", "(?~a)", r"\G", "(?=a)", "(?<!a)", r"(.*)\1", r"\X", "[^a]", "^", "$"),
    *(r"\p{L}+", "(?i:ſ)", "(" * 300 + ")" * 300, "a{99999}", r"\K", "(?>a+)+", "|", "a||b"),
]

# What fits into each slot of a tokenizer.
PARTS: dict[str, list[Any]] = {
    "normalizer": [
        *({"type": kind} for kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt")),
        *({"type": kind} for kind in ("StripAccents", "ByteLevel")),
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Strip", "strip_left": True, "strip_right": True},
        hostile.VALID["word pieces"]["normalizer"],
        hostile.replace(hostile.text("a"), "aa"),
        hostile.replace(hostile.regex("a*"), "ab"),
        hostile.charsmap([0] * 256, b"a\0b\0"),
    ],
    "pre_tokenizer": [
        *({"type": kind} for kind in ("Whitespace", "WhitespaceSplit", "UnicodeScripts")),
        {"type": "BertPreTokenizer"},
        hostile.BYTE_LEVEL,
        hostile.METASPACE,
        {"type": "FixedLength", "length": 3},
        {"type": "CharDelimiterSplit", "delimiter": "a"},
        {"type": "Punctuation", "behavior": "MergedWithNext"},
        {"type": "Digits", "individual_digits": False},
        hostile.split(hostile.regex("(a|b)"), "MergedWithPrevious"),
        hostile.split(hostile.regex("a+"), "Contiguous", invert=True),
        hostile.split(hostile.text("a"), "Removed", invert=True),
    ],
    "post_processor": [
        hostile.BYTE_LEVEL,
        hostile.template([hostile.BEGIN, hostile.A]),
        hostile.template([hostile.A, hostile.BEGIN], ids=(1, 2)),
        {"type": "BertProcessing", "sep": ["<s>", 1], "cls": ["</s>", 2]},
        {
            "type": "RobertaProcessing",
            "sep": ["<s>", 1],
            "cls": ["</s>", 2],
            "trim_offsets": True,
            "add_prefix_space": True,
        },
    ],
    "decoder": [
        *({"type": kind} for kind in ("Fuse", "ByteFallback")),
        hostile.BYTE_LEVEL,
        hostile.METASPACE,
        {"type": "Strip", "content": "a", "start": 1, "stop": 1},
        {"type": "CTC", "pad_token": "a", "word_delimiter_token": " ", "cleanup": True},
        {"type": "BPEDecoder", "suffix": "b"},
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        hostile.replace(hostile.text("▁"), " "),
        hostile.replace(hostile.regex("a*"), "b"),
    ],
}
SEQUENCES = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}
COMPONENTS = [part for parts in PARTS.values() for part in parts]


def mutant(sources: Sequence[bytes], number: int, seed: int) -> bytes:
    """The mutant of that number: a valid file with one to four changes."""
    random = Random(f"{seed}/{number}")
    content = random.choice(sources)
    if random.random() < 0.05:
        return _cut_or_flipped(content, random)
    document = json.loads(content)
    # Anything anywhere mostly breaks the format; what keeps to it gets further into the library.
    change = random.choice([_change, _compose])
    for _ in range(random.randint(1, 3)):
        change(document, random)
    return json.dumps(document, ensure_ascii=random.random() < 0.5).encode(errors="replace")


def _cut_or_flipped(content: bytes, random: Random) -> bytes:
    if random.random() < 0.5:
        return content[: random.randrange(len(content))]
    flipped = bytearray(content)
    for _ in range(random.randint(1, 5)):
        flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
    return bytes(flipped)


def _change(document: Any, random: Random) -> None:
    where, key = random.choice(_places(document, random))
    value = where[key]
    other, other_key = random.choice(_places(document, random))
    changes: list[Callable[[], object]] = [
        lambda: where.__delitem__(key),
        lambda: where.__setitem__(key, copy.deepcopy(other[other_key])),
        lambda: where.__setitem__(key, copy.deepcopy(random.choice(COMPONENTS))),
        lambda: where.__setitem__(key, _sequence(value, random)),
        lambda: _repeat(where, value, random),
        *[lambda: where.__setitem__(key, _other(value, random))] * 5,
    ]
    random.choice(changes)()


def _compose(document: Any, random: Random) -> None:
    """Fill a slot with parts that fit there, or change a pattern, a text, a flag of one."""
    slot = random.choice(list(PARTS))
    if random.random() < 0.2:
        return _add_token(document, random)
    parts = [_varied(part, random) for part in random.choices(PARTS[slot], k=random.randint(1, 4))]
    is_one = len(parts) == 1 and random.random() < 0.5
    document[slot] = parts[0] if is_one else {"type": "Sequence", SEQUENCES[slot]: parts}
    return None


def _varied(part: Any, random: Random) -> Any:
    """The same kinds of values, and others in half of the places."""
    if isinstance(part, dict):
        keep = (
            "type",
            "id",
            "behavior",
            "prepend_scheme",
            "precompiled_charsmap",
            "special_tokens",
        )
        return {
            key: value if key in keep else _varied(value, random) for key, value in part.items()
        } | ({"Regex": random.choice(PATTERNS)} if "Regex" in part else {})
    if isinstance(part, list):
        return [_varied(value, random) for value in part]
    if random.random() < 0.5:
        return part
    if isinstance(part, str) and len(part) == 1:
        return random.choice(["a", " ", "\0", "🦙", "\ufffd", "▁"])
    if isinstance(part, str):
        return random.choice(TEXTS)
    if isinstance(part, bool):
        return not part
    return random.randint(0, 5)


def _add_token(document: Any, random: Random) -> None:
    flags = ("single_word", "lstrip", "rstrip", "special", "normalized")
    changes = {flag: random.random() < 0.5 for flag in flags}
    content, index = random.choice(TEXTS[1:]), random.randint(100, 200)
    tokens = document.get("added_tokens")
    document["added_tokens"] = [*(tokens or ()), hostile.added(content, index, **changes)]


def _places(document: Any, random: Random) -> list[Place]:
    """Every place that holds a value; of a long vocabulary, a few."""
    inner = document.items() if isinstance(document, dict) else enumerate(document)
    entries = list(inner)
    if len(entries) > 40:
        entries = random.sample(entries, 5)
    places: list[Place] = [(document, key) for key, _ in entries]
    for _, value in entries:
        if isinstance(value, dict | list):
            places += _places(value, random)
    return places


def _sequence(value: Any, random: Random) -> Any:
    kind = random.choice(["normalizers", "pretokenizers", "processors", "decoders"])
    parts = [copy.deepcopy(random.choice(COMPONENTS)) for _ in range(random.randint(0, 3))]
    return {"type": "Sequence", kind: [value, *parts] * random.choice([1, 1, 1, 3, 20])}


def _repeat(where: Any, value: Any, random: Random) -> None:
    if isinstance(where, list):
        where.extend([value] * random.choice([1, 5, 50, 500]))
    else:
        where[random.choice(TEXTS)] = value


def _other(value: Any, random: Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return random.choice([*NUMBERS, *FLOATS, value + 1, -value, str(value)])
    if isinstance(value, str):
        return random.choice([*TEXTS, *PATTERNS, value * 2, value[:-1], value + "\ufdfa"])
    return random.choice([None, {}, [], 1, "a", True, [value], {"type": value}])


def sources() -> Iterator[bytes]:
    for valid in hostile.VALID.values():
        yield json.dumps(valid).encode()
    yield REAL.read_bytes()
