"""Builds the emulated libcuda and libcublas, loads them, and sets their knobs.

`preload()` loads them into this process, before `cuda.bindings` looks for the real ones;
`environment()` is for subprocesses. Knobs are described in libcuda/settings.cpp, the notation of
faults in libcuda/faults.cpp. PTX is translated by build.py, which the emulated driver calls.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..errors import DeviceUnavailableError
from .build import BuildError, cache_folder, compiler
from .build import folder as folder_of_kernels

HERE = Path(__file__).resolve().parent
PREFIX = "CULLAMA_EMULATION_"
KNOBS = (
    "devices",
    "device_names",
    "compute_capabilities",
    "memory_bytes",
    "multiprocessors",
    "fill",
    "driver_version",
    "streams",
    "seed",
    "not_ready",
    "block_order",
    "block_seed",
    "eager_copies",
    "counters",
    "faults",
    "verbose",
)
BLOCK_ORDERS = {"ascending": 0, "descending": 1, "random": 2}
STREAM_ORDERS = ("lazy", "random", "issued", "eager")
COMPILE = ("-std=gnu++17", "-Wall", "-Wextra", "-shared", "-fPIC", "-fvisibility=hidden")


@dataclass(frozen=True)
class Library:
    """A shared object: the name that programs load it by, its sources, and compiler options."""

    name: str
    sources: tuple[Path, ...]
    options: tuple[str, ...]


def missing() -> str | None:
    """Return what this machine lacks for the emulated GPU, or None."""
    if sys.platform != "linux":
        return "the emulated GPU needs Linux"
    try:
        compiler()
    except BuildError as error:
        return str(error)
    try:
        has_bindings = find_spec("cuda.bindings") is not None
    except ModuleNotFoundError:
        has_bindings = False
    return None if has_bindings else "the emulated GPU needs cuda-bindings"


def driver_sources() -> tuple[Path, ...]:
    return tuple(sorted((HERE / "libcuda").glob("*.cpp")))


def driver_library() -> Library:
    return Library("libcuda.so.1", driver_sources(), ("-O1",))


def old_driver_library() -> Library:
    """A driver older than CUDA 12, without a function that the bindings need to start."""
    return Library("libcuda.so.1", driver_sources(), ("-O0", "-DWITHOUT_PROC_ADDRESS"))


def cublas_libraries(major: int) -> tuple[Library, ...]:
    """Return cuBLAS, and an empty cuBLASLt, which cuda.pathfinder loads first."""
    version = f"-DMAJOR_VERSION={major}"
    source = (HERE / "libcublas.cpp",)
    options = ("-O3", version)
    return (
        Library(f"libcublasLt.so.{major}", (), ()),
        Library(f"libcublas.so.{major}", source, options),
    )


def fingerprint(library: Library) -> str:
    """Return a hash of the sources, their headers and the options."""
    digest = hashlib.sha256(repr((library.name, COMPILE, library.options)).encode())
    headers = {header for source in library.sources for header in source.parent.glob("*.h")}
    for path in sorted({*library.sources, *headers}):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def compile_into(folder: Path, library: Library) -> None:
    """Compile all sources as one file, as most time goes into the standard library's headers."""
    whole = "".join(f'#include "{source}"\n' for source in library.sources)
    names = (f"-Wl,-soname,{library.name}", "-o", str(folder / library.name))
    command = [
        compiler(),
        *COMPILE,
        *library.options,
        *names,
        "-x",
        "c++",
        "-",
        "-ldl",
        "-lpthread",
    ]
    done = subprocess.run(command, input=whole, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{library.name} cannot be built:\n{done.stderr[:4000]}")


def built(library: Library) -> Path:
    """Return the library's path, building it if needed; processes may do so at the same time."""
    target = cache_folder() / f"{library.name}-{fingerprint(library)}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="building-", dir=target.parent))
        try:
            compile_into(folder, library)
            folder.rename(target)
        except OSError:
            if not target.exists():
                raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return target / library.name


def is_built() -> bool:
    """Whether the driver has been compiled for this version of its sources."""
    library = driver_library()
    return (cache_folder() / f"{library.name}-{fingerprint(library)}").exists()


def build_variables() -> dict[str, str]:
    """Return the variables by which the emulated driver finds build.py and what it has built."""
    return {
        PREFIX + "PYTHON": sys.executable,
        PREFIX + "BUILD": str(HERE / "build.py"),
        PREFIX + "CACHE": str(cache_folder()),
        PREFIX + "BUILT": str(cache_folder() / folder_of_kernels().name),
    }


def knob_variables(knobs: dict[str, str | int]) -> dict[str, str]:
    unknown = sorted(knobs.keys() - set(KNOBS))
    if unknown:
        raise ValueError(f"no such knobs: {', '.join(unknown)}; there are {', '.join(KNOBS)}")
    return {PREFIX + name.upper(): str(value) for name, value in knobs.items()}


def prepended(variable: str, paths: Sequence[Path]) -> str:
    return ":".join([*map(str, paths), *filter(None, [os.environ.get(variable)])])


def environment(
    *, cublas: int | None = 13, old_driver: bool = False, **knobs: str | int
) -> dict[str, str]:
    """Return the variables that a subprocess needs, besides this one's, to use the emulated GPU.

    `cublas` is 12 or 13 or None. It is preloaded, so that it takes precedence over a real one.
    """
    library = built(old_driver_library() if old_driver else driver_library())
    libraries = cublas_libraries(cublas) if cublas else ()
    variables = {"LD_LIBRARY_PATH": prepended("LD_LIBRARY_PATH", [library.parent])}
    if libraries:
        variables["LD_PRELOAD"] = prepended("LD_PRELOAD", [built(each) for each in libraries])
    return {**variables, **build_variables(), **knob_variables(knobs)}


def loaded_driver() -> Path | None:
    """Return the path of the libcuda.so.1 that is loaded in this process, or None."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.partition("/")[2]
        if "/libcuda.so" in "/" + path:
            return Path("/" + path)
    return None


class EmulatedGpu:
    """The knobs of the emulated GPU in this process."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name in ("live_bytes", "live_allocations", "pinned_allocations"):
            getattr(library, f"fakecuda_{name}").restype = ctypes.c_size_t
        for name in ("report", "get", "all_calls"):
            getattr(library, f"fakecuda_{name}").restype = ctypes.c_char_p
        library.fakecuda_calls.restype = ctypes.c_long

    def _text(self, function: str, *arguments: bytes) -> str:
        text: bytes = getattr(self._library, f"fakecuda_{function}")(*arguments)
        return text.decode(errors="replace")

    def set(self, name: str, value: str | int) -> None:
        if self._library.fakecuda_set(name.encode(), str(value).encode()):
            raise ValueError(f"no such knob: {name}; there are {', '.join(KNOBS)}")

    def get(self, name: str) -> str:
        if name not in KNOBS:
            raise ValueError(f"no such knob: {name}; there are {', '.join(KNOBS)}")
        return self._text("get", name.encode())

    def fault(self, text: str) -> None:
        """Inject faults, counted from now: "cuMemAlloc:5:2,*:17:719"; "" for none."""
        self.set("faults", text)

    def calls(self, name: str) -> int:
        """Return how often a driver function was called since the last reset, or "kernel" ran."""
        return int(self._library.fakecuda_calls(name.encode()))

    def all_calls(self) -> dict[str, int]:
        """Return the functions called since the last reset, and how often."""
        lines = self._text("all_calls").splitlines()
        return {name: int(count) for name, count in (line.split() for line in lines)}

    def live_bytes(self) -> int:
        return int(self._library.fakecuda_live_bytes())

    def live_allocations(self) -> int:
        return int(self._library.fakecuda_live_allocations())

    def pinned_allocations(self) -> int:
        return int(self._library.fakecuda_pinned_allocations())

    @property
    def pointer_check(self) -> ctypes.c_void_p:
        """The C function that says whether bytes are allocated, for modules without the driver."""
        return ctypes.cast(self._library.fakecuda_is_live, ctypes.c_void_p)

    def report(self) -> str:
        """Return one line about the last failure: kernel, thread, address, or another cause."""
        return self._text("report")

    def schedule(
        self, order: str = "ascending", seed: int = 0, has_eager_copies: bool = False
    ) -> None:
        """Set the order of threads and blocks (BLOCK_ORDERS), and when cp.async copies."""
        self.set("eager_copies", int(has_eager_copies))
        self.set("block_seed", seed)
        self.set("block_order", BLOCK_ORDERS[order])

    def streams(self, order: str = "lazy", seed: int = 0) -> None:
        """Set when queued work runs (libcuda/timeline.cpp): lazy, random, issued or eager."""
        if order not in STREAM_ORDERS:
            raise ValueError(f"no such order: {order}; there are {', '.join(STREAM_ORDERS)}")
        self.set("streams", order)
        self.set("seed", seed)

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Replace the driver by an unused one inside the `with`, and restore it afterwards."""
        self._library.fakecuda_set_aside()
        try:
            yield
        finally:
            self._library.fakecuda_take_back()

    def reset(self) -> None:
        """Reset memory, handles, errors and knobs; cuInit stays called."""
        self._library.fakecuda_reset()


def preload(cublas: int | None = 13) -> EmulatedGpu:
    """Load the emulated libraries into this process; repeated calls return the same device.

    Must come before the first call through `cuda.bindings`, which would load the real driver.
    Importing `cuda.bindings` first does no harm.
    """
    libraries = cublas_libraries(cublas) if cublas else ()
    with ThreadPoolExecutor() as pool:  # compiled at the same time
        path, *others = pool.map(built, (driver_library(), *libraries))
    present = loaded_driver()
    if present and present != path.resolve():
        raise DeviceUnavailableError(
            f"{present} is loaded already, whose place the emulated driver takes",
            "use the emulated GPU in a process of its own",
        )
    os.environ.update(build_variables())
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    for each in others:
        ctypes.CDLL(str(each), mode=ctypes.RTLD_GLOBAL)
    return EmulatedGpu(library)
