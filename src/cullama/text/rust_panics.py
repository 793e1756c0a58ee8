"""Recognises panics of Rust extensions, such as the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CullamaError, ModelFileError


@contextmanager
def library_errors(where: Path | str) -> Iterator[None]:
    """Raise ModelFileError, with the place, for what the library raises, panics included."""
    try:
        yield
    except CullamaError:
        raise
    except BaseException as error:  # the library raises plain Exception, or panics
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise ModelFileError(f"{where}: not a valid tokenizer: {error}") from None


def is_panic(error: BaseException) -> bool:
    """Whether an exception is a Rust panic: a failed assertion inside an extension module.

    pyo3's PanicException derives from BaseException, so `except Exception` does not catch it, and
    its class cannot be imported: it is recognised by name.
    """
    return type(error).__name__ == "PanicException" and type(error).__module__ == "pyo3_runtime"
