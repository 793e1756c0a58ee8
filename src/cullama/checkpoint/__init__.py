"""Model files: safetensors folders and GGUF files, behind one `open_checkpoint`."""

from .checkpoint import Checkpoint, open_checkpoint

__all__ = ["Checkpoint", "open_checkpoint"]
