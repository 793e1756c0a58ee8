"""Compiles PTX to a shared object for this machine's processor, and caches it by its text.

    python build.py PTX_FILE [KERNEL]        prints the path of the shared object

Kernels are built one by one, so that only those which a program launches are. The scheduler is
compiled once, as libemulated-….so; every module links to it. Both are in a folder of the cache that
is named for the emulator's sources and the compiler's options. Files are renamed into it when they
are complete, so processes may build at the same time.

The emulated driver runs this file as a script, with the Python that loaded the driver.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

if __name__ == "__main__":  # Python put the script's own folder there
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from cullama.emulation.counting.translator import EVERY_KERNEL, CountingTranslator
from cullama.emulation.ptx import PtxError, alone, has_shared_variables, parse
from cullama.emulation.translate import Translator
from cullama.errors import CullamaError
from cullama.files import cache_folder as user_cache

HERE = Path(__file__).resolve().parent
FAMILIES = ("__init__", "table", "arithmetic", "logic", "moves", "memory", "warps", "control")
COUNTING = ("costs.py", "stretches.py", "translator.py", "counters.h", "table.h", "l2.h")
SOURCES = (
    *("scheduler.h", "scheduler.cpp", "sanitizers.h", "machine.h"),
    *("ptx.py", "operands.py", "translate.py", "build.py"),
    *(f"instructions/{family}.py" for family in FAMILIES),
    *(f"counting/{file}" for file in COUNTING),
    "checking/shadow.h",
)
# PTX states which multiply-adds fuse; its integers wrap, and its bits may change their type.
OPTIONS = (
    *("-std=gnu++17", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-fno-exceptions"),
    *("-ffp-contract=off", "-fno-math-errno", "-fwrapv", "-fno-strict-aliasing", "-w"),
    "-fstack-clash-protection",  # a large frame meets the guard page
)
OPTIMISATION = "-O1"  # kernels run as fast as with -O2, and compile in half the time
OPTIMISATION_OF_COUNTED = "-Og"  # much code that runs once: these compile in half the time again


class BuildError(CullamaError):
    """The compiler failed."""


class NoCompilerError(BuildError):
    """There is no C++ compiler."""


@cache
def compiler() -> str:
    for name in (os.environ.get("CXX", ""), "g++", "c++"):
        if name and (path := shutil.which(name)):
            return path
    raise NoCompilerError("no C++ compiler found: install g++, or set CXX")


@cache
def processor_options() -> tuple[str, ...]:
    """Return options for the processor's FMA instruction, without which fma() is a slow call."""
    if platform.machine() != "x86_64":
        return ()
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return ()
    has_all = {"avx2", "bmi2", "fma", "f16c", "movbe"} <= set(flags)
    return ("-march=x86-64-v3",) if has_all else ()


def cache_folder() -> Path:
    """Return the folder of everything that the emulator builds, $CULLAMA_EMULATION_CACHE if set."""
    if chosen := os.environ.get("CULLAMA_EMULATION_CACHE"):
        return Path(chosen)
    return user_cache.cache_folder() / "emulation"


@cache
def folder() -> Path:
    """Return the folder of shared objects built by this version of the emulator."""
    digest = hashlib.sha256(" ".join([*OPTIONS, OPTIMISATION, *processor_options()]).encode())
    for source in SOURCES:
        digest.update((HERE / source).read_bytes())
    path = cache_folder() / digest.hexdigest()[:16]
    path.mkdir(parents=True, exist_ok=True)
    return path


def _compile(source: Path, target: Path, *options: str) -> None:
    """Compile to a temporary name, then rename, so that no partial file is ever seen."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    command = [compiler(), *OPTIONS, OPTIMISATION, *processor_options(), "-shared", f"-I{HERE}"]
    command += ["-o", str(temporary), str(source), *options]  # the last of two options counts
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{source.name} does not compile:\n{done.stderr[:2000]}")
    os.replace(temporary, target)


def scheduler_library(is_watched: bool = False) -> Path:
    """Return the scheduler's library, named for its version, as the loader goes by names.

    `is_watched`: the one of counted modules, so that others pay nothing.
    """
    target = folder() / f"libemulated-{folder().name}{'-watched' * is_watched}.so"
    if not target.exists():
        options = ("-pthread", f"-Wl,-soname,{target.name}", *["-DEMULATED_WATCHED"] * is_watched)
        _compile(HERE / "scheduler.cpp", target, *options)
    return target


def build_text(ptx: str, kernel: str = "", *, is_counted: bool = False) -> Path:
    """Return the shared object for a PTX text, building it unless it is cached.

    `kernel`: the only one that has to be built; without one, all are. `is_counted`: it counts what
    it does.
    """
    text = alone(ptx, kernel) if kernel and not has_shared_variables(ptx) else ptx
    # A kernel's instructions are the same for several targets.
    content = re.sub(r"^\.(version|target).*|//.*", "", text, flags=re.MULTILINE)
    ending = f"-{kernel or 'all'}" * is_counted
    target = folder() / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}{ending}.so"
    if target.exists():
        return target
    library = scheduler_library(is_counted)
    source = target.with_name(f".{target.stem}.{os.getpid()}.cpp")
    module = parse(text)
    counting = CountingTranslator(module, kernel or EVERY_KERNEL) if is_counted else None
    source.write_text((counting or Translator(module)).whole(), encoding="utf-8")
    options = (str(library), "-Wl,-rpath,$ORIGIN", "-lm")
    try:
        _compile(source, target, *options, *[OPTIMISATION_OF_COUNTED] * is_counted)
    finally:
        if not os.environ.get("CULLAMA_EMULATION_KEEP"):
            source.unlink()
    return target


def build_file(path: Path, kernel: str = "") -> Path:
    return build_text(path.read_text(encoding="utf-8"), kernel)


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2):
        print("usage: build.py PTX_FILE [KERNEL]", file=sys.stderr)
        return 1
    try:
        print(build_file(Path(arguments[0]), *arguments[1:]))
    except (BuildError, PtxError, OSError) as error:
        print(f"{Path(arguments[0]).name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
