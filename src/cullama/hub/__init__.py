"""Models by name: what is here, what is fetched, and from where."""

from .resolve import DEFAULT_MODEL, Progress, model_title, resolve_model

__all__ = ["DEFAULT_MODEL", "Progress", "model_title", "resolve_model"]
