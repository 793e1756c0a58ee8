"""Names the tokens by which published models end a turn or a text, however their files flag them.

It knows names only; which tokens a template writes is found by `chat/format.py`.
"""

from __future__ import annotations

import re

# Text in brackets on one line, as control tokens are written.
SHAPE = re.compile(r"[<\[{][^<>\[\]{}\n]{1,62}[>\]}]")

# Those that llama.cpp ends a generation at (`llama-vocab.cpp`), as far as the families that
# cullama runs have them.
END_NAMES = frozenset(
    {
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|END_OF_TURN_TOKEN|>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "<｜end▁of▁sentence｜>",
        "<EOT>",
        "[EOT]",
        "[EOS]",
        "<eos>",
        "</s>",
    }
)
