"""Runs of positions, comparisons within them, and tensors that are one number everywhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from graphckpt.rewrite.attention.coordinates import NotProven
from graphckpt.rewrite.attention.positions import run_source, same_everywhere
from tests.dynamo import captured
from tests.rewrite.attention.test_masks import proven
from tests.rewrite.attention.test_ranges import BATCH, LENGTH


def positions() -> Tensor:
    return torch.arange(LENGTH)[None].expand(BATCH, -1)


def steps(first: int = 0, less: int = 1) -> Tensor:
    """What neighbours differ by, the first of them from the one at ``first`` less a number."""
    given = positions()
    return torch.diff(given, prepend=given[:, first : first + 1] - less, dim=-1)


@pytest.mark.parametrize(
    ("make", "number"),
    [
        (steps, 1.0),
        (lambda: torch.diff(positions()), 1.0),
        (lambda: (steps() != 1).cumsum(-1), 0.0),
        (lambda: (torch.diff(torch.arange(LENGTH)) == 2), 0.0),
        (lambda: steps(less=2), None),
        (lambda: steps(first=1), None),
        (lambda: torch.diff(positions(), 1, -1, positions()[:, :1] - 1, positions()[:, -1:] + 5), None),
        (lambda: torch.diff(positions(), n=2), None),
        (lambda: torch.diff(positions(), dim=0), None),
        (lambda: (torch.diff(positions()) == 1).cumsum(-1), None),
    ],
)
def test_what_is_the_same_everywhere(make: Callable[[], Tensor], number: float | None) -> None:
    assert same_everywhere(captured(make).result) == number
    if number is not None:
        assert (make() == number).all()


def test_what_comes_in_is_not_known() -> None:
    given = torch.zeros(BATCH, LENGTH, dtype=torch.long)
    assert same_everywhere(captured(lambda x: x.cumsum(-1), given).result) is None
    assert same_everywhere(captured(lambda x: torch.diff(x), given).result) is None


def runs_of(given: Tensor, less: int = 1, step: int = 1) -> Tensor:
    return (torch.diff(given, prepend=given[:, :1] - less, dim=-1) != step).cumsum(-1)


def test_runs_are_told_from_what_only_looks_like_them() -> None:
    given = torch.zeros(BATCH, LENGTH, dtype=torch.long)
    assert run_source(captured(runs_of, given).result).op == "placeholder"  # type: ignore[union-attr]
    for strange in (
        lambda x: runs_of(x, less=2),
        lambda x: runs_of(x, step=2),
        lambda x: (torch.diff(x, prepend=x[:, 1:2] - 1, dim=-1) != 1).cumsum(-1),
        lambda x: (torch.diff(x, prepend=x[:, :1] - 1, dim=-1) != 1).cumsum(0),
        lambda x: (torch.diff(x, prepend=x[:, :1] - 1, dim=-1) == 1).cumsum(-1),
        lambda x: x.cumsum(-1),
    ):
        assert run_source(captured(strange, given).result) is None


def seen(x: Tensor, runs: Tensor, *, within: bool = True) -> Tensor:
    """Keys up to the query's own position, within its run or wherever."""
    by_query, by_key = x[:, None, :, None], x[:, None, None, :]
    same = runs[:, None, :, None] == runs[:, None, None, :]
    return same & (by_key <= by_query) if within else by_key <= by_query


def test_within_a_run_positions_are_compared_as_places_are() -> None:
    x = torch.zeros(BATCH, LENGTH, dtype=torch.long)
    found = proven(lambda x: seen(x, runs_of(x)), sizes=(BATCH, 3, LENGTH, LENGTH), x=x)
    assert (found.low, found.high, found.orders) == (None, 0, [])
    assert found.documents is not None


@pytest.mark.parametrize(
    "condition",
    [
        lambda x, y: seen(x, x, within=False),
        lambda x, y: seen(x, runs_of(y)),
        lambda x, y: seen(x, y),
        lambda x, y: seen(x.float(), runs_of(x)),
    ],
    ids=["no runs", "runs of another", "documents of another kind", "no integers"],
)
def test_elsewhere_they_are_not(condition: Callable[..., Tensor]) -> None:
    x, y = (torch.zeros(BATCH, LENGTH, dtype=torch.long) for _ in range(2))
    with pytest.raises(NotProven):
        proven(condition, sizes=(BATCH, 3, LENGTH, LENGTH), x=x, y=y)
