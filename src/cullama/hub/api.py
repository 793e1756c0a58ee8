"""Client of the Hugging Face hub: list one model's files with their hashes, and stream their bytes.

It calls huggingface_hub, with the user's token, endpoint and proxies, and turns its errors into
ours; it writes no file. huggingface_hub is imported when a `Hub` is made, since that takes a
quarter of a second.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import CullamaError, DownloadError, ModelNotFoundError
from ..version import __version__
from .name import HubName, is_plain_path

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LOG = logging.getLogger("cullama")
RETRY_DELAYS = (0.5, 1.0, 2.0, 4.0)  # seconds; they start again whenever more bytes have come
MAX_RETRY_AFTER = 30.0  # seconds that a busy hub may ask for
BUSY = (408, 429, 500, 502, 503, 504)  # HTTP statuses that are worth another request


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository on the hub."""

    path: str  # in the repository
    size: int  # bytes
    digest: str  # sha256 of the bytes where git LFS keeps them, else sha1 of git's blob

    def new_hash(self) -> Any:
        """Return the hash object whose digest of all bytes must become `digest`."""
        if len(self.digest) == 64:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit, by path."""

    commit: str
    files: dict[str, RemoteFile]


class Hub:
    """Requests to the hub about one model."""

    def __init__(self, name: HubName) -> None:
        from huggingface_hub import constants

        self.name = name
        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")

    def listing(self) -> Listing:
        """Return the files of the revision that the name means, and its commit.

        Raises:
            DownloadError: the answer is not one of a Hugging Face hub.
        """
        from huggingface_hub import HfApi

        api = HfApi(self.endpoint, library_name="cullama", library_version=__version__)
        info = with_retries(lambda: self._info(api))
        if not _is_digest(info.sha):
            raise DownloadError(
                f"{self.endpoint} named no commit of {self.name}, {_EXPECTED_A_HUB}"
            )
        files = filter(None, map(_remote_file, info.siblings or ()))
        return Listing(info.sha, {file.path: file for file in files})

    def _info(self, api: HfApi) -> Any:
        from huggingface_hub import constants, errors

        timeout = constants.HF_HUB_ETAG_TIMEOUT
        repository, revision = self.name.repository, self.name.revision
        try:
            return api.model_info(
                repository, revision=revision, files_metadata=True, timeout=timeout
            )
        except errors.HTTPError:  # some are subclasses of ValueError, too
            raise
        except (ValueError, KeyError, TypeError) as error:  # the page of another kind of server
            raise DownloadError(
                f"{self.endpoint} did not answer like a hub ({_first_line(error)}), "
                f"{_EXPECTED_A_HUB}"
            ) from error

    @contextmanager
    def stream(self, file: RemoteFile, commit: str, start: int) -> Iterator[tuple[int, Any]]:
        """Yield the offset of the first byte sent, and an iterator over chunks of bytes.

        The offset is `start`, or 0 where the server ignores ranges.
        """
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        repository, endpoint = self.name.repository, self.endpoint
        url = hf_hub_url(repository, file.path, revision=commit, endpoint=endpoint)
        headers = build_hf_headers(library_name="cullama", library_version=__version__)
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
    def errors_translated(self) -> Iterator[None]:
        """Raise errors of huggingface_hub and of the network as CullamaErrors."""
        from huggingface_hub import errors

        try:
            yield
        except errors.OfflineModeIsEnabled as error:
            raise DownloadError(
                f"{self.name} is not cached, and huggingface_hub is offline"
            ) from error
        except errors.HfHubHTTPError as error:
            raise self._translated(error) from error
        except errors.HTTPError as error:
            raise DownloadError(
                f"cannot fetch {self.name}: {self.endpoint} cannot be reached "
                f"({_first_line(error)}); check the network and HF_ENDPOINT, or give a path"
            ) from error

    def _translated(self, error: Any) -> CullamaError:
        from huggingface_hub import errors

        status = error.response.status_code
        if isinstance(error, errors.GatedRepoError):
            return DownloadError(
                f"{self.name} is gated: accept its terms at "
                f"{self.endpoint}/{self.name.repository}, then {_LOGIN}"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return ModelNotFoundError(
                f"{self.name.repository} has no revision {self.name.revision or 'main'!r} on "
                f"{self.endpoint}; name a branch, tag or commit that it has, or leave it out"
            )
        if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
            return ModelNotFoundError(
                f"no model {self.name.repository!r} is cached here or on {self.endpoint}, or it is "
                f"private: check the name; for a private one {_LOGIN}"
            )
        reason = error.server_message or error.response.reason_phrase or "no reason given"
        reason = " ".join(str(reason).split())[:200].rstrip(".")
        remedy = f"{_LOGIN} with an account that may read it" if status in (401, 403) else _LATER
        return DownloadError(f"{self.endpoint} refuses {self.name} ({status}: {reason}); {remedy}")


_LOGIN = "set HF_TOKEN or run `hf auth login`"
_LATER = "try again later, or set HF_ENDPOINT to another hub"
_EXPECTED_A_HUB = "expected the API of the Hugging Face hub; check HF_ENDPOINT and the network"


def _remote_file(sibling: Any) -> RemoteFile | None:
    """Return None for a file without a size or hash, or whose path would leave our folder."""
    path, size = sibling.rfilename, sibling.size
    digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    is_valid = isinstance(size, int) and _is_digest(digest) and is_plain_path(path)
    return RemoteFile(path, size, digest) if is_valid else None


def _is_digest(text: Any) -> bool:
    return isinstance(text, str) and len(text) in (40, 64) and set(text) <= set("0123456789abcdef")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def with_retries(attempt: Callable[[], Any], received: Callable[[], int] | None = None) -> Any:
    """Call `attempt` again while the hub is busy, after each of `RETRY_DELAYS`.

    Args:
        received: returns the bytes received so far; the delays start again when it has grown. With
            it, broken connections are retried, too; without it, a hub that cannot be reached fails
            at once.
    """
    from huggingface_hub import errors

    most, delays = 0, iter(RETRY_DELAYS)
    while True:
        try:
            return attempt()
        except errors.HTTPError as error:
            if received is not None and received() > most:
                most, delays = received(), iter(RETRY_DELAYS)
            delay = _delay_after(error, next(delays, None), received is not None)
            if delay is None:
                raise
            LOG.debug("trying again in %.1f s: %s", delay, _first_line(error))
            time.sleep(delay)


def _delay_after(error: Any, usual: float | None, is_downloading: bool) -> float | None:
    """Return the seconds to wait before another attempt, None to give up."""
    response = getattr(error, "response", None)
    if response is None:  # the connection failed
        return usual if is_downloading else None
    if usual is None or response.status_code not in BUSY:
        return None
    asked = response.headers.get("Retry-After", "")
    seconds = float(asked) if asked.isdigit() else usual
    return seconds if seconds <= MAX_RETRY_AFTER else None
