"""Panics of the libraries that are written in Rust. It knows how pyo3 hands them to Python."""

from __future__ import annotations


def is_panic(error: BaseException) -> bool:
    """Whether a library met what its authors held to be impossible.

    pyo3 derives its PanicException from BaseException, so that `except Exception` lets it pass
    as it lets Ctrl-C pass, and keeps the class to itself, in a module that cannot be imported.
    """
    return type(error).__name__ == "PanicException" and type(error).__module__ == "pyo3_runtime"
