"""One server and one browser for all tests of the page; each test has a profile of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

if find_spec("playwright") is None:
    if os.environ.get("CI"):
        pytest.exit("the tests of the page need playwright", 1)
    collect_ignore_glob = ["test_*.py"]
else:
    from browsing import CHROMIUM, Visit, missing, serving, visiting
    from playwright.sync_api import Browser, sync_playwright

    @pytest.fixture(scope="session")
    def writer(
        tmp_path_factory: pytest.TempPathFactory,
        tokenizer_file: Path,
        write_model: Callable[..., Path],
        write_chat_model: Callable[..., Path],
    ) -> Path:
        """Return a random model, large enough to be watched, that writes letters without end."""
        folder = tmp_path_factory.mktemp("models") / "writer"
        write_chat_model(folder, tokenizer_file)
        sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4}
        write_model(folder, tokenizer=tokenizer_file, max_position_embeddings=2048, **sizes)
        tokenizer, weights = Tokenizer.from_file(str(tokenizer_file)), folder / "model.safetensors"
        tensors = load_file(weights)
        head = tensors["lm_head.weight"]
        for token in range(len(head)):
            is_text = re.fullmatch("Ġ?[a-z]*", tokenizer.id_to_token(token) or "")
            head[token] *= 4 if is_text else 0
        save_file(tensors, weights)
        return folder

    # Within one file: while playwright runs, its thread has an event loop, and no other may begin.
    @pytest.fixture(scope="module")
    def browser() -> Iterator[Browser]:
        lacking = missing()
        if lacking and os.environ.get("CI"):
            pytest.fail(f"the tests of the page: {lacking}")
        if lacking:
            pytest.skip(lacking)
        with sync_playwright() as playwright:
            launched = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
            )
            yield launched
            launched.close()

    @pytest.fixture(scope="module")
    def url(browser: Browser, writer: Path) -> Iterator[str]:
        with serving(writer) as (_, address):
            yield address

    @pytest.fixture
    def visit(browser: Browser, url: str, request: pytest.FixtureRequest) -> Iterator[Visit]:
        options: dict[str, Any] = getattr(request, "param", {})
        with visiting(browser, url, **options) as visitor:
            visitor.open()
            yield visitor
