"""Refuses quantised weights in folders, by the name of their method.

GGUF's quantised types are read; those of other files are not. The method stands in config.json, in
older models in a file beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import UnsupportedModelError
from ...files.fields import load_json
from ...files.regular_file import short_repr

# Fields of config.json. MLX writes the first, beside or without the second.
FIELDS = ("quantization", "quantization_config", "compression_config")
OLDER_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}

# quant_method → the name that people know it by.
NAMES = {
    "awq": "AWQ",
    "gptq": "GPTQ",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "hqq": "HQQ",
    "aqlm": "AQLM",
    "quanto": "quanto",
    "eetq": "EETQ",
    "higgs": "HIGGS",
    "vptq": "VPTQ",
    "spqr": "SpQR",
    "torchao": "torchao",
    "mxfp4": "MXFP4",
    "bitnet": "BitNet",
    "auto-round": "AutoRound",
    "intel/auto-round": "AutoRound",
    "modelopt": "ModelOpt",
    "exl2": "EXL2",
    "exl3": "EXL3",
    "fp_quant": "FP-Quant",
    "mlx": "MLX",
}


def refuse_quantised(path: Path, values: Mapping[str, Any]) -> None:
    """Refuse the model of a config.json whose weights are quantised.

    Raises:
        UnsupportedModelError: names the method, its bits if they are said, and what to do.
        ModelFileError: a file beside it that names the method is damaged.
    """
    found = quantised_by(values)
    for name, method in OLDER_FILES.items():
        older = path.with_name(name)
        if found is None and older.is_file():
            path, found = older, ("content", _weights(load_json(older), method))
    if found is not None:
        name, weights = found
        raise UnsupportedModelError(
            f"{path}: {name} says that these are {weights}, which cullama does not run, expected "
            "float32, float16 or bfloat16: take the model that they were made from, or a GGUF of "
            "it (Q8_0, Q4_K_M …)"
        )


def quantised_by(values: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the field of a config.json that says how its weights are quantised, and what it says:
    "AWQ 4-bit weights"; None where they are not."""
    for name in FIELDS:
        if settings := values.get(name):
            return name, _weights(settings, "mlx" if name == FIELDS[0] else None)
    return None


def _weights(settings: Any, method: str | None) -> str:
    fields = settings if isinstance(settings, Mapping) else {}
    given = fields.get("quant_method", method)
    known = NAMES.get(given.lower()) if isinstance(given, str) else None
    what = known or ("quantised" if given is None else f"quantised ({short_repr(given)})")
    bits = _bits(fields)
    return f"{what} weights" if bits is None else f"{what} {bits}-bit weights"


def _bits(fields: Mapping[str, Any]) -> int | None:
    """Return the bits of a weight, where the settings say them."""
    for flag, bits in (("load_in_4bit", 4), ("load_in_8bit", 8)):
        if fields.get(flag) is True or fields.get(f"_{flag}") is True:
            return bits
    for name in ("bits", "w_bit", "nbits", "num_bits"):
        found = fields.get(name)
        if isinstance(found, int) and not isinstance(found, bool) and 0 < found < 100:
            return found
    inner = fields.get("config_groups") or fields.get("weights") or fields.get("group_0")
    return _bits(inner) if isinstance(inner, Mapping) else None
