"""Compiles the forms of answers for one vocabulary, by llguidance, and keeps them.

Within limits of size and time; whatever llguidance reports as an error, or warns of, is refused.
What a compiled one allows at each place is matcher.py's.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import ConstraintError, CullamaError
from ..process.forks import restart_after_fork
from ..sampling.constraint import Constraint, json_rules
from .matcher import Matcher

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions

MAX_GRAMMAR_SIZE = 20_000  # symbols
COMPILE_SECONDS = 10.0
MAX_COMPILING = 2  # at once
MAX_KEPT = 32  # compiled ones

# JSON is written with these between its parts, as by Python's json.dumps and in most of what models
# have read; no other white space, of which a model could write any amount.
JSON_SPACING: JsonCompileOptions = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
}
JSON_CHARACTERS = '{}[]",:\\-.0123456789truefalsn'

# Of llguidance's errors in schemas that do not name a keyword, what tells them: and the keyword.
UNNAMED = {
    "min/maxProperties": "minProperties or maxProperties",
    "patternProperty": "patternProperties",
    "regex": "pattern",
    "ointer": "$ref",
}

MISSING = (
    "{} needs llguidance, which is not installed; install it with: "
    "pip install 'cullama[structured]'"
)


class Grammars:
    """The compiled constraints of one model.

    Args:
        write_tokenizer: returns the tokenizer as tokenizer.json has it; raises NoTokenizerError.
        vocab_size: of the model's logits.
        eos_ids: the model's end tokens.
    """

    def __init__(
        self, write_tokenizer: Callable[[], str], vocab_size: int, eos_ids: Sequence[int]
    ) -> None:
        self._write_tokenizer, self._vocab_size = write_tokenizer, vocab_size
        # Without one of its own, the last token of the vocabulary stands for it, and for no text.
        self._eos_id = eos_ids[0] if eos_ids else vocab_size - 1
        self._vocabulary: LLTokenizer | None = None
        self._begin()
        restart_after_fork(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._vocabulary_lock = threading.Lock()
        self._slots = threading.Semaphore(MAX_COMPILING)
        self._compiled: dict[Constraint, Future[LLMatcher]] = {}

    def after_fork(self) -> None:
        self._begin()

    def warm_up(self) -> None:
        """Read the vocabulary now, which takes up to a second, where there is one to read."""
        with suppress(CullamaError):
            self._load_vocabulary("")

    def has(self, constraint: Constraint) -> bool:
        """Whether `check` would return at once."""
        with self._lock:
            found = self._compiled.get(constraint)
            return found is not None and found.done()

    def check(self, constraint: Constraint) -> None:
        """Compile a constraint, unless it is kept already.

        Raises:
            ConstraintError: it is wrong, not supported or too large; or the vocabulary cannot write
                it; or llguidance is not installed.
            NoTokenizerError: the model came without a tokenizer.
        """
        self._state(constraint)

    def matcher(self, constraint: Constraint, end_ids: frozenset[int]) -> Matcher:
        """Return a matcher at the beginning of a constraint. Raises as `check`."""
        return self._matcher(self._state(constraint), constraint, end_ids)

    def _matcher(
        self, state: LLMatcher, constraint: Constraint, end_ids: frozenset[int]
    ) -> Matcher:
        own = state.deep_copy()
        return Matcher(own, constraint.kind, end_ids, self._eos_id, self._vocab_size)

    def _state(self, constraint: Constraint) -> LLMatcher:
        kind = constraint.kind
        self._load_vocabulary(kind)  # which may take seconds, once
        with self._lock:
            future = self._compiled.pop(constraint, None)
            is_new = future is None
            if future is None:
                future = Future()
            self._compiled[constraint] = future  # the newest
            if len(self._compiled) > MAX_KEPT:
                del self._compiled[next(iter(self._compiled))]
        if is_new:
            threading.Thread(
                target=self._compile, args=(constraint, future), name="grammar", daemon=True
            ).start()
        try:
            return future.result(COMPILE_SECONDS)
        except ConstraintError as error:
            raise ConstraintError(error.param, str(error)) from None
        except FutureTimeoutError:
            future.cancel()
            with self._lock:
                if self._compiled.get(constraint) is future:
                    del self._compiled[constraint]
            words = f"{kind} takes more than {COMPILE_SECONDS:g} s to compile; make it simpler"
            raise ConstraintError(kind, words) from None

    def _load_vocabulary(self, param: str) -> LLTokenizer:
        with self._vocabulary_lock:
            if self._vocabulary is None:
                try:
                    from llguidance import LLTokenizer
                except ImportError:
                    raise ConstraintError(param, MISSING.format(param)) from None
                written = self._write_tokenizer()
                try:
                    self._vocabulary = LLTokenizer(
                        written, n_vocab=self._vocab_size, eos_token=self._eos_id
                    )
                except Exception as error:  # of its Rust code, of any kind
                    words = f"{param} cannot be had of this model: its tokenizer is not supported"
                    raise ConstraintError(param, f"{words} ({error})"[:300]) from None
            return self._vocabulary

    def _compile(self, constraint: Constraint, future: Future[LLMatcher]) -> None:
        with self._slots:
            if not future.set_running_or_notify_cancel():
                return  # it waited for too long
            try:
                future.set_result(self._compile_now(constraint))
            except BaseException as error:  # of Rust code, too: it must reach who waits
                known = error if isinstance(error, ConstraintError) else None
                words = f"{constraint.kind} cannot be compiled: {type(error).__name__}"
                future.set_exception(known or ConstraintError(constraint.kind, words))

    def _compile_now(self, constraint: Constraint) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        kind = constraint.kind
        vocabulary = self._load_vocabulary(kind)
        limits = LLParserLimits(max_grammar_size=MAX_GRAMMAR_SIZE, verbose_errors=False)
        try:
            grammar = _grammar(constraint)
        except ValueError as error:
            raise ConstraintError(kind, f"{kind} cannot be compiled: {error}") from None
        state = LLMatcher(vocabulary, grammar, log_level=0, limits=limits)
        problems = [state.get_error()] if state.is_error() else state.get_grammar_warnings()
        if problems:
            raise ConstraintError(kind, f"{kind} cannot be compiled: {_worded(problems[0], kind)}")
        self._check_characters(constraint, state.compute_ff_bytes())
        try:
            self._matcher(state, constraint, frozenset()).masks()
        except ConstraintError:
            circle = ", as where a $ref leads to itself" if kind == "json_schema" else ""
            words = f"{kind} allows no answer that this model's vocabulary can write{circle}"
            raise ConstraintError(kind, words) from None
        return state

    def _check_characters(self, constraint: Constraint, forced: bytes) -> None:
        """Check that the vocabulary has what the answer needs. Raises ConstraintError."""
        needed = forced.decode("utf-8", "ignore")
        if constraint.kind in ("json_schema", "json_object"):
            needed += JSON_CHARACTERS
        elif constraint.kind == "choice":
            needed += "".join(json.loads(constraint.text))
        vocabulary = self._load_vocabulary(constraint.kind)
        missing = [
            character
            for character in dict.fromkeys(needed)
            if vocabulary.decode_bytes(vocabulary.tokenize_str(character)) != character.encode()
        ]
        if missing:
            words = f"this model's vocabulary cannot write {' '.join(missing[:12])}"
            raise ConstraintError(constraint.kind, f"{words}, which {constraint.kind} needs")


def _grammar(constraint: Constraint) -> str:
    """Return a constraint in llguidance's own form."""
    from llguidance import LLMatcher

    kind, text = constraint
    if kind == "regex":
        return LLMatcher.grammar_from_regex(text)
    if kind == "choice":
        choices = (json.dumps(each, ensure_ascii=False) for each in json.loads(text))
        return LLMatcher.grammar_from_lark(f"start: {' | '.join(choices)}")
    if kind == "grammar":
        texts, schemas = json_rules(text)
        spaced = [
            json.dumps({**json.loads(schema), "x-guidance": JSON_SPACING}, ensure_ascii=False)
            for schema in schemas
        ]
        parts = [part for pair in zip(texts, [*spaced, ""], strict=True) for part in pair]
        return LLMatcher.grammar_from_lark("".join(parts))
    schema = text if kind == "json_schema" else '{"type": "object"}'
    return LLMatcher.grammar_from_json_schema(schema, overrides=JSON_SPACING)


def _worded(problem: str, kind: str) -> str:
    """Return llguidance's words in one line, with the keyword that they do not name."""
    words = " ".join(problem.replace("<non-verbose/>", "").split())[:300]
    names = (keyword for hint, keyword in UNNAMED.items() if hint in words)
    keyword = next(names, None) if kind == "json_schema" else None
    return words if keyword is None else f"{keyword}: {words}"
