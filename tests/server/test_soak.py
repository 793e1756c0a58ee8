"""What a server survives, as processes: a slice of `make soak-server`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gpu
import pytest
from soak import access, device, disconnects, endings, floods, overload
from soak.figures import Figure

SEED = 1


def check(found: list[Figure]) -> None:
    assert found
    missed = [figure for figure in found if not figure.is_met and not figure.is_timed]
    assert not missed


@pytest.mark.parametrize(
    ("attack", "scale"),
    [
        (access.figures, 0.01),
        (floods.figures, 0.02),
        (disconnects.figures, 0.02),
        (overload.figures, 0.03),
        (endings.figures, 0.03),
    ],
    ids=["access", "floods", "disconnects", "overload", "endings"],
)
def test_a_server_survives(
    chat_model: Path, attack: Callable[[Path, float, int], list[Figure]], scale: float
) -> None:
    check(attack(chat_model, scale, SEED))


def test_a_row_of_nan_ends_its_request_alone(chat_model: Path) -> None:
    check(endings.nan_figures(chat_model, 1.0, SEED))


def test_a_lost_gpu_and_too_little_memory_are_survived(chat_model: Path) -> None:
    gpu.require_emulated()
    check(device.figures(chat_model, 0.03, SEED))
