"""Names of models on the hub: what is one, and which file it means."""

from __future__ import annotations

import pytest

from cullama.errors import ModelNotFoundError
from cullama.hub.name import HubName, chosen_gguf, quantisation_of

SEVERAL = [
    "Model-BF16.gguf",
    "Model-IQ4_XS.gguf",
    "Model-Q4_0.gguf",
    "Model-Q4_K_M.gguf",
    "Model-Q4_K_S.gguf",
    "Q8_0/Model-Q8_0-00001-of-00002.gguf",
    "Q8_0/Model-Q8_0-00002-of-00002.gguf",
    "folder/other.gguf",
    "mmproj-BF16.gguf",
    "README.md",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", HubName("owner/name")),
        ("Qwen/Qwen2.5-0.5B_x", HubName("Qwen/Qwen2.5-0.5B_x")),
        ("owner/name:Q4_K_M", HubName("owner/name", "Q4_K_M")),
        ("owner/name:folder/a b.gguf", HubName("owner/name", "folder/a b.gguf")),
        ("owner/name@v1.0", HubName("owner/name", None, "v1.0")),
        ("owner/name@refs/pr/1", HubName("owner/name", None, "refs/pr/1")),
        ("owner/name:Q4_0@main", HubName("owner/name", "Q4_0", "main")),
        ("owner/name@main:Q4_0", HubName("owner/name", "Q4_0", "main")),
    ],
)
def test_a_hub_name_is_a_repository_with_an_optional_file_and_revision(
    text: str, expected: HubName
) -> None:
    assert HubName.parsed(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "name", "a/b/c", "/a/b", "a/", "~/a", "./a", "../a", "a/..", "a\nb/c", "a/b\n"),
        *("a/b.gguf", "a/b.safetensors", "a--b/c", "a/b..c", "-a/b", "a/b-", "ä/b", "a/b:", "a/b@"),
        *("a/b:../c.gguf", "a/b:/c.gguf", "a/b:c//d", "a/b@../../x", "a/b@x/../y", "a/b@x:c@y"),
        *("C:/models/a", "https://huggingface.co/a/b", "a/b@x\n", "a/b:..\\c.gguf"),
    ],
)
def test_an_invalid_hub_name_is_parsed_as_none(text: str) -> None:
    assert HubName.parsed(text) is None


@pytest.mark.parametrize("text", ["a/b", "a/b:Q4_0", "a/b@main", "a/b:c/d.gguf@main"])
def test_a_hub_name_is_printed_as_it_was_parsed(text: str) -> None:
    assert str(HubName.parsed(text)) == text


@pytest.mark.parametrize(
    ("file", "meant"),
    [
        ("Q4_K_M", "Model-Q4_K_M.gguf"),
        ("q4_k_m", "Model-Q4_K_M.gguf"),
        ("Q4_0", "Model-Q4_0.gguf"),
        ("IQ4_XS", "Model-IQ4_XS.gguf"),
        ("bf16", "Model-BF16.gguf"),
        ("other", "folder/other.gguf"),
        ("folder/other.gguf", "folder/other.gguf"),
        ("Model-Q4_0.gguf", "Model-Q4_0.gguf"),
        ("Q8_0", "Q8_0/Model-Q8_0-00001-of-00002.gguf"),
        ("Q8_0/Model-Q8_0-00002-of-00002.gguf", "Q8_0/Model-Q8_0-00001-of-00002.gguf"),
    ],
)
def test_a_gguf_file_is_chosen_by_quantisation_or_path(file: str, meant: str) -> None:
    assert chosen_gguf(HubName("a/b", file), SEVERAL) == meant


@pytest.mark.parametrize(
    ("file", "found"),
    [
        (None, r"a/b means 7 GGUF files; name one: a/b:BF16, a/b:IQ4_XS, .*a/b:Q8_0, a/b:folder"),
        ("Model", r"means 6 GGUF files"),
        ("Q4_K", r"names no GGUF file there; name one: a/b:BF16, .*a/b:folder/other.gguf$"),
        ("_0", r"names no GGUF file"),
        ("Model-Q4_9.gguf", r"names no GGUF file"),
    ],
)
def test_an_ambiguous_or_unknown_file_is_refused_with_the_choices(
    file: str | None, found: str
) -> None:
    with pytest.raises(ModelNotFoundError, match=found):
        chosen_gguf(HubName("a/b", file), SEVERAL)


def test_files_without_a_unique_quantisation_are_named_by_path() -> None:
    files = ["Model-Q4_0.gguf", "UD/Model-Q4_0.gguf", "plain.gguf"]
    names = [str(HubName("a/b", revision="v1").with_file(file, files)) for file in files]
    assert names == [f"a/b:{file}@v1" for file in files]


def test_the_parts_of_a_split_model_are_one_file_to_choose() -> None:
    parts = [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert chosen_gguf(HubName("a/b"), parts) == parts[0]


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_split_model_of_which_a_part_is_missing_is_refused_with_its_name(missing: int) -> None:
    parts = [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    gone = parts.pop(missing - 1)
    with pytest.raises(ModelNotFoundError, match=f"of which {gone} is missing there"):
        chosen_gguf(HubName("a/b"), parts)


@pytest.mark.parametrize(
    ("file", "quantisation"),
    [
        ("a/SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("Qwen3-8B-UD-Q4_K_XL.gguf", "Q4_K_XL"),
        ("model_iq2_xxs.gguf", "iq2_xxs"),
        ("model-f16.gguf", "f16"),
        ("Q4_0/model.gguf", None),
        ("model.gguf", None),
    ],
)
def test_the_quantisation_is_read_from_the_file_name(file: str, quantisation: str | None) -> None:
    assert quantisation_of(file) == quantisation
