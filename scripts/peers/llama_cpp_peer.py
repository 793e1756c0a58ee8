"""llama.cpp as a peer, through the C functions that llama-cpp-python exposes.

Its settings are its fastest: the file mapped into memory, weights repacked where it has kernels for
that, a float16 cache, prompts in chunks of 512, logits of the last token only, with flash attention
or without. llama-cpp-python's own classes are not used.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, NamedTuple

import numpy as np

try:
    import llama_cpp
except ImportError:
    raise SystemExit(
        f"llama.cpp is measured through llama-cpp-python, which {sys.executable} does not have: "
        f"{sys.executable} -m pip install llama-cpp-python (it is compiled, which takes minutes), "
        "or leave it out: --peers cullama"
    ) from None

CHUNK = 512  # tokens of a prompt in one pass
CELLS = 256  # llama.cpp reads its KV cache in units of so many tokens
ERROR = 4  # GGML_LOG_LEVEL_ERROR

FLASH = {"flash attention": 1, "no flash attention": 0, "its own choice": -1}


class BatchToken(NamedTuple):
    """A token of a batch."""

    token: int
    position: int
    sequence: int
    is_last: bool  # of its sequence, so that its logits are computed


class LlamaCpp:
    variants: tuple[str, ...] = ("flash attention", "no flash attention")

    def __init__(self, model: str, threads: int) -> None:
        llama_cpp.llama_log_set(_PRINT_ERROR, None)
        llama_cpp.llama_backend_init()
        self._model = _load(model)
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._batch = llama_cpp.llama_batch_init(CHUNK, 0, 1)
        self._contexts: dict[tuple[str, int, int], Any] = {}
        self._threads, self._variant = threads, "its own choice"
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        self.description = f"llama-cpp-python {llama_cpp.__version__} · {_instruction_sets()}"

    def use(self, variant: str) -> None:
        self._variant = variant

    def encode(self, text: str) -> list[int]:
        data = text.encode()
        ids = (llama_cpp.llama_token * (len(data) + 2))()
        count = llama_cpp.llama_tokenize(
            self._vocabulary, data, len(data), ids, len(ids), True, False
        )
        return list(ids[:count])

    def begin(self, prompts: list[list[int]], tokens: int) -> None:
        room = -(-(len(prompts[0]) + tokens) // CELLS) * CELLS
        self._context = self._context_for(len(prompts), room)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        self._sequences, self._read = [list(prompt) for prompt in prompts], 0

    def step(self) -> None:
        entries = [
            BatchToken(token, position, sequence, position == len(text) - 1)
            for sequence, text in enumerate(self._sequences)
            for position, token in enumerate(text[self._read :], self._read)
        ]
        self._read = len(self._sequences[0])
        for start in range(0, len(entries), CHUNK):
            self._decode(entries[start : start + CHUNK])

    def _decode(self, entries: list[BatchToken]) -> None:
        """Run a pass; append the most likely token to each sequence whose last token is in it."""
        batch = self._batch
        batch.n_tokens = len(entries)
        for index, entry in enumerate(entries):
            batch.token[index], batch.pos[index] = entry.token, entry.position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, entry.sequence
            batch.logits[index] = entry.is_last
        if status := llama_cpp.llama_decode(self._context, batch):
            raise SystemExit(f"llama.cpp: llama_decode gave {status}, expected 0")
        for index, entry in enumerate(entries):
            if entry.is_last:
                self._sequences[entry.sequence].append(self._most_likely(index))

    def _most_likely(self, index: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, index)
        return int(np.ctypeslib.as_array(logits, (self.vocabulary,)).argmax())

    def _context_for(self, sequences: int, room: int) -> Any:
        """Return a context, kept from an earlier run if there is one: its first pass is slow."""
        key = (self._variant, sequences, room)
        if key not in self._contexts:
            self._contexts[key] = self._new_context(sequences, room)
        return self._contexts[key]

    def _new_context(self, sequences: int, room: int) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = sequences * room, sequences
        params.n_batch = params.n_ubatch = CHUNK
        params.n_threads = params.n_threads_batch = self._threads
        params.flash_attn_type = FLASH[self._variant]
        params.offload_kqv = params.op_offload = False
        context = llama_cpp.llama_init_from_model(self._model, params)
        if context is None:
            raise SystemExit(f"llama.cpp: no context of {sequences} × {room} tokens; see above")
        return context


def _load(model: str) -> Any:
    if not model.endswith(".gguf"):
        raise SystemExit(
            f"llama.cpp: {model} is no GGUF file, expected one; leave it out: --peers cullama"
        )
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    loaded = llama_cpp.llama_model_load_from_file(model.encode(), params)
    if loaded is None:
        raise SystemExit(f"llama.cpp: {model} cannot be loaded; what it said stands above")
    return loaded


def _instruction_sets() -> str:
    """Those it was compiled for: "CPU : AVX2 = 1 | NEON = 0 | …" → "AVX2"."""
    facts = llama_cpp.llama_print_system_info().decode().rpartition(":")[2].split("|")
    return " ".join(fact.split()[0] for fact in facts if fact.strip().endswith("= 1"))


def _print_error(level: int, text: bytes, data: object) -> None:
    if level == ERROR:
        sys.stderr.write(text.decode(errors="replace"))


# Kept for as long as the library may call it.
_PRINT_ERROR = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_print_error)
