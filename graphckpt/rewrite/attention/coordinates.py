"""Tensors that are broadcast to scores, and what each of their dimensions counts there: batches b, heads h, queries i, keys j."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import fx

from graphckpt.rewrite.attention.calls import (
    CASTS,
    VIEWS,
    FullSizes,
    argument,
    full_index,
    has_sizes,
    is_whole_slice,
    name_of,
    shape,
    value,
)

COORDINATES = "bhij"
# Each one holds all values of those before it.
WIDENING = (torch.bool, torch.int8, torch.int16, torch.int32, torch.int64)


class NotProven(Exception):
    """Why a mask is not known to be a band, padding or documents."""


class At(NamedTuple):
    """A tensor with the coordinate of each of its dimensions, "" for those of size one."""

    node: fx.Node
    axes: tuple[str, ...]

    @property
    def depends_on(self) -> frozenset[str]:
        """The coordinates it may differ in."""
        return frozenset(self.axes) - {""}

    @property
    def is_ordered(self) -> bool:
        """Whether each coordinate has one dimension at most, in their order."""
        named = [axis for axis in self.axes if axis]
        return named == sorted(set(named), key=COORDINATES.index)


def axes_of(node: fx.Node, full: FullSizes) -> tuple[str, ...]:
    """The coordinates of a tensor that is broadcast to scores of these sizes."""
    own = shape(node)
    if not has_sizes(node):
        raise NotProven("a mask has sizes that depend on data")
    if len(own) > 4 or any(have not in (1, want) for have, want in zip(own[::-1], full[::-1], strict=False)):
        raise NotProven(f"a mask of shape {tuple(own)} is not broadcast to scores of {full}")
    return tuple("" if size == 1 else name for size, name in zip(own, COORDINATES[4 - len(own) :], strict=True))


def side_of(node: object, axes: tuple[str, ...]) -> At:
    """One side of an elementwise operation whose result has these coordinates."""
    if not isinstance(node, fx.Node):
        raise NotProven("a mask is made from a number")
    own = shape(node)
    if not has_sizes(node) or len(own) > len(axes):
        raise NotProven(f"{node.name} is no tensor of known sizes")
    kept = axes[len(axes) - len(own) :]
    return At(node, tuple("" if size == 1 else axis for size, axis in zip(own, kept, strict=True)))


def source_of(at: At, *, asks_truth: bool = False) -> At | None:
    """What a view or a cast that keeps values looks at, with its coordinates; None where the node is neither.

    ``asks_truth``: a cast to bool will do.
    """
    node, axes = at
    name = name_of(node)
    source = argument(node, 0) if node.args else None
    if not isinstance(source, fx.Node) or value(source) is None:
        return None
    own = shape(source)
    if name in CASTS:
        return At(source, axes) if _keeps_values(source, node, asks_truth) else None
    if name == "expand":
        kept = axes[len(axes) - len(own) :]
        return At(source, tuple("" if size == 1 else axis for size, axis in zip(own, kept, strict=True)))
    if name == "repeat":
        times = node.args[1:]
        once = len(times) == len(own) and all(n == 1 or size == 1 for n, size in zip(times, own, strict=True))
        return At(source, tuple("" if size == 1 else axis for size, axis in zip(own, axes, strict=True))) if once else None
    if name == "unsqueeze":
        dim = int(argument(node, 1, "dim"))
        dim += len(axes) if dim < 0 else 0
        return At(source, axes[:dim] + axes[dim + 1 :])
    if name == "getitem":
        return _behind_index(node, source, axes)
    if name in VIEWS and [size for size in own if size != 1] == [size for size in shape(node) if size != 1]:
        named = iter(axis for axis, size in zip(axes, shape(node), strict=True) if size != 1)
        return At(source, tuple("" if size == 1 else next(named) for size in own))
    return None


def _keeps_values(source: fx.Node, cast: fx.Node, asks_truth: bool) -> bool:
    """Whether a cast is none, widens integers, or asks for truth where that is all that counts."""
    before, after = (found.dtype for found in (value(source), value(cast)) if found is not None)
    widens = before in WIDENING and after in WIDENING and WIDENING.index(before) <= WIDENING.index(after)
    return before == after or (asks_truth and after == torch.bool) or widens


def _behind_index(node: fx.Node, source: fx.Node, axes: tuple[str, ...]) -> At | None:
    """``x[:, None, :]``: new dimensions fall away; anything that picks is no view of the whole."""
    entries = full_index(argument(node, 1), len(shape(source)))
    found: list[str] = []
    for place, entry in enumerate(entries):
        if entry is not None:
            if not is_whole_slice(entry, shape(source)[len(found)]):
                return None
            found.append(axes[place])
    return At(source, tuple(found))
