"""Masks read back from the calls that make them.

    allowed(i, j)   le(j, i)                 ->  high 0
                    j > i - 4                ->  low -3
                    keys[b, j]               ->  padding
                    ids[b, i] == ids[b, j]   ->  documents
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from graphckpt.rewrite.attention.coordinates import At, NotProven, axes_of
from graphckpt.rewrite.attention.masks import Proven, read_mask
from tests.dynamo import captured

FULL = (2, 3, 7, 9)
BATCH, _, ROWS, KEYS = FULL
Condition = Callable[..., Tensor]


def proven(
    condition: Condition, is_true: bool = True, sizes: tuple[int, int, int, int] = FULL, **tensors: Tensor
) -> Proven:
    """What is proven of a condition that broadcasts to scores of these sizes."""
    result = captured(condition, **tensors).result
    found = Proven(sizes)
    read_mask(At(result, axes_of(result, sizes)), is_true, found)
    return found


def _rows() -> Tensor:
    return torch.arange(ROWS)[:, None]


def _keys() -> Tensor:
    return torch.arange(KEYS)[None, :]


@pytest.mark.parametrize(
    ("condition", "low", "high"),
    [
        (lambda: _keys() <= _rows(), None, 0),
        (lambda: _keys() < _rows(), None, -1),
        (lambda: _rows() >= _keys(), None, 0),
        (lambda: _keys() > _rows() - 4, -3, None),
        (lambda: _keys() - _rows() <= 2, None, 2),
        (lambda: (_keys() <= _rows()) & (_keys() > _rows() - 4), -3, 0),
        (lambda: ~(_keys() > _rows()), None, 0),
        (lambda: _keys() == _rows() + 1, 1, 1),
        (lambda: _keys() >= 0 * _rows(), None, None),
        (lambda: torch.ones(ROWS, KEYS, dtype=torch.bool).tril(), None, 0),
        (lambda: torch.ones(ROWS, KEYS, dtype=torch.bool).tril(1).triu(-2), -2, 1),
        (lambda: (_keys() <= _rows())[None, None].expand(BATCH, 1, -1, -1), None, 0),
        (lambda: torch.arange(2, KEYS + 2)[None, :] <= torch.arange(2, ROWS + 2)[:, None], None, 0),
        (lambda: ~torch.where(_keys() <= _rows(), 0.0, -1e38).to(torch.bool), None, 0),
        (lambda: torch.where(_keys() <= _rows(), 1.0, 0.0).bool(), None, 0),
    ],
)
def test_bands(condition: Condition, low: int | None, high: int | None) -> None:
    found = proven(condition)
    assert (found.low, found.high, found.keys, found.documents) == (low, high, [], None)
    rows, keys = torch.arange(ROWS)[:, None], torch.arange(KEYS)[None, :]
    band = torch.ones(ROWS, KEYS, dtype=torch.bool)
    band &= keys - rows >= (low if low is not None else -ROWS)
    band &= keys - rows <= (high if high is not None else KEYS)
    allowed = condition()
    assert torch.equal(band, allowed.expand(BATCH, 1, ROWS, KEYS)[0, 0] if allowed.dim() == 4 else allowed.expand(ROWS, KEYS))


def test_padding_by_views_and_by_indices() -> None:
    """``x[:, None, None, :]`` and ``x[b, j]`` of ranges; hidden where a tensor is true is allowed where it is false."""
    keys = torch.ones(BATCH, KEYS, dtype=torch.bool)
    (part,) = proven(lambda keys: keys[:, None, None, :] & (_keys() <= _rows()), keys=keys).keys
    assert (part.negated, part.at.axes) == (False, ("b", "j"))
    indexed = lambda keys: keys[torch.arange(BATCH)[:, None, None, None], torch.arange(KEYS)[None, None, None, :]]  # noqa: E731
    (part,) = proven(indexed, is_true=False, keys=keys).keys
    assert (part.negated, part.at.node.op, part.at.axes) == (True, "placeholder", ("b", "j"))


def test_queries_that_attend_to_nothing() -> None:
    """``keys * queries`` of integers is true where both are; a query's part is none of its keys."""
    rows, keys = torch.ones(BATCH, ROWS, dtype=torch.long), torch.ones(BATCH, KEYS, dtype=torch.long)
    found = proven(lambda rows, keys: (keys[:, None, None, :] * rows[:, None, :, None]).bool(), rows=rows, keys=keys)
    assert [(part.at.axes, part.negated) for part in (*found.rows, *found.keys)] == [(("b", "i"), False), (("b", "j"), False)]
    with pytest.raises(NotProven):
        proven(lambda rows, keys: (keys[:, None, None, :] * rows[:, None, :, None] * 0.5).bool(), rows=rows, keys=keys)
    with pytest.raises(NotProven):
        proven(lambda rows, keys: (keys[:, None, None, :] * rows[:, None, :, None]).bool(), is_true=False, rows=rows, keys=keys)


def test_documents() -> None:
    ids = torch.zeros(BATCH, KEYS, dtype=torch.long)
    found = proven(lambda q, k: q[:, None, :, None] == k[:, None, None, :], q=ids[:, :ROWS].clone(), k=ids)
    assert found.documents is not None
    assert [side.axes for side in found.documents] == [("b", "i"), ("b", "j")]


@pytest.mark.parametrize(
    "condition",
    [
        lambda x: (x[:, None, None, :] | (_keys() <= _rows())),
        lambda x: x[:, None, None, :].flip(-1).cumsum(-1) > _rows(),
        lambda x: ((_keys() <= _rows()) | (_keys() % 2 == 0)) & x[:, None, None, :],
        lambda x: x[:, None, None, :] & torch.where(_keys() + x.sum() <= _rows(), 0.0, 1e-50).bool(),
    ],
    ids=["or", "of i, j and b", "no band", "a number that is none"],
)
def test_what_is_not_proven_says_so(condition: Condition) -> None:
    with pytest.raises(NotProven):
        proven(condition, x=torch.ones(BATCH, KEYS, dtype=torch.bool))
