"""Every error that cullama raises on purpose; anything else that escapes is a bug of ours.

    CullamaError                     failure: the command line exits with 1
    ├── UsageError                   what was asked for cannot be right: exits with 2
    │   └── ContextLengthError       a prompt, or prompt and answer, longer than the context
    ├── ModelError
    │   ├── ModelNotFoundError       nothing at that path, or under that name
    │   ├── ModelFileError           a file is damaged, or not what it claims to be
    │   ├── UnsupportedModelError    a sound file of a model that cullama does not run
    │   ├── NoTokenizerError         text was asked of a checkpoint that has only token ids
    │   └── ChatTemplateError        a chat template is missing, damaged, or does what it must not
    ├── DownloadError                a model could not be fetched
    ├── DeviceError                  something about the GPU
    │   ├── DeviceUnavailableError   no driver, no device, or one that cannot run our kernels
    │   ├── DeviceMemoryError        it has no room for what was asked
    │   └── DeviceLostError          it failed; nothing runs on it until the process is started anew
    ├── ClosedError                  the model was used after `close()`
    ├── QueueFullError               too many requests are waiting already
    └── NumericalError               the model's output is not a number

A message names what was found, what was expected, and what to do. It knows no traceback.
"""

from __future__ import annotations


class CullamaError(Exception):
    """The root: catch this to catch everything cullama raises."""

    exit_code = 1


class UsageError(CullamaError):
    """What was asked for cannot be right, whatever the machine or the model."""

    exit_code = 2


class ContextLengthError(UsageError):
    """A prompt, or a prompt with the answer asked for, does not fit the context."""


class ModelError(CullamaError):
    """Something about a model keeps it from being used."""


class ModelNotFoundError(ModelError):
    """There is no model at that path, or none under that name."""


class ModelFileError(ModelError):
    """A model file is damaged, or not what it claims to be."""


class UnsupportedModelError(ModelError):
    """The files are sound; the model is one that cullama does not run."""


class NoTokenizerError(ModelError):
    """Text was asked of a checkpoint that came without a usable tokenizer."""


class ChatTemplateError(ModelError):
    """A conversation cannot be written down: the template is missing, damaged or hostile."""


class DownloadError(CullamaError):
    """A model could not be fetched; nothing half-written is taken for a model."""


class DeviceError(CullamaError):
    """The GPU, its driver or its libraries did not do what was asked."""


class DeviceUnavailableError(DeviceError):
    """There is no GPU that can be used: for what `reason`, and what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}, or use --backend cpu")
        self.reason, self.remedy = reason, remedy


class DeviceMemoryError(DeviceError):
    """The GPU has no room for what was asked."""


class DeviceLostError(DeviceError):
    """The GPU failed and does nothing more for this process; the CPU backend goes on."""


class ClosedError(CullamaError):
    """The model was closed, and its memory returned, before this call."""


class QueueFullError(CullamaError):
    """So many requests are waiting that another would only wait; try again later."""


class NumericalError(CullamaError):
    """The model's output holds NaN or infinity, so no token can be drawn from it."""
