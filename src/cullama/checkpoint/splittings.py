r"""Lists how byte-level tokenizers split a text into words, by llama.cpp's names for it.

Patterns and names are facts of the published tokenizer.json files, and of llama.cpp's
`llama-vocab.cpp`, whose table `tokenizer.ggml.pre` refers to. Where llama.cpp had to adapt a
pattern to its own engine, as it has no `\p{Lu}`, the original is used. Tokenizers are built from
them in `gguf_tokenizer.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_CASED_WORD_WITH_ENDING = _CASED_WORD.replace("|", f"{_ENDINGS}?|") + f"{_ENDINGS}?"

# DeepSeek's letters with case, and its punctuation, range by range.
_LETTERS_WITH_CASE = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕ"
    "ἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳ"
    "Ꙁ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_CHINESE_AND_KOREAN = "[一-龥ࠀ-一가-퟿]+"
_CHINESE_AND_JAPANESE = "[一-龥぀-ゟ゠-ヿ]+"
_ASCII_SYMBOL = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""


@dataclass(frozen=True)
class Splitting:
    """How text is split into words, inside which tokens are merged."""

    patterns: tuple[str, ...]  # applied in turn, each to what those before it left whole
    normalize: bool = False  # to NFC, before splitting
    # As in tiktoken, where these come from: a word that is a token needs no merges to become it.
    ignore_merges: bool = False
    add_bos: bool = False  # where the file does not say


def _one(*alternatives: str, **settings: bool) -> Splitting:
    return Splitting(("|".join(alternatives),), **settings)


_LLAMA3 = _one(_ENDINGS, _WORD, r"\p{N}{1,3}", _SYMBOLS, _SPACES)
_QWEN2 = _one(_ENDINGS, _WORD, r"\p{N}", _SYMBOLS, _SPACES)
_DIGITS = Splitting((r"\p{N}", GPT2))
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"

# Splittings, and all names of each. "default" is llama.cpp's, for files that name none.
_NAMES: tuple[tuple[str, Splitting], ...] = (
    ("default", Splitting((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))),
    (
        "gpt-2 phi-2 gigachat a.x-4.0 mellum mpt olmo jais trillion granite-docling exaone4",
        Splitting((GPT2,)),
    ),
    ("smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", _DIGITS),
    (
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
        replace(_LLAMA3, ignore_merges=True, add_bos=True),
    ),
    ("smaug-bpe dbrx glm4 chatglm-bpe", _LLAMA3),
    ("qwen2", replace(_QWEN2, normalize=True)),
    ("deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", _QWEN2),
    (
        "qwen35",
        _one(
            _ENDINGS,
            r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
            _SPACES,
        ),
    ),
    ("ufakzeka", _one(_WORD, r"\p{N}", _SYMBOLS, _SPACES)),
    ("seed-coder", _one(_ENDINGS, _WORD, r"\p{N}", r" ?[^\s\p{L}\p{N}\r\n]+", _SPACES)),
    (
        "minicpm5",
        Splitting(
            (r"\p{N}{1,3}", "|".join([_ENDINGS, _WORD, r"\p{N}+", _SYMBOLS, _SPACES])),
            ignore_merges=True,
        ),
    ),
    (
        "tekken",
        _one(
            *(_CASED_WORD, r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", _SPACES),
            ignore_merges=True,
            add_bos=True,
        ),
    ),
    (
        "gpt-4o llama4 kanana2 talkie minimax-m2",
        _one(_CASED_WORD_WITH_ENDING, r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", _SPACES),
    ),
    (
        "deepseek-llm",
        Splitting(
            (
                r"[\r\n]",
                rf"\s?[{_LETTERS_WITH_CASE}]+",
                r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
                r"\s+$",
                _CHINESE_AND_KOREAN,
                r"\p{N}+",
            )
        ),
    ),
    (
        "deepseek-coder",
        Splitting((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CHINESE_AND_KOREAN, r"\p{N}")),
    ),
    (
        "deepseek-v3 hunyuan-dense joyai-llm",
        Splitting(
            (
                r"\p{N}{1,3}",
                _CHINESE_AND_JAPANESE,
                "|".join(
                    [
                        rf"{_ASCII_SYMBOL}[A-Za-z]+",
                        r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
                        r" ?[\p{P}\p{S}]+[\r\n]*",
                        _SPACES,
                    ]
                ),
            )
        ),
    ),
    (
        "falcon",
        Splitting((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]")),
    ),
    ("bloom poro-chat gpt3-finnish", Splitting((_BLOOM,))),
    ("viking", Splitting((_BLOOM, r"\p{N}"))),
)

FIRST_NAMES = tuple(names.split()[0] for names, _ in _NAMES)
SPLITTINGS = {name: splitting for names, splitting in _NAMES for name in names.split()}
