"""Tensors of integers as sums of coordinates, and tensors that are one number everywhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

from graphckpt.rewrite.attention.ranges import Linear, linear, range_of, same_everywhere

BATCH, LENGTH = 2, 7
FULL = (BATCH, 3, 5, LENGTH)


def last_node(make: Callable[..., Tensor], *tensors: Tensor) -> fx.Node:
    graphs: list[fx.GraphModule] = []

    def backend(module: fx.GraphModule, inputs: object) -> fx.GraphModule:
        graphs.append(module)
        return module

    torch._dynamo.reset()
    torch.compile(make, backend=backend, fullgraph=True)(*tensors)
    (node,) = graphs[0].graph.find_nodes(op="output")[0].args[0]
    assert isinstance(node, fx.Node)
    return node


def positions() -> Tensor:
    return torch.arange(LENGTH)[None].expand(BATCH, -1)


def steps(first: int = 0, less: int = 1) -> Tensor:
    """What neighbours differ by, the first of them from the one at ``first`` less a number."""
    given = positions()
    return torch.diff(given, prepend=given[:, first : first + 1] - less, dim=-1)


@pytest.mark.parametrize(
    ("make", "form"),
    [
        (lambda: torch.arange(LENGTH), Linear(j=1)),
        (lambda: torch.arange(3, LENGTH + 3) - 5, Linear(j=1, constant=-2)),
        (lambda: torch.arange(LENGTH)[None] + torch.arange(5)[:, None], Linear(i=1, j=1)),
        (lambda: torch.arange(LENGTH) - torch.arange(5)[:, None] + 1, Linear(i=-1, j=1, constant=1)),
        (lambda: torch.arange(LENGTH)[torch.arange(LENGTH)], Linear(j=1)),
        (lambda: torch.arange(LENGTH) * 2, None),
        (lambda: torch.arange(LENGTH).flip(0), None),
    ],
)
def test_sums_of_coordinates(make: Callable[[], Tensor], form: Linear | None) -> None:
    node = last_node(make)
    axes = ("i", "j")[-make().dim() :]
    assert linear(node, axes, FULL) == form
    if form is not None:
        rows, keys = torch.arange(5)[:, None], torch.arange(LENGTH)
        assert torch.equal((form.i * rows + form.j * keys + form.constant), make().expand(5, LENGTH))
        low, high = range_of(form, FULL)
        assert (low, high) == (make().min().item(), make().max().item())


@pytest.mark.parametrize(
    ("make", "number"),
    [
        (steps, 1.0),
        (lambda: torch.diff(positions()), 1.0),
        (lambda: (steps() != 1).cumsum(-1), 0.0),
        (lambda: (torch.diff(torch.arange(LENGTH)) == 2), 0.0),
        (lambda: steps(less=2), None),
        (lambda: steps(first=1), None),
        (lambda: torch.diff(positions(), n=2), None),
        (lambda: torch.diff(positions(), dim=0), None),
        (lambda: (torch.diff(positions()) == 1).cumsum(-1), None),
    ],
)
def test_what_is_the_same_everywhere(make: Callable[[], Tensor], number: float | None) -> None:
    assert same_everywhere(last_node(make)) == number
    if number is not None:
        assert (make() == number).all()


def test_what_comes_in_is_not_known() -> None:
    given = torch.zeros(BATCH, LENGTH, dtype=torch.long)
    assert same_everywhere(last_node(lambda x: x.cumsum(-1), given)) is None
    assert same_everywhere(last_node(lambda x: torch.diff(x), given)) is None
