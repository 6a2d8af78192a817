"""Heads in powers of two."""

from __future__ import annotations

import pytest

from graphckpt.kernels.attention.triton.parts import LEAST, parts_of


@pytest.mark.parametrize(
    ("width", "span", "rest"),
    [
        (16, 16, 0),
        (64, 64, 0),
        (80, 64, 16),
        (96, 64, 32),
        (128, 128, 0),
        (160, 128, 32),
        (192, 128, 64),
        (256, 256, 0),
    ],
)
def test_heads_of_models_waste_nothing(width: int, span: int, rest: int) -> None:
    assert parts_of(width) == (width, span, rest)


def test_any_head_is_held_by_two_powers_that_can_be_multiplied() -> None:
    for width in range(1, 257):
        _, span, rest = parts_of(width)
        assert width <= span + rest < width + max(LEAST, width)
        assert all(part & (part - 1) == 0 and (part >= LEAST or part == 0) for part in (span, rest))
