"""Runs tests under ASan, UBSan and TSan, with the kernels compiled from source.

    python tests/emulation/sanitize.py [address|undefined|thread …] [-- pytest arguments]

The sanitizers are preloaded into Python. The tests are those that launch kernels through the
emulated driver, with source.py instead of build.py. ASan finds accesses out of bounds, UBSan
undefined behaviour, TSan accesses by threads of a block that no barrier orders. A run ends at the
first report.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":  # as a script: makes the package importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIBRARIES = {"address": "libasan.so", "undefined": "libubsan.so", "thread": "libtsan.so"}
OPTIONS = {
    # Python itself leaks, and use after return cannot be detected on fibers.
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "OPENBLAS_NUM_THREADS": "1",  # TSan does not know its locks, and reports races
    "TSAN_OPTIONS": "report_signal_unsafe=0:halt_on_error=1:exitcode=66",
}


def library(sanitizer: str) -> str:
    command = [os.environ.get("CXX", "g++"), f"-print-file-name={LIBRARIES[sanitizer]}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def environment(sanitizer: str) -> dict[str, str]:
    return {
        **os.environ,
        **OPTIONS,
        "LD_PRELOAD": library(sanitizer),
        "PYTHONPATH": f"{HERE.parent}:{ROOT / 'src'}",
        "CULLAMA_EMULATION_SANITIZER": sanitizer,
    }


def command(arguments: list[str]) -> list[str]:
    """Return the command that runs Python without address randomisation, which TSan needs."""
    fixed = [path, "-R"] if (path := shutil.which("setarch")) else []
    return [*fixed, sys.executable, *arguments]


def pytest_configure() -> None:
    """pytest plugin: makes the emulated driver build kernels from source, not from PTX."""
    from cullama.emulation import device

    usual = device.build_variables

    def from_source() -> dict[str, str]:
        variables = {**usual(), "CULLAMA_EMULATION_BUILD": str(HERE / "source.py")}
        del variables["CULLAMA_EMULATION_BUILT"]  # it caches by PTX text, not by source
        return variables

    device.build_variables = from_source


def build_driver() -> None:
    """Build the libraries first: the compiler cannot run with a sanitizer preloaded."""
    from cullama.emulation import device

    for each in (device.driver_library(), *device.cublas_libraries(13)):
        device.built(each)


def run(sanitizer: str, arguments: list[str]) -> int:
    print(f"--- {sanitizer} sanitizer", flush=True)
    tests = arguments or ["tests/operators", "-m", "gpu", "-q", "-x"]
    whole = command(
        ["-m", "pytest", "-s", "-p", "no:faulthandler", "-p", "emulation.sanitize", *tests]
    )
    return subprocess.run(whole, cwd=ROOT, env=environment(sanitizer), check=False).returncode


def main(arguments: list[str]) -> int:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    sanitizers, rest = arguments[:at] or list(LIBRARIES), arguments[at + 1 :]
    for name in sanitizers:
        if name not in LIBRARIES:
            print(f"unknown sanitizer {name}; there are {', '.join(LIBRARIES)}", file=sys.stderr)
            return 2
    build_driver()
    codes = [run(name, rest) for name in sanitizers]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
