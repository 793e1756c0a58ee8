"""Write tests/fixtures/sentencepiece: small tokenizer.model files, and what sentencepiece encodes.

Each model is trained on the sentences below; `expected.json` holds the ids that the sentencepiece
library gives for the texts, and the texts that it decodes them to. It does not import cullama; it
needs sentencepiece:

    python scripts/make_sentencepiece_fixtures.py [folder]
"""

from __future__ import annotations

import io
import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import sentencepiece

SUBJECTS = ("The old llama", "A small ferry", "Her brother", "The café in Zürich", "Nobody")
VERBS = ("counts", "crosses", "remembers", "sells", "paints")
OBJECTS = ("the river", "twelve clocks", "3 notes of 1999", "crème brûlée", "東京 and the sea")
ENDINGS = (" every morning.", ", and then rests.", "!  Twice a day?", "; x < y [1/2] | z > 0 <a_b>")
SENTENCES = ["".join(it) for it in product(*(
    [f"{it} " for it in SUBJECTS], [f"{it} " for it in VERBS], OBJECTS, ENDINGS
))]  # fmt: skip

# name → what differs from Llama 2's settings
MODELS: dict[str, dict[str, Any]] = {
    "bpe": {},
    "bpe_bare": {"add_dummy_prefix": False, "byte_fallback": False, "vocab_size": 250},
    "bpe_spaces": {"remove_extra_whitespaces": True},
    "unigram": {"model_type": "unigram", "hard_vocab_limit": False},
    "unigram_spaces": {
        "model_type": "unigram",
        "hard_vocab_limit": False,
        "remove_extra_whitespaces": True,
    },
}
SETTINGS: dict[str, Any] = {
    "model_type": "bpe",
    "vocab_size": 450,
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "split_digits": True,
    "character_coverage": 0.9995,
    "control_symbols": ["<|im_start|>", "<|im_end|>"],
    "user_defined_symbols": ["<tool>"],
    "minloglevel": 2,
}

TEXTS = [
    "",
    " ",
    "The old llama crosses the river",
    " leading space, and  two   three    spaces ",
    "Nobody remembers 1999!\nA new line\tand a tab\r\n",
    "Zürich sells crème brûlée — twice; e\u0301",
    "東京 and the 漢字 🦙☃",
    "counts<tool>crosses <tool> paints",
    "<s>[INST]</s><unk> <|im_end|>",
    "▁ ▁▁ a▁b",
    "cafécafé llamallama thethe ssss aaaa",
    "\0\x7f\u200b\ufeff",
    "x" * 40 + " " * 20 + "1234567890",
]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    expected = {}
    for name, changes in MODELS.items():
        content = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES), model_writer=content, **{**SETTINGS, **changes}
        )
        (folder / f"{name}.model").write_bytes(content.getvalue())
        processor = sentencepiece.SentencePieceProcessor(model_proto=content.getvalue())
        ids = [processor.encode(text) for text in TEXTS]
        expected[name] = [
            {"text": text, "ids": found, "decoded": processor.decode(found)}
            for text, found in zip(TEXTS, ids, strict=True)
        ]
    text = json.dumps(expected, ensure_ascii=True, indent=1) + "\n"
    (folder / "expected.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    here = Path(__file__).parents[1] / "tests" / "fixtures" / "sentencepiece"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else here)
