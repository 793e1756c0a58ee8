"""Models come from the hub whole, verified and resumed, or not at all.

The hub is a small server on this machine that can be slow, break lines, lie and refuse.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer, Repository, commit_of, digest_of

import cullama
from cullama.errors import DownloadError, ModelNotFoundError, UnsupportedModelError
from cullama.hub import model_title, resolve_model

draw = random.Random(11)
WEIGHTS = draw.randbytes(400_000)
FOLDER = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": WEIGHTS,
}
LEFT_OUT = {
    "README.md": b"# A model",
    "pytorch_model.bin": draw.randbytes(200_000),
    "consolidated.safetensors": draw.randbytes(200_000),
    "onnx/model.onnx": b"onnx",
    "original/config.json": b"{}",
}
GGUFS = {"m-Q4_0.gguf": draw.randbytes(150_000), "big/m-Q8_0.gguf": draw.randbytes(300_000)}
SHARDS = {f"model-0000{i}-of-00002.safetensors": draw.randbytes(120_000) for i in (1, 2)}
INDEX = json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))}).encode()
SHARDED = {
    **{name: content for name, content in FOLDER.items() if name != "model.safetensors"},
    "model.safetensors.index.json": INDEX,
    **SHARDS,
}
NAME = "owner/name"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hf" / "hub"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    for variable in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    # Read from the environment when it is imported, which another test may have done.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    server = HubServer()
    monkeypatch.setenv("HF_HOME", str(cache.parent))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("cullama.hub.api.RETRY_DELAYS", (0.01, 0.01))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module", autouse=True)
def connections() -> Iterator[None]:
    """huggingface_hub's are kept over tests, because making them takes a tenth of a second."""
    from huggingface_hub import close_session

    yield
    close_session()


@pytest.fixture
def offer(hub: HubServer) -> Callable[..., Repository]:
    """Put a repository on the hub."""

    def put(files: dict[str, bytes], **settings: Any) -> Repository:
        hub.repositories[NAME] = Repository(dict(files), **settings)
        return hub.repositories[NAME]

    return put


def blobs(cache: Path) -> dict[str, int]:
    """What lies in the cache under hashes, with sizes."""
    folder = cache / "models--owner--name" / "blobs"
    return {path.name: path.stat().st_size for path in folder.glob("*")}


def content(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def refusal(kind: type[Exception], name: str = NAME) -> str:
    """The one line with which fetching a model fails."""
    with pytest.raises(kind) as caught:
        resolve_model(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------------------- what is fetched


def test_only_the_files_that_a_model_needs_are_downloaded(
    offer: Callable[..., Repository], cache: Path
) -> None:
    offer({**FOLDER, **LEFT_OUT})
    path = resolve_model(NAME)
    assert path == cache / "models--owner--name" / "snapshots" / commit_of({**FOLDER, **LEFT_OUT})
    assert content(path) == FOLDER
    assert blobs(cache) == {digest_of(each): len(each) for each in FOLDER.values()}
    assert model_title(path) == NAME


def test_only_the_shards_in_the_index_are_downloaded(offer: Callable[..., Repository]) -> None:
    offer({**SHARDED, **LEFT_OUT, "model-00003-of-00003.safetensors": b"of another set"})
    assert content(resolve_model(NAME)) == SHARDED


def test_of_a_repository_with_one_gguf_model_only_that_file_is_downloaded(
    offer: Callable[..., Repository], cache: Path
) -> None:
    offer({"README.md": b"", "config.json": b"{}", "m-Q4_0.gguf": WEIGHTS, "mmproj-F16.gguf": b"x"})
    path = resolve_model(NAME)
    assert path.name == model_title(path) == "m-Q4_0.gguf"
    assert path.read_bytes() == WEIGHTS
    assert list(blobs(cache).values()) == [len(WEIGHTS)]


@pytest.mark.parametrize("file", ["Q8_0", "q8_0", "big/m-Q8_0.gguf"])
def test_one_of_several_gguf_files_is_chosen_by_quantisation_or_path(
    offer: Callable[..., Repository], file: str
) -> None:
    offer({**FOLDER, **GGUFS})
    path = resolve_model(f"{NAME}:{file}")
    assert path.read_bytes() == GGUFS["big/m-Q8_0.gguf"]
    assert path.relative_to(path.parents[1]).as_posix() == "big/m-Q8_0.gguf"


PARTS = {f"q8/m-Q8_0-0000{i}-of-00003.gguf": draw.randbytes(50_000) for i in (1, 2, 3)}


@pytest.mark.parametrize("file", ["", ":Q8_0", ":q8/m-Q8_0-00002-of-00003.gguf"])
def test_all_parts_of_a_split_gguf_model_are_downloaded(
    offer: Callable[..., Repository], hub: HubServer, file: str
) -> None:
    offer({"README.md": b"", **PARTS})
    path = resolve_model(NAME + file)
    assert path.name == "m-Q8_0-00001-of-00003.gguf"
    assert content(path.parents[1]) == PARTS
    before = len(hub.requests)
    assert resolve_model(NAME + file) == path
    assert len(hub.requests) == before


def test_a_split_model_of_which_a_part_is_not_cached_is_completed(
    offer: Callable[..., Repository],
) -> None:
    offer(PARTS)
    path = resolve_model(NAME)
    path.with_name("m-Q8_0-00002-of-00003.gguf").unlink()
    assert resolve_model(NAME) == path
    assert content(path.parents[1]) == PARTS


def test_a_branch_a_tag_and_a_commit_are_revisions(offer: Callable[..., Repository]) -> None:
    old = {**FOLDER, "config.json": b'{"old": 1}'}
    offer(FOLDER, revisions={"v1.0": old, "refs/pr/1": {**FOLDER, "config.json": b'{"pr": 1}'}})
    for revision in ("v1.0", commit_of(old), commit_of(old)[:12]):
        assert content(resolve_model(f"{NAME}@{revision}")) == old
    assert b"pr" in (resolve_model(f"{NAME}@refs/pr/1") / "config.json").read_bytes()
    assert content(resolve_model(NAME)) == FOLDER


def test_an_existing_path_wins_over_a_hub_id_with_a_file(
    offer: Callable[..., Repository], hub: HubServer, tmp_path: Path, monkeypatch: Any
) -> None:
    offer(FOLDER)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name:Q4_0").mkdir(parents=True)
    assert resolve_model(f"{NAME}:Q4_0") == Path(f"{NAME}:Q4_0")
    assert not hub.requests


def test_a_download_is_logged_in_one_line_with_size_source_and_target(
    offer: Callable[..., Repository], hub: HubServer, cache: Path, caplog: Any
) -> None:
    offer(FOLDER)
    with caplog.at_level(logging.INFO, "cullama"):
        resolve_model(NAME)
        resolve_model(NAME)
    size = sum(map(len, FOLDER.values())) / 1e6
    [line] = [record.message for record in caplog.records if record.name == "cullama"]
    assert line == (
        f"fetching owner/name: {size:.1f} MB in 5 files, {size:.1f} MB to go, "
        f"from {hub.url} to {cache / 'models--owner--name'}"
    )


def test_progress_of_a_download_counts_all_files_and_never_decreases(
    offer: Callable[..., Repository], hub: HubServer
) -> None:
    offer(SHARDED)
    hub.cuts, hub.ignores_ranges = [100_000], True  # so that bytes come twice
    seen: list[tuple[int, int]] = []
    resolve_model(NAME, lambda done, total: seen.append((done, total)))
    total = sum(map(len, SHARDED.values())) - len(INDEX)
    done = [step for step, _ in seen]
    assert done == sorted(done)
    assert {step for _, step in seen} == {total}
    assert (done[0], done[-1]) == (0, total)
    assert len(done) > 5


# -------------------------------------------------------------------------- once it is in the cache


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (FOLDER, NAME),
        (SHARDED, NAME),
        ({"config.json": b"{}", "model.safetensors": WEIGHTS}, NAME),  # it has no tokenizer at all
        (GGUFS, f"{NAME}:Q4_0"),
        (FOLDER, f"{NAME}@main"),
    ],
)
def test_a_cached_model_needs_no_request(
    offer: Callable[..., Repository], hub: HubServer, files: dict[str, bytes], name: str
) -> None:
    offer(files)
    path = resolve_model(name)
    hub.requests.clear()
    assert resolve_model(name) == path
    assert not hub.requests


def test_a_cached_model_needs_no_import_of_huggingface_hub(
    offer: Callable[..., Repository],
) -> None:
    offer(FOLDER)
    path = resolve_model(NAME)
    program = (
        "import sys; from cullama.hub import resolve_model; print(resolve_model('owner/name'));"
        "assert not {'huggingface_hub', 'ssl'} & set(sys.modules), sys.modules"
    )
    source = str(Path(cullama.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(path)


def test_huggingface_hub_finds_the_files_that_cullama_downloaded(
    offer: Callable[..., Repository],
) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir

    offer(FOLDER)
    path = resolve_model(NAME)
    cache = path.parents[2]
    for file in FOLDER:
        found = hf_hub_download(NAME, file, cache_dir=cache, local_files_only=True)
        assert Path(found) == path / file
    [repository] = scan_cache_dir(cache).repos
    assert repository.size_on_disk == sum(
        map(len, {digest_of(c): c for c in FOLDER.values()}.values())
    )
    assert repository.refs["main"].commit_hash == path.name


def test_cullama_finds_the_files_that_huggingface_hub_downloaded(
    offer: Callable[..., Repository], hub: HubServer, cache: Path
) -> None:
    from huggingface_hub import hf_hub_download

    offer(FOLDER)
    for file in FOLDER:
        hf_hub_download(NAME, file, cache_dir=cache, endpoint=hub.url)
    hub.requests.clear()
    assert content(resolve_model(NAME)) == FOLDER
    assert not hub.requests


def test_only_the_missing_files_of_a_snapshot_are_downloaded(
    offer: Callable[..., Repository], hub: HubServer, cache: Path
) -> None:
    offer(FOLDER)
    path = resolve_model(NAME)
    (path / "tokenizer_config.json").unlink()
    (path / "model.safetensors").resolve().unlink()
    hub.requests.clear()
    assert content(resolve_model(NAME)) == FOLDER
    assert [one.path.rpartition("/")[2] for one in hub.transfers] == ["model.safetensors"]


def test_only_an_update_asks_the_hub_for_a_new_version(offer: Callable[..., Repository]) -> None:
    repository = offer(FOLDER)
    resolve_model(NAME)
    repository.files["config.json"] = b'{"new": 1}'
    assert content(resolve_model(NAME)) == FOLDER
    assert content(resolve_model(NAME, update=True)) == repository.files
    assert content(resolve_model(NAME)) == repository.files


def test_an_update_to_the_same_version_downloads_and_logs_nothing(
    offer: Callable[..., Repository], hub: HubServer, caplog: Any
) -> None:
    offer(FOLDER)
    path = resolve_model(NAME)
    hub.requests.clear()
    seen: list[int] = []
    with caplog.at_level(logging.INFO, "cullama"):
        assert resolve_model(NAME, lambda done, total: seen.append(done), update=True) == path
    assert (seen, hub.transfers, caplog.messages) == ([], [], [])


def test_an_update_replaces_files_of_the_wrong_size(offer: Callable[..., Repository]) -> None:
    offer(FOLDER)
    path = resolve_model(NAME)
    os.truncate(path / "model.safetensors", 1000)
    assert content(resolve_model(NAME, update=True)) == FOLDER


def test_an_update_without_a_network_returns_the_cached_version(
    offer: Callable[..., Repository], hub: HubServer, monkeypatch: Any, caplog: Any
) -> None:
    offer(FOLDER)
    path = resolve_model(NAME)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert resolve_model(NAME, update=True) == path
    assert "using the cached version" in caplog.text


def test_offline_a_snapshot_without_tokenizer_config_is_returned(
    offer: Callable[..., Repository], monkeypatch: Any, caplog: Any
) -> None:
    offer(FOLDER)
    path = resolve_model(NAME)
    (path / "tokenizer_config.json").unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve_model(NAME) == path
    assert "HF_HUB_OFFLINE" in caplog.text


# --------------------------------------------------------------------------- lines that break, lies


def test_a_broken_connection_is_resumed_at_its_last_byte(
    offer: Callable[..., Repository], hub: HubServer
) -> None:
    offer(FOLDER)
    hub.cuts = [100_000, 50_000, 0, 120_000]
    assert content(resolve_model(NAME)) == FOLDER
    ranges = [one.headers["Range"] for one in hub.transfers if "model.safetensors" in one.path]
    expected = [None, *(f"bytes={n}-" for n in (100_000, 150_000, 150_000, 270_000))]
    assert ranges == expected


def test_after_too_many_broken_connections_the_received_bytes_are_kept(
    offer: Callable[..., Repository], hub: HubServer, cache: Path
) -> None:
    offer(FOLDER)
    hub.cuts = [100_000] + [0] * 20
    assert "cannot be reached" in refusal(DownloadError)
    assert blobs(cache)[f"{digest_of(WEIGHTS)}.incomplete"] == 100_000
    assert len(hub.cuts) == 18  # so many were not tried any more
    hub.cuts, hub.requests = [], []
    assert content(resolve_model(NAME)) == FOLDER
    assert hub.transfers[-1].headers["Range"] == "bytes=100000-"


def test_a_hub_that_ignores_ranges_restarts_the_file(
    offer: Callable[..., Repository], hub: HubServer
) -> None:
    offer(FOLDER)
    hub.cuts, hub.ignores_ranges = [100_000, 200_000], True
    assert content(resolve_model(NAME)) == FOLDER


@pytest.mark.parametrize("lie", ["wrong_bytes", "long_files"])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_file_with_the_wrong_hash_or_size_is_removed(
    offer: Callable[..., Repository], hub: HubServer, cache: Path, lie: str, file: str
) -> None:
    offer(FOLDER)
    setattr(hub, lie, {file})
    message = refusal(DownloadError)
    assert file in message
    assert digest_of(FOLDER[file]) in message
    assert not [name for name in blobs(cache) if digest_of(FOLDER[file]) in name]
    assert not list(cache.rglob("refs/main"))
    setattr(hub, lie, set())
    assert content(resolve_model(NAME)) == FOLDER


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * 500_000])
def test_a_partial_file_with_other_bytes_is_dropped_after_one_attempt(
    offer: Callable[..., Repository], cache: Path, left: bytes
) -> None:
    offer(FOLDER)
    partial = cache / "models--owner--name" / "blobs" / f"{digest_of(WEIGHTS)}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(left)
    if len(left) < len(WEIGHTS):
        assert "arrived damaged" in refusal(DownloadError)
    assert content(resolve_model(NAME)) == FOLDER


def test_paths_that_leave_the_cache_are_not_written(
    offer: Callable[..., Repository], tmp_path: Path
) -> None:
    index = json.dumps({"weight_map": {"a": "../../../../../stolen.safetensors"}}).encode()
    outside = {"../../../../../stolen.safetensors": b"x", "/etc/stolen.gguf": b"x", "..": b"x"}
    offer({"config.json": b"{}", "model.safetensors.index.json": index, **outside})
    assert "stolen" in refusal(ModelNotFoundError)
    assert "stolen" in refusal(ModelNotFoundError, f"{NAME}:../../stolen.gguf")
    assert not list(tmp_path.rglob("*stolen*"))


def test_the_token_is_sent_to_the_hub_and_not_to_redirect_targets(
    offer: Callable[..., Repository], hub: HubServer, monkeypatch: Any
) -> None:
    offer(FOLDER, token="hf_secret")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    other = HubServer()
    other.repositories[NAME] = Repository(FOLDER)
    other.start()
    hub.elsewhere = other.url
    assert content(resolve_model(NAME)) == FOLDER
    other.stop()
    assert all(one.headers["Authorization"] == "Bearer hf_secret" for one in hub.requests)
    assert other.transfers
    assert not any(one.headers["Authorization"] for one in other.requests)


def test_two_concurrent_downloads_fetch_every_file_once(
    offer: Callable[..., Repository], hub: HubServer
) -> None:
    offer(FOLDER)
    hub.seconds_between_pieces = 0.02
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(resolve_model(NAME))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found[0] == found[1]
    assert content(found[0]) == FOLDER
    assert len(hub.transfers) == len({digest_of(each) for each in FOLDER.values()})


def test_an_oserror_in_the_progress_callback_is_not_reported_as_a_disk_error(
    offer: Callable[..., Repository],
) -> None:
    offer(FOLDER)

    def break_off(done: int, total: int) -> None:
        if done > 0:
            raise BrokenPipeError("the bar's terminal is gone")

    with pytest.raises(BrokenPipeError):
        resolve_model(NAME, break_off)
    assert content(resolve_model(NAME)) == FOLDER


# ----------------------------------------------------------------------------------------- refusals


def test_an_unreachable_hub_is_reported_without_retries(hub: HubServer, monkeypatch: Any) -> None:
    monkeypatch.setattr("cullama.hub.api.RETRY_DELAYS", (3.0,))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: closed
    started = time.monotonic()
    message = refusal(DownloadError)
    assert time.monotonic() - started < 3
    assert "http://127.0.0.1:9 cannot be reached" in message
    assert "Connection refused" in message
    assert "check the network" in message


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_in_offline_mode_no_request_is_sent(
    offer: Callable[..., Repository], hub: HubServer, cache: Path, monkeypatch: Any, variable: str
) -> None:
    offer(FOLDER)
    monkeypatch.setenv(variable, "1")
    message = refusal(DownloadError)
    assert str(cache) in message
    assert "HF_HUB_OFFLINE is set" in message
    assert not hub.requests


def test_an_unknown_repository_is_named(hub: HubServer) -> None:
    message = refusal(ModelNotFoundError, "owner/nothing")
    assert f"no model 'owner/nothing' is cached here or on {hub.url}" in message
    assert "hf auth login" in message


def test_an_unknown_revision_is_named(offer: Callable[..., Repository]) -> None:
    offer(FOLDER)
    assert "no revision 'v9'" in refusal(ModelNotFoundError, f"{NAME}@v9")


@pytest.mark.parametrize("token", [None, "hf_wrong"])
@pytest.mark.parametrize("is_gated", [True, False])
def test_a_private_or_gated_model_is_refused_with_the_way_to_log_in(
    offer: Callable[..., Repository], monkeypatch: Any, token: str | None, is_gated: bool
) -> None:
    offer(FOLDER, token="hf_right", is_gated=is_gated)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    message = refusal(DownloadError)
    assert "set HF_TOKEN or run `hf auth login`" in message
    assert ("accept its terms" in message) == is_gated
    assert "hf_wrong" not in message
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert content(resolve_model(NAME)) == FOLDER


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"README.md": b""}, "holds README.md, expected model.safetensors or a GGUF file"),
        ({}, "holds nothing"),
        ({"model.safetensors": b"x"}, "no config.json"),
        ({**SHARDED, "model.safetensors.index.json": b"[]"}, "names no files"),
        ({"config.json": b"", "model.safetensors.index.json": INDEX}, "names model-00001-of-0"),
        (GGUFS, "means 2 GGUF files; name one: owner/name:Q8_0, owner/name:Q4_0"),
        ({"a-00001-of-00002.gguf": b""}, "of which a-00002-of-00002.gguf is missing there"),
    ],
)
def test_a_repository_without_a_supported_model_is_refused_by_its_files(
    offer: Callable[..., Repository], cache: Path, files: dict[str, bytes], found: str
) -> None:
    offer(files)
    assert found in refusal(ModelNotFoundError)
    assert cache.exists() == ("model.safetensors.index.json" in files and "config.json" in files)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (LEFT_OUT, "holds pickles, which can run code and are never opened (pytorch_model.bin)"),
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b""}, "a LoRA adapter"),
        ({"model_index.json": b"{}", "unet/model.safetensors": b""}, "a pipeline of diffusers"),
        ({"onnx/model.onnx": b""}, "an ONNX model (onnx/model.onnx)"),
    ],
)
def test_a_repository_of_something_else_is_refused_by_what_it_is(
    offer: Callable[..., Repository], cache: Path, files: dict[str, bytes], found: str
) -> None:
    offer({"README.md": b"", "config.json": b"{}", **files})
    message = refusal(UnsupportedModelError)
    assert found in message
    assert "expected model.safetensors or a GGUF file; " in message
    assert not cache.exists()


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("only_files", [True, False])
def test_a_request_to_a_busy_hub_is_retried(
    offer: Callable[..., Repository], hub: HubServer, status: int, only_files: bool
) -> None:
    offer(FOLDER)
    hub.statuses, hub.only_file_statuses = (
        [(status, {}), (status, {"Retry-After": "0"})],
        only_files,
    )
    assert content(resolve_model(NAME)) == FOLDER


@pytest.mark.parametrize(
    ("status", "headers", "requests"),
    [(503, {}, 3), (429, {"Retry-After": "3600"}, 1), (400, {}, 1)],
)
def test_a_hub_that_keeps_refusing_is_reported_with_status_and_reason(
    offer: Callable[..., Repository],
    hub: HubServer,
    status: int,
    headers: dict[str, str],
    requests: int,
) -> None:
    offer(FOLDER)
    hub.statuses = [(status, headers)] * 9
    message = refusal(DownloadError)
    assert f"{hub.url} refuses owner/name ({status}: as the test asks)" in message
    assert len(hub.requests) == requests


@pytest.mark.parametrize("page", [b"<html>Log in to the guest network</html>", b"[]", b"{}", b"3"])
def test_an_answer_of_another_kind_of_server_is_refused(
    offer: Callable[..., Repository], hub: HubServer, page: bytes
) -> None:
    hub.html = page
    message = refusal(DownloadError)
    assert hub.url in message
    assert "expected the API of the Hugging Face hub" in message


def test_too_little_disk_space_is_reported_before_the_download(
    offer: Callable[..., Repository], hub: HubServer, monkeypatch: Any
) -> None:
    class Usage:
        free = 1000

    offer(FOLDER)
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    message = refusal(DownloadError)
    assert "has 0 MB free; make room" in message
    assert "HF_HUB_CACHE" in message
    assert not hub.transfers


def test_a_disk_that_fills_up_during_the_download_is_reported(
    offer: Callable[..., Repository], monkeypatch: Any
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    offer(FOLDER)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        assert "No space left on device; make room" in refusal(DownloadError)
    assert content(resolve_model(NAME)) == FOLDER


def test_a_cache_that_cannot_be_written_is_named(
    offer: Callable[..., Repository], cache: Path
) -> None:
    offer(FOLDER)
    cache.parent.mkdir()
    cache.write_text("a file")
    assert f"cannot write in '{cache}" in refusal(DownloadError)
