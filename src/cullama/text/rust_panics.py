"""Recognises panics of Rust extensions, such as the `tokenizers` library. It handles none."""

from __future__ import annotations


def is_panic(error: BaseException) -> bool:
    """Whether an exception is a Rust panic: a failed assertion inside an extension module.

    pyo3's PanicException derives from BaseException, so `except Exception` does not catch it, and
    its class cannot be imported: it is recognised by name.
    """
    return type(error).__name__ == "PanicException" and type(error).__module__ == "pyo3_runtime"
