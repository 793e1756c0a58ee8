"""Sampling: what a request may ask for, and how logits become tokens."""

from .params import SamplingParams, TokenLogprobs

__all__ = ["SamplingParams", "TokenLogprobs"]
