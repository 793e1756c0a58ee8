"""The default KV cache keeps within the memory that the process may use."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine

from cullama import LLM
from cullama.cpu import backend
from cullama.engine.cache_size import MIN_TOKENS
from cullama.errors import ContextLengthError, HostMemoryError, UsageError


def cache_tokens(llm: LLM) -> int:
    return llm.engine.capacity.cache_tokens


def limit_memory(monkeypatch: pytest.MonkeyPatch, limit: int, available: int) -> None:
    monkeypatch.setattr(backend, "memory_limit", lambda: limit)
    monkeypatch.setattr(backend, "available_memory", lambda **options: available)


@pytest.fixture
def token_bytes(tiny_model: Path) -> int:
    with LLM(tiny_model) as llm, llm.engine.exclusive() as access:
        return access.ops.cache_bytes_per_token(llm.config)


def test_the_default_cache_takes_a_quarter_of_what_the_process_may_have(
    tiny_model: Path, token_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, 4 * 1024 * token_bytes, 10**12)
    with LLM(tiny_model) as llm:
        assert cache_tokens(llm) == 1024


def test_the_default_cache_takes_half_of_what_is_left(
    tiny_model: Path, token_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, 10**12, 2 * 1024 * token_bytes)
    with LLM(tiny_model) as llm:
        assert cache_tokens(llm) == 1024


def test_a_cache_smaller_than_the_context_is_said_to_be(
    write_model: Any,
    tmp_path: Path,
    tokenizer_file: Path,
    token_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where it held a whole context all the same, a container was killed as the cache filled up."""
    folder = write_model(tmp_path / "m", tokenizer=tokenizer_file, max_position_embeddings=4096)
    limit_memory(monkeypatch, 4 * 1024 * token_bytes, 10**12)
    with LLM(folder) as llm:
        assert cache_tokens(llm) == 1024
        with pytest.raises(ContextLengthError):
            llm.generate([5] * 2000)
    assert "the KV cache holds 1,024 tokens" in caplog.text
    assert "a context" not in caplog.text
    limit_memory(monkeypatch, 0, 10**12)
    with LLM(folder) as llm:
        assert cache_tokens(llm) == MIN_TOKENS


def test_a_cache_that_cannot_be_allocated_is_refused_with_both_sizes(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, 1 << 62, 1 << 62)
    with pytest.raises(HostMemoryError, match=r"needs [\d.]+ GB.*free; lower cache_tokens"):
        LLM(tiny_model, cache_tokens=1 << 50)
    with pytest.raises(UsageError, match="at most"):
        LLM(tiny_model, cache_tokens=1 << 60)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, -1))
from cullama.cli import main
main(sys.argv[1:])
"""


def test_a_model_runs_under_a_limit_of_address_space(
    cullama_command: CommandLine, write_model: Any, tmp_path: Path, tokenizer_file: Path
) -> None:
    """`ulimit -v` counts the whole cache, whatever of it is touched."""
    shape = {"max_position_embeddings": 32768, "num_hidden_layers": 8, "head_dim": 64}
    folder = write_model(tmp_path / "m", tokenizer=tokenizer_file, **shape)
    command = [sys.executable, "-c", LIMITED, "story", "-m", str(folder), "-n", "3", "-q"]
    ran = subprocess.run(
        command, capture_output=True, text=True, env=cullama_command.environment(), check=False
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("command", [["story"], ["chat", "Hi"], ["bench"], ["bench", "chat"]])
def test_every_command_with_a_cache_takes_its_size(
    cullama_command: CommandLine, tiny_model: Path, command: list[str]
) -> None:
    ended = cullama_command(*command, "-m", tiny_model, "--cache-tokens", "0")
    assert ended.code == 2
    assert re.search("cache_tokens is 0, expected at least 1", ended.err)
