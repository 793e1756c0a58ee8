"""Names of GGUF files: parts of one model go together."""

from __future__ import annotations

import pytest

from cullama.files.gguf_names import Part, first_part, is_weights, missing_parts, parts_among

FILES = [
    "q8/a-00001-of-00002.gguf",
    "q8/a-00002-of-00002.gguf",
    "a-00002-of-00003.gguf",
    "a.gguf",
    "mmproj-a.gguf",
]


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("a-00002-of-00003.gguf", Part("a", 2, 3)),
        ("x/a-b-00001-of-00001.gguf", Part("x/a-b", 1, 1)),
        ("a-2-of-3.gguf", None),
        ("a-00002-of-00003.gguf.part", None),
        ("a.gguf", None),
        ("", None),
    ],
)
def test_a_part_is_known_by_its_name(file: str, part: Part | None) -> None:
    assert Part.parsed(file) == part
    assert part is None or part.file(part.number) == file


def test_a_model_goes_by_its_first_part() -> None:
    assert [first_part(file) for file in FILES[1:4]] == [
        "q8/a-00001-of-00002.gguf",
        "a-00001-of-00003.gguf",
        "a.gguf",
    ]


def test_the_parts_of_a_model_lie_in_one_folder() -> None:
    assert parts_among("q8/a-00002-of-00002.gguf", FILES) == FILES[:2]
    assert parts_among("a.gguf", FILES) == ["a.gguf"]
    assert missing_parts("q8/a-00001-of-00002.gguf", FILES) == []
    assert missing_parts("a-00001-of-00003.gguf", FILES) == [
        "a-00001-of-00003.gguf",
        "a-00003-of-00003.gguf",
    ]
    assert missing_parts("b.gguf", FILES) == ["b.gguf"]


def test_a_name_that_claims_many_parts_does_not_list_them_all() -> None:
    assert len(missing_parts("a-00001-of-99999.gguf", FILES)) == 100


def test_projectors_and_importance_matrices_are_no_weights() -> None:
    files = ["a.gguf", "x/mmproj-F16.gguf", "imatrix.gguf", "a.bin"]
    assert list(filter(is_weights, files)) == ["a.gguf"]
