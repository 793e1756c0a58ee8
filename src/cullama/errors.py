"""Every error that cullama raises on purpose; any other exception that escapes is a bug.

    CullamaError                     failure: the command line exits with 1
    ├── UsageError                   the request itself is wrong: exits with 2
    │   ├── ContextLengthError       a prompt, or prompt and answer, longer than the context
    │   ├── ConstraintError          a schema, grammar … that cannot be followed
    │   └── UnknownOptionError       a keyword that does not exist; a TypeError, too
    ├── ModelError
    │   ├── ModelNotFoundError       nothing at that path, or under that name
    │   ├── ModelFileError           a file is damaged, or not what it claims to be
    │   ├── UnsupportedModelError    a valid file of a model that cullama does not run
    │   ├── NoTokenizerError         text was asked of a checkpoint that has only token ids
    │   └── ChatTemplateError        a chat template is missing, damaged, or does what it must not
    ├── DownloadError                a model could not be fetched
    ├── DeviceError                  something about the GPU
    │   ├── DeviceUnavailableError   no driver, no device, or one that cannot run our kernels
    │   ├── DeviceMemoryError        it has no room for what was asked
    │   └── DeviceLostError          it failed; nothing runs on it until the process is restarted
    ├── HostMemoryError              this process may not have the memory that is needed
    ├── ClosedError                  the model was used after `close()`
    ├── QueueFullError               too many requests are waiting already
    ├── EngineUnavailableError       the engine's process is loading, being replaced, or failed
    └── NumericalError               the model's output is NaN or infinite

A message names what was found, what was expected, and what to do. This file imports nothing.
"""

from __future__ import annotations


class CullamaError(Exception):
    """The root of the tree: catch this to catch everything that cullama raises."""

    exit_code = 1


class UsageError(CullamaError):
    """The request is wrong on any machine and for any model."""

    exit_code = 2


class ContextLengthError(UsageError):
    """A prompt, or a prompt and its `max_tokens`, does not fit the context."""


class ConstraintError(UsageError):
    """A schema, grammar, expression or choice is wrong, too large, not supported, or cannot be
    written with the model's vocabulary. `param` names the parameter."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param

    def __reduce__(self) -> tuple[type[ConstraintError], tuple[str, str]]:
        return type(self), (self.param, str(self))


class UnknownOptionError(UsageError, TypeError):
    """A keyword does not exist; Python raises TypeError for one, so this is one, too."""


class ModelError(CullamaError):
    """A model cannot be used."""


class ModelNotFoundError(ModelError):
    """There is no model at that path, or none under that name."""


class ModelFileError(ModelError):
    """A model file is damaged, or not what it claims to be."""


class UnsupportedModelError(ModelError):
    """The files are valid; cullama does not run this kind of model."""


class NoTokenizerError(ModelError):
    """Text was given to, or asked of, a checkpoint without a usable tokenizer."""


class ChatTemplateError(ModelError):
    """A conversation cannot be rendered: the template is missing, damaged or hostile."""


class DownloadError(CullamaError):
    """A model could not be fetched; partial files are never taken for a model."""


class DeviceError(CullamaError):
    """The GPU, its driver or one of its libraries failed."""


class DeviceUnavailableError(DeviceError):
    """No GPU can be used; `reason` says why, `remedy` what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}, or use --backend cpu")
        self.reason, self.remedy = reason, remedy

    def __reduce__(self) -> tuple[type[DeviceUnavailableError], tuple[str, str]]:
        return type(self), (self.reason, self.remedy)


class DeviceMemoryError(DeviceError):
    """The GPU has too little free memory."""


class DeviceLostError(DeviceError):
    """The GPU failed and is lost to this process; the CPU backend still works."""


class HostMemoryError(CullamaError):
    """The machine, its container or a limit of this process has too little memory."""


class ClosedError(CullamaError):
    """The model was closed before this call."""


class QueueFullError(CullamaError):
    """Too many requests are waiting; try again later."""


class EngineUnavailableError(CullamaError):
    """The engine's process is loading, being replaced, or has failed for good."""


class NumericalError(CullamaError):
    """The model's output holds NaN or infinity, so no token can be drawn from it."""
