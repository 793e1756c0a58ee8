"""Find models by name: on this machine, on the Hugging Face hub, on the package index."""

from .resolve import DEFAULT_MODEL, Progress, model_title, resolve_model

__all__ = ["DEFAULT_MODEL", "Progress", "model_title", "resolve_model"]
