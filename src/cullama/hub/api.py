"""What the Hugging Face hub says about one model: its files and their hashes, and their bytes.

It knows the hub's API, through huggingface_hub with the user's token, endpoint and proxies, and
turns every refusal into one line; it writes nothing. huggingface_hub is imported with the first
`Hub`, because it takes a quarter of a second.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from ..errors import CullamaError, DownloadError, ModelNotFoundError
from .name import HubName, is_plain_path

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LOG = logging.getLogger("cullama")
WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before another try, as long as no more bytes come
LONGEST_WAIT = 30.0  # seconds that a busy hub may ask for
BUSY = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class RemoteFile:
    path: str
    size: int  # bytes
    digest: str  # sha256 of the bytes where git LFS keeps them, else sha1 of git's blob

    def new_hash(self) -> Any:
        if len(self.digest) == 64:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)


@dataclass(frozen=True)
class Listing:
    commit: str
    files: dict[str, RemoteFile]


class Hub:
    """The hub, as it answers about one model."""

    def __init__(self, name: HubName) -> None:
        from huggingface_hub import constants

        self.name = name
        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")

    def listing(self) -> Listing:
        api = self._api()
        info = patiently(lambda: self._info(api))
        if not _is_digest(info.sha):
            raise DownloadError(f"{self.endpoint} named no commit of {self.name}, {_IS_IT_A_HUB}")
        files = filter(None, map(_remote_file, info.siblings or ()))
        return Listing(info.sha, {file.path: file for file in files})

    def _api(self) -> HfApi:
        from huggingface_hub import HfApi

        return HfApi(self.endpoint, library_name="cullama", library_version=_version())

    def _info(self, api: HfApi) -> Any:
        from huggingface_hub import constants, errors

        timeout = constants.HF_HUB_ETAG_TIMEOUT
        repository, revision = self.name.repository, self.name.revision
        try:
            return api.model_info(
                repository, revision=revision, files_metadata=True, timeout=timeout
            )
        except errors.HTTPError:  # of which some are ValueErrors, too
            raise
        except (ValueError, KeyError, TypeError) as error:  # a page of some other server
            raise DownloadError(
                f"{self.endpoint} did not answer as a hub does ({_first_line(error)}), "
                f"{_IS_IT_A_HUB}"
            ) from error

    @contextmanager
    def bytes_of(self, file: RemoteFile, commit: str, start: int) -> Iterator[tuple[int, Any]]:
        """Where the bytes begin that the hub sends, which may be 0 all the same; and the bytes."""
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        repository, endpoint = self.name.repository, self.endpoint
        url = hf_hub_url(repository, file.path, revision=commit, endpoint=endpoint)
        headers = build_hf_headers(library_name="cullama", library_version=_version())
        headers["Accept-Encoding"] = "identity"
        if start:
            headers["Range"] = f"bytes={start}-"
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        session = get_session()
        with session.stream(
            "GET", url, headers=headers, timeout=timeout, follow_redirects=True
        ) as response:
            hf_raise_for_status(response)
            yield (start if response.status_code == 206 else 0), response.iter_bytes()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Errors of huggingface_hub and of the network, as ours."""
        from huggingface_hub import errors

        try:
            yield
        except errors.OfflineModeIsEnabled as error:
            raise DownloadError(
                f"{self.name} is not here, and huggingface_hub is offline"
            ) from error
        except errors.HfHubHTTPError as error:
            raise self._refusal(error) from error
        except errors.HTTPError as error:
            raise DownloadError(
                f"cannot fetch {self.name}: {self.endpoint} cannot be reached "
                f"({_first_line(error)}); check the network and HF_ENDPOINT, or give a path"
            ) from error

    def _refusal(self, error: Any) -> CullamaError:
        from huggingface_hub import errors

        status = error.response.status_code
        if isinstance(error, errors.GatedRepoError):
            return DownloadError(
                f"{self.name} is given only to those who accept its terms: do so at "
                f"{self.endpoint}/{self.name.repository}, then {_LOGIN}"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return ModelNotFoundError(
                f"{self.name.repository} has no revision {self.name.revision or 'main'!r} on "
                f"{self.endpoint}; name a branch, tag or commit that it has, or leave it out"
            )
        if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
            return ModelNotFoundError(
                f"no model {self.name.repository!r} here or on {self.endpoint}, or it is private: "
                f"check the name; for a private one {_LOGIN}"
            )
        remedy = f"{_LOGIN} with an account that may read it" if status in (401, 403) else _LATER
        return DownloadError(
            f"{self.endpoint} refuses {self.name} ({status}: {_said(error)}); {remedy}"
        )


_LOGIN = "set HF_TOKEN or run `hf auth login`"
_LATER = "try again later, or set HF_ENDPOINT to another hub"
_IS_IT_A_HUB = "expected the API of the Hugging Face hub; check HF_ENDPOINT and the network"


def _version() -> str:
    """Return our version, for the User-Agent header."""
    return metadata.version("cullama")


def _remote_file(sibling: Any) -> RemoteFile | None:
    """None for what has no size, no hash, or a name that would lead out of our folder."""
    path, size = sibling.rfilename, sibling.size
    digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    is_sound = isinstance(size, int) and _is_digest(digest) and is_plain_path(path)
    return RemoteFile(path, size, digest) if is_sound else None


def _is_digest(text: Any) -> bool:
    return isinstance(text, str) and len(text) in (40, 64) and set(text) <= set("0123456789abcdef")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _said(error: Any) -> str:
    words = error.server_message or error.response.reason_phrase or "no reason given"
    return " ".join(str(words).split())[:200].rstrip(".")


def patiently(attempt: Callable[[], Any], gained: Callable[[], int] | None = None) -> Any:
    """Try again while a hub is busy, `WAITS` times after the last byte `gained`.

    Broken lines are tried again where there is something to gain: a hub that cannot be reached in
    the first place is not waited for.
    """
    from huggingface_hub import errors

    most, waits = 0, iter(WAITS)
    while True:
        try:
            return attempt()
        except errors.HTTPError as error:
            if gained is not None and gained() > most:
                most, waits = gained(), iter(WAITS)
            wait = _wait_after(error, next(waits, None), gained is not None)
            if wait is None:
                raise
            LOG.debug("trying again in %.1f s: %s", wait, _first_line(error))
            time.sleep(wait)


def _wait_after(error: Any, usual: float | None, is_under_way: bool) -> float | None:
    """Seconds; None where it is of no use."""
    response = getattr(error, "response", None)
    if response is None:
        return usual if is_under_way else None
    if usual is None or response.status_code not in BUSY:
        return None
    asked = response.headers.get("Retry-After", "")
    seconds = float(asked) if asked.isdigit() else usual
    return seconds if seconds <= LONGEST_WAIT else None
