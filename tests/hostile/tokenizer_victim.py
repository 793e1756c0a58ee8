"""A process that hostile tokenizers may kill: it loads each, encodes texts with it, and prints the
outcome.

It takes names of folders from standard input, one a line, and answers with JSON lists: the folder,
what it is at or what came out, a message. Or, started with --mutants, it takes files in
hexadecimal digits, one a line, tries each in this very process, within the limits of a probe, and
answers "passed" when that is survived, and in the end what came out and a message. Started with
--metadata it takes a GGUF file's fields, one JSON list of a name and an object a line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import tokenizers

from cullama.checkpoint import tokenizer_file, tokenizer_probe
from cullama.checkpoint.gguf_tokenizer import build_tokenizer
from cullama.checkpoint.opening import open_checkpoint
from cullama.errors import CullamaError, ModelError
from cullama.text.tokenizer import Detokenizer, Tokenizer

EVERYTHING = "".join(map(chr, [*range(0, 0xD800, 31), *range(0xE000, 0x110000, 1013)]))
TEXTS = [
    "",
    "Once upon a time",
    "a" * 10_000,
    "ab " * 3000,
    "\0\ufeff\u202e\ufffe\ufdfa" * 500,
    EVERYTHING,
    "<s></s><unk> zz z",
    " \n\t\r" * 500,
    "\ud800",
]
IDS = [*range(50), 100, 99_999, (1 << 32) - 1]
SLOW = 5.0  # seconds


def use(tokenizer: Tokenizer) -> None:
    """Use it in every way a user or a model can; raises what is not a CullamaError."""
    for text in TEXTS:
        for allow_special in (False, True):
            with suppress(CullamaError):
                ids = tokenizer.encode(text, allow_special=allow_special)
                tokenizer.decode(ids[:1000])
    for ids in (IDS, [], [-1], [1 << 40]):
        with suppress(CullamaError):
            tokenizer.decode(ids)
        with suppress(CullamaError):
            detokenizer = Detokenizer(tokenizer, ids)
            for token in ids:
                detokenizer.add(token)


def outcome_of(load: Callable[[], tokenizers.Tokenizer]) -> tuple[str, str]:
    """ "refused", "harmless", "slow" or "raised", and the message."""
    started = time.perf_counter()
    try:
        tokenizer = Tokenizer(load())
        use(tokenizer)
    except ModelError as error:
        return "refused", str(error)
    except BaseException as error:
        return "raised", f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - started
    return ("slow" if seconds > SLOW else "harmless"), f"{seconds:.1f} s"


def outcome_of_mutant(content: bytes) -> str:
    try:
        for _ in tokenizer_probe.probe(content):
            pass
    except tokenizer_probe.UnsafeTokenizerError as error:
        return f"refused {error}"
    print("passed", flush=True)
    try:
        use(Tokenizer(tokenizer_file._loaded(Path("mutant"), content)))
    except BaseException as error:
        return f"raised {type(error).__name__}: {error}"
    return "used"


def take_mutants() -> None:
    tokenizer_probe.limit_resources(24 * 3600, tokenizer_file.PROBE_MEMORY)
    for line in sys.stdin.buffer:
        answer = outcome_of_mutant(bytes.fromhex(line.decode()))
        print(" ".join(answer.encode(errors="replace").decode().split()), flush=True)


def tell(name: str, outcome: str, message: str = "") -> None:
    print(json.dumps([name, outcome, message]), flush=True)


def take_folders() -> None:
    for line in sys.stdin:
        name = line.rstrip("\n")
        tell(name, "began")
        tell(name, *outcome_of(open_checkpoint(Path(name)).load_tokenizer))


def take_metadata() -> None:
    for line in sys.stdin:
        name, fields = json.loads(line)
        metadata = {f"tokenizer.ggml.{key}": value for key, value in fields.items()}
        tell(name, "began")
        tell(name, *outcome_of(partial(build_tokenizer, metadata)))


if __name__ == "__main__":
    modes = {"--mutants": take_mutants, "--metadata": take_metadata, "--folders": take_folders}
    modes[sys.argv[1]]()
