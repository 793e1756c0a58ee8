"""What `cullama doctor` examines: which backends, in which storage types, with which sizes."""

from __future__ import annotations

from dataclasses import dataclass

from ..backends import check_kernels
from ..cpu.threads import choose_threads
from ..errors import UsageError
from ..model.choices import BACKENDS

CPU_DTYPES = ("float32",)
CUDA_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class DoctorPlan:
    """The options of `cullama doctor`.

    The backend "auto" stands for the CPU and every GPU, the type "auto" for all that are usual
    there. The sizes are those of `model`, or small ones if `is_quick`.

    Raises:
        UsageError: an unknown backend, a wrong number of threads, or threads for a GPU.
    """

    model: str | None = None
    backend: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    is_deterministic: bool = False
    is_quick: bool = False

    def __post_init__(self) -> None:
        name, colon, which = self.backend.partition(":")
        is_numbered = name == "cuda" and which.isascii() and which.isdecimal()
        has_kernels = name == "cpu" and which != ""
        if name not in BACKENDS or (colon and not (is_numbered or has_kernels)):
            raise UsageError(
                f"backend is {self.backend!r}, expected one of {', '.join(BACKENDS)}, "
                "a GPU's number as in cuda:1, or kernels as in cpu:numpy"
            )
        if has_kernels:
            check_kernels(which)
        if self.needs_cuda and self.threads is not None:
            raise UsageError(f"threads is {self.threads}, which is for the CPU: leave it out")
        choose_threads(self.threads)

    @property
    def has_cpu(self) -> bool:
        return not self.needs_cuda

    @property
    def cpu(self) -> str:
        """Return the CPU backend's name, with its kernels where they were chosen."""
        return "cpu" if self.backend == "auto" else self.backend

    @property
    def has_cuda(self) -> bool:
        return not self.backend.startswith("cpu")

    @property
    def needs_cuda(self) -> bool:
        """Return whether a missing GPU is a problem."""
        return self.backend.startswith("cuda") or self.is_emulated

    @property
    def is_emulated(self) -> bool:
        return self.backend == "emulated"

    @property
    def gpu(self) -> int | None:
        """Return the number of the only GPU to examine, None for all."""
        _, _, index = self.backend.partition(":")
        return int(index) if index and self.needs_cuda else None

    @property
    def cpu_dtypes(self) -> tuple[str, ...]:
        return CPU_DTYPES if self.dtype == "auto" else (self.dtype,)

    @property
    def cuda_dtypes(self) -> tuple[str, ...]:
        return CUDA_DTYPES if self.dtype == "auto" else (self.dtype,)
