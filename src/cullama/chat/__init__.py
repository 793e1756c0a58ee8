"""Conversations: messages, chat templates and sessions."""

from .format import ChatFormat

__all__ = ["ChatFormat"]
