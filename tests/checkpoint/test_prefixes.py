"""Names of tensors with another prefix, or none, are brought to the usual form."""

from __future__ import annotations

from pathlib import Path

import pytest

from cullama.checkpoint.prefixes import own_names
from cullama.errors import ModelFileError

PATH = Path("a model")
BODY = ["embed_tokens.weight", "layers.0.mlp.up_proj.weight", "layers.1.mlp.up_proj.weight"]
BODY += ["layers.0.input_layernorm.weight", "norm.weight"]
OURS = [f"model.{name}" for name in BODY]


@pytest.mark.parametrize(
    ("body", "head"),
    [
        ("model.", ""),
        ("", ""),
        ("module.model.", "module."),
        ("language_model.model.", "language_model."),
        ("model.language_model.", ""),
        ("base_model.model.model.", "base_model.model."),
        ("model.text_model.", "model."),
        ("_orig_mod.model.", "_orig_mod."),
    ],
)
def test_every_prefix_becomes_the_usual_one(body: str, head: str) -> None:
    theirs = [body + name for name in BODY] + [f"{head}lm_head.weight"]
    ours = [*OURS, "lm_head.weight"]
    assert own_names(PATH, theirs) == dict(zip(ours, theirs, strict=True))


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "_fsdp_wrapped_module."])
def test_wrappers_within_a_name_are_left_out(wrapper: str) -> None:
    theirs = [name.replace("mlp.", f"{wrapper}mlp.") for name in OURS]
    assert own_names(PATH, theirs) == dict(zip(OURS, theirs, strict=True))


def test_what_is_no_part_of_the_language_model_keeps_its_name() -> None:
    theirs = [*BODY, "score.weight", "vision_tower.layers.0.norm.weight", "mm_projector.bias"]
    names = own_names(PATH, theirs)
    assert names.keys() == {*OURS, *theirs[len(BODY) :]}


def test_where_two_models_are_in_a_file_the_one_with_the_usual_prefix_is_meant() -> None:
    names = [*OURS, *BODY]
    assert own_names(PATH, names) == {name: name for name in names}


def test_two_names_that_become_one_are_refused() -> None:
    with pytest.raises(ModelFileError, match=r"given twice, as .*_orig_mod"):
        own_names(PATH, [*(f"model._orig_mod.{name}" for name in BODY), *OURS])
