"""Compiles a kernel's source, not its PTX, for this processor, so that sanitizers can check it.

    python source.py PTX_FILE       replaces build.py: finds the .cu file of these kernels

It rewrites CUDA's own syntax in our kernel files, and has each sanitizer's options. The object has
the same C interface as one from PTX, on the same scheduler, which is compiled into it and is not
instrumented itself. $CULLAMA_EMULATION_SANITIZER is "address", "undefined", "thread" or empty.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

if __name__ == "__main__":  # as a script: makes the package importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cullama.emulation.build import HERE as EMULATOR
from cullama.emulation.build import BuildError, compiler, folder, processor_options
from cullama.emulation.ptx import PtxError, parse

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parents[1] / "kernels"
OPTIONS = (
    *("-std=gnu++17", "-O1", "-g", "-fPIC", "-fno-weak", "-fvisibility=hidden", "-w"),
    *("-fno-exceptions", "-fno-omit-frame-pointer"),
)
SANITIZERS = {
    "": (),
    "address": ("-fsanitize=address", "-fsanitize-sections=emulated_shared"),
    "undefined": ("-fsanitize=undefined", "-fno-sanitize-recover=all"),
    "thread": ("-fsanitize=thread", "-Wno-tsan"),
}
_KERNEL = re.compile(r'extern "C"\s+__global__\s+void\s+(?:__\w+\s*\([^)]*\)\s*)*(\w+)\s*\(')
_DYNAMIC = re.compile(r"extern\s+__shared__\s+((?:alignas\([^)]*\)\s*)?)([\w:]+)\s+(\w+)\s*\[\s*\]")
_SHARED = re.compile(r"__shared__\s+((?:alignas\([^)]*\)\s*)?)")
SECTION = '__attribute__((section("emulated_shared")))'


@cache
def toolkit_headers() -> Path:
    """Return the folder of cuda_fp16.h, found through nvcc."""
    if not (nvcc := shutil.which("nvcc")):
        raise BuildError("no nvcc found on PATH: its headers are needed")
    said = _finished([nvcc, "--dryrun", "-x", "cu", os.devnull, "-o", os.devnull]).stderr
    top = re.search(r"^#\$ TOP=(.*)$", said, re.MULTILINE)
    path = Path(top[1] if top else "") / "include"
    if not (path / "cuda_fp16.h").exists():
        raise BuildError(f"no cuda_fp16.h in {path}, the headers of {nvcc}")
    return path


def _finished(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command without the sanitizer's library, which is preloaded into this process."""
    ours = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ours)


def _run(command: list[str]) -> str:
    done = _finished(command)
    if done.returncode:
        raise BuildError(f"{command[-1]} does not compile:\n{done.stderr[:3000]}")
    return done.stdout


def preprocessed(source: Path) -> str:
    command = [compiler(), *OPTIONS, *processor_options(), "-E", f"-I{EMULATOR}"]
    command += ["-isystem", str(toolkit_headers()), "-include", str(HERE / "source.h")]
    return _run([*command, f"-I{source.parent}", "-x", "c++", str(source)])


def exported(text: str) -> list[str]:
    return _KERNEL.findall(text)


def as_cpp(text: str) -> str:
    """Rewrite preprocessed CUDA C++ as C++, with the table of its kernels."""
    names = exported(text)
    text = _DYNAMIC.sub(r"\2* \3 = reinterpret_cast<\2*>(emulated::dynamic_memory())", text)
    text = _SHARED.sub(rf"\1static {SECTION} ", text).replace("__global__", "")
    rows = [
        f'  {{"{name}", emulated::Entry<&{name}>::run, emulated::Entry<&{name}>::count, '
        f"emulated::Entry<&{name}>::sizes, 0, 0, nullptr, 0, emulated::SHARED_BASE}},"
        for name in names
    ]
    return "\n".join([text, "static const emulated::Kernel kernels[] = {", *rows, "};", _TABLE])


_TABLE = """
extern "C" char __start_emulated_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_emulated_shared[] __attribute__((weak, visibility("hidden")));
static emulated::Site sites[1];
const emulated::Module emulated::source_module = {
    kernels, sizeof kernels / sizeof kernels[0], sites, 1, nullptr, 0, nullptr, 0, "source line",
    {uint64_t(__start_emulated_shared),
     uint64_t(__stop_emulated_shared - __start_emulated_shared)}};
"""


def build_source(source: Path, sanitizer: str = "") -> Path:
    """Return the shared object for a kernel file, compiled once for each text and sanitizer."""
    text = as_cpp(preprocessed(source))
    key = hashlib.sha256((text + sanitizer + " ".join(OPTIONS)).encode())
    for path in (HERE / "source.py", EMULATOR / "sanitizers.h"):
        key.update(path.read_bytes())
    target = folder() / f"source-{sanitizer}-{key.hexdigest()[:32]}.so"
    if not target.exists():
        _compile(text, target, sanitizer)
    return target


def _compile(text: str, target: Path, sanitizer: str) -> None:
    stem = target.with_name(f".{target.stem}.{os.getpid()}")
    scheduler, kernels, whole = (stem.with_suffix(end) for end in (".scheduler.o", ".o", ".so"))
    source = stem.with_suffix(".cpp")
    source.write_text(text, encoding="utf-8")
    options = [compiler(), *OPTIONS, *processor_options(), f"-I{EMULATOR}"]
    instrumented = SANITIZERS[sanitizer]
    watched = {"address": ["-DEMULATED_BOUNDS"], "thread": ["-DEMULATED_RACES"]}.get(sanitizer, [])
    _run([*options, *watched, "-c", "-o", str(scheduler), str(EMULATOR / "scheduler.cpp")])
    _run([*options, *instrumented, "-c", "-o", str(kernels), str(source)])
    _run([*options, *instrumented, "-shared", "-o", str(whole), str(kernels), str(scheduler)])
    os.replace(whole, target)
    for file in (source, scheduler, kernels):
        file.unlink()


def source_of(ptx: str) -> Path:
    """Return the kernel file that exports the kernels of this PTX."""
    wanted = {entry.name for entry in parse(ptx).entries}
    for source in sorted(KERNELS.glob("*.cu")):
        if wanted <= set(exported(preprocessed(source))):
            return source
    raise BuildError(f"no file in {KERNELS.name}/ exports {', '.join(sorted(wanted))}")


def main(arguments: list[str]) -> int:
    try:
        ptx = Path(arguments[0]).read_text(encoding="utf-8")
        sanitizer = os.environ.get("CULLAMA_EMULATION_SANITIZER", "")
        print(build_source(source_of(ptx), sanitizer))
    except (BuildError, PtxError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
