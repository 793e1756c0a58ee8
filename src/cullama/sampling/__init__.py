"""What a request asks of the sampler, and the sampler: logits become tokens."""

from .params import SamplingParams, TokenLogprobs

__all__ = ["SamplingParams", "TokenLogprobs"]
