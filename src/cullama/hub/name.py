"""Parse names of models on the Hugging Face hub, and choose the GGUF file that a name means.

    owner/name                    its safetensors, or its only GGUF file
    owner/name:Q4_K_M             the GGUF file with that quantisation in its name
    owner/name:folder/file.gguf   that file, with the other parts where it is one of several
    owner/name@revision           a branch, tag or commit; may go with either of the others

It works on names alone; it opens no file and uses no network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import ModelNotFoundError
from ..files.gguf_names import first_part, is_weights, missing_parts
from ..files.regular_file import first_names

_PART = r"[A-Za-z0-9_](?:[\w.-]*\w)?"  # https://huggingface.co/docs/hub/repositories-settings
_REVISION = r"\w[\w./-]*"
_FORM = re.compile(
    rf"(?P<repository>{_PART}/{_PART})(?:@(?P<early>{_REVISION}))?"
    rf"(?::(?P<file>[^:@]+))?(?:@(?P<late>{_REVISION}))?",
    re.ASCII,
)
_QUANTISATION = re.compile(
    r"(?<![A-Za-z0-9])((?:I?Q\d|TQ\d|MXFP\d)(?:_[A-Za-z0-9]+)*|BF16|F16|F32)(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
MAX_LISTED = 12


@dataclass(frozen=True)
class HubName:
    """A parsed name."""

    repository: str  # owner/name
    file: str | None = None  # a GGUF file's path, or the quantisation in its name
    revision: str | None = None  # None: the repository's main branch

    @classmethod
    def parsed(cls, text: str) -> HubName | None:
        """Parse a name; return None if it cannot be the name of a model on the hub."""
        found = _FORM.fullmatch(text)
        if found is None or (found["early"] and found["late"]):
            return None
        repository, file, revision = found["repository"], found["file"], found["early"]
        revision = revision or found["late"]
        if "--" in repository or ".." in repository or _leads_out(file) or _leads_out(revision):
            return None
        looks_like_a_file = repository.endswith((".gguf", ".safetensors", ".json"))
        return None if looks_like_a_file else cls(repository, file, revision)

    def __str__(self) -> str:
        file = f":{self.file}" if self.file else ""
        return f"{self.repository}{file}" + (f"@{self.revision}" if self.revision else "")

    def with_file(self, file: str, among: Iterable[str]) -> HubName:
        """Return the shortest name of one of a repository's GGUF files, `among` which it is."""
        quantisation = quantisation_of(file)
        if quantisation and _models(_with_quantisation(quantisation, among)) == [first_part(file)]:
            file = quantisation
        return HubName(self.repository, file, self.revision)


def _leads_out(path: str | None) -> bool:
    """Return whether a path could lead out of its folder."""
    return path is not None and any(part in ("", ".", "..") for part in re.split(r"[/\\]", path))


def is_plain_path(path: str) -> bool:
    """Return whether a repository's file may be written under this path."""
    return path.isprintable() and not _leads_out(path)


def quantisation_of(file: str) -> str | None:
    """Return the quantisation that a GGUF file's name tells: "Q4_K_M", "BF16"."""
    found = _QUANTISATION.findall(file.rpartition("/")[2].removesuffix(".gguf"))
    return found[-1] if found else None


def chosen_gguf(name: HubName, files: Iterable[str]) -> str:
    """Return the GGUF file that the name means; of a model in several parts, the first.

    Raises:
        ModelNotFoundError: it means no file, several models, or one of which a part is missing.
    """
    files = list(filter(is_weights, files))
    models = _models(meant_files(name, files))
    if not models:
        raise ModelNotFoundError(f"{name} names no GGUF file there; {_choice(name, files)}")
    if len(models) > 1:
        raise ModelNotFoundError(f"{name} means {len(models)} GGUF files; {_choice(name, models)}")
    missing = missing_parts(models[0], files)
    if missing:
        raise ModelNotFoundError(
            f"{name} means {models[0]!r}, of which {first_names(missing)} is missing there; "
            "name another file or repository"
        )
    return models[0]


def _models(files: Iterable[str]) -> list[str]:
    return sorted({first_part(file) for file in files})


def meant_files(name: HubName, files: Iterable[str]) -> list[str]:
    """Return the GGUF files, of `files`, that the name may mean."""
    weights = filter(is_weights, files)
    if name.file is None:
        return list(weights)
    if name.file.endswith(".gguf"):
        return [file for file in weights if file == name.file]
    return _with_quantisation(name.file, weights)


def _with_quantisation(quantisation: str, files: Iterable[str]) -> list[str]:
    # "Q4_K" must not match Q4_K_M, nor "Q4_0" IQ4_0.
    part = re.compile(rf"(?<![A-Za-z0-9]){re.escape(quantisation)}(?![A-Za-z0-9_])", re.IGNORECASE)
    return [file for file in files if part.search(file.removesuffix(".gguf"))]


def _choice(name: HubName, files: list[str]) -> str:
    models = _models(files)
    if not models:
        return "it has no other; name another repository"
    names = [str(name.with_file(file, files)) for file in models[:MAX_LISTED]]
    more = f", and {len(models) - MAX_LISTED} more" if len(models) > MAX_LISTED else ""
    return f"name one: {', '.join(names)}{more}"
