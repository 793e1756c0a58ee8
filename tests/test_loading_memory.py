"""A model's peak memory is its own size and little more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cullama.checkpoint.names import expected_shapes
from cullama.model.config import ModelConfig

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "vocab_size": 8192,
    "tie_word_embeddings": True,
}

PROGRAM = """
import re, sys
from pathlib import Path
import cullama
reports = []
llm = cullama.LLM(sys.argv[1], dtype=sys.argv[2], progress=lambda *report: reports.append(report))
llm.generate([5, 6, 7], cullama.SamplingParams(max_tokens=2, ignore_eos=True))
assert reports == sorted(reports) and reports[-1][0] == reports[-1][1], reports
# ru_maxrss would begin with what the process that started this one had.
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shapes = expected_shapes(ModelConfig.from_huggingface(folder / "config.json", CONFIG))
    generator = np.random.default_rng(0)
    tensors = {
        name: (generator.random(shape, np.float32) - np.float32(0.5)) / np.float32(16)
        for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize(("dtype", "itemsize"), [("float32", 4), ("bfloat16", 2)])
def test_loading_takes_a_fifth_more_than_the_model_at_most(
    model: Path, dtype: str, itemsize: int
) -> None:
    size = os.path.getsize(model / "model.safetensors") / 4 * itemsize
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model), dtype],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    peak = int(ended.stdout) * 1024
    assert peak <= 1.2 * size + 150e6
    assert peak >= size  # otherwise nothing was measured


SWITCHING = """
import gc, re, sys
from pathlib import Path
import cullama

def resident():
    gc.collect()
    return int(re.search(r"VmRSS:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

def load_and_free():
    llm = cullama.LLM(sys.argv[1], backend="cpu")
    llm.generate([5, 6, 7], cullama.SamplingParams(max_tokens=2, ignore_eos=True))
    loaded = resident()
    llm.free()
    return loaded, resident()

load_and_free()  # the libraries stay
print(*load_and_free())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_freed_model_returns_its_memory_even_while_it_is_referenced(model: Path) -> None:
    size = os.path.getsize(model / "model.safetensors")
    ended = subprocess.run(
        [sys.executable, "-c", SWITCHING, str(model)], capture_output=True, text=True, check=True
    )
    loaded, freed = map(int, ended.stdout.split())
    assert loaded > size
    assert loaded - freed > 0.95 * size
