"""Tensors of integers as sums of coordinates, and tensors that are one number everywhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from graphckpt.rewrite.attention.ranges import Linear, linear, range_of
from tests.dynamo import captured

BATCH, LENGTH = 2, 7
FULL = (BATCH, 3, 5, LENGTH)


@pytest.mark.parametrize(
    ("make", "form"),
    [
        (lambda: torch.arange(LENGTH), Linear(j=1)),
        (lambda: torch.arange(3, LENGTH + 3) - 5, Linear(j=1, constant=-2)),
        (lambda: torch.arange(LENGTH)[None] + torch.arange(5)[:, None], Linear(i=1, j=1)),
        (lambda: torch.arange(LENGTH) - torch.arange(5)[:, None] + 1, Linear(i=-1, j=1, constant=1)),
        (lambda: torch.arange(LENGTH)[torch.arange(LENGTH)], Linear(j=1)),
        (lambda: torch.arange(LENGTH, dtype=torch.uint8) - torch.arange(5, dtype=torch.uint8)[:, None], None),
        (lambda: torch.arange(LENGTH) * 2, None),
        (lambda: torch.arange(LENGTH).flip(0), None),
    ],
)
def test_sums_of_coordinates(make: Callable[[], Tensor], form: Linear | None) -> None:
    node = captured(make).result
    axes = ("i", "j")[-make().dim() :]
    assert linear(node, axes, FULL) == form
    if form is not None:
        rows, keys = torch.arange(5)[:, None], torch.arange(LENGTH)
        assert torch.equal((form.i * rows + form.j * keys + form.constant), make().expand(5, LENGTH))
        low, high = range_of(form, FULL)
        assert (low, high) == (make().min().item(), make().max().item())
