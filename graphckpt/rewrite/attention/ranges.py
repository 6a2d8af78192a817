"""Ranges of indices in masks: which tensors of integers are sums of coordinates, and what is looked up by such a tensor."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import fx

from graphckpt.rewrite.attention.calls import FullSizes, argument, name_of, shape, size_of, value
from graphckpt.rewrite.attention.coordinates import COORDINATES, At, side_of, source_of


class Linear(NamedTuple):
    """A sum of coordinates, each taken so many times, and a constant."""

    b: int = 0
    h: int = 0
    i: int = 0
    j: int = 0
    constant: int = 0

    def plus(self, other: Linear, times: int = 1) -> Linear:
        """The sum with so many times another."""
        return Linear(*(mine + times * theirs for mine, theirs in zip(self, other, strict=True)))


def range_of(form: Linear, full: FullSizes) -> tuple[float, float]:
    """The least and the largest value a sum of coordinates has among scores of these sizes."""
    low = high = float(form.constant)
    for times, size in zip(form[:4], full, strict=True):
        # A size that is a symbol may be anything.
        ends = (0, times * (size - 1 if isinstance(size, int) else math.inf) if times else 0)
        low, high = low + min(ends), high + max(ends)
    return low, high


def linear(given: object, axes: tuple[str, ...], full: FullSizes) -> Linear | None:
    """An integer or a tensor of integers as a sum of coordinates; None where it is none."""
    if isinstance(given, bool) or not isinstance(given, (int, fx.Node)):
        return None
    if isinstance(given, int):
        return Linear(constant=given)
    found = value(given)
    # Narrower ones may wrap around.
    if found is None or found.dtype != torch.int64:
        return None
    at = side_of(given, axes)
    name = name_of(given)
    if name == "arange":
        start = _start_of(given)
        return None if start is None else Linear(constant=start)._replace(**dict.fromkeys(filter(None, at.axes), 1))
    if name in ("add", "sub") and len(given.args) == 2:
        sides = [linear(side, at.axes, full) for side in given.args]
        if sides[0] is None or sides[1] is None:
            return None
        return sides[0].plus(sides[1], 1 if name == "add" else -1)
    below = source_of(at) or (looked_up(at, full) if name == "getitem" else None)
    return None if below is None else linear(below.node, below.axes, full)


def _start_of(arange: fx.Node) -> int | None:
    """The first number of a range that goes up by one; None where that is not known."""
    ends = [size_of(end) for end in arange.args]
    if len(ends) not in (1, 2) or None in ends:
        return None
    start = ends[0] if len(ends) == 2 else 0
    return start if isinstance(start, int) else None


def gathered(at: At, full: FullSizes, *, asks_truth: bool = False) -> At:
    """Through views and casts, and through ``x[b, j]`` of index ranges, to the tensor that is looked up."""
    while True:
        below = source_of(at, asks_truth=asks_truth)
        if below is None and name_of(at.node) == "getitem":
            below = looked_up(at, full)
        if below is None:
            return at
        at = below


def looked_up(at: At, full: FullSizes) -> At | None:
    """What ``x[b, j]`` of whole index ranges takes its values from; None where it is something else."""
    source, index = argument(at.node, 0), argument(at.node, 1)
    entries = index if isinstance(index, tuple) else (index,)
    if not isinstance(source, fx.Node) or value(source) is None or len(entries) != len(shape(source)):
        return None
    axes = []
    for entry, size in zip(entries, shape(source), strict=True):
        form = linear(entry, at.axes, full) if isinstance(entry, fx.Node) else None
        named = [axis for axis in COORDINATES if form == Linear()._replace(**{axis: 1})]
        if named and full[COORDINATES.index(named[0])] == size:
            axes.append(named[0])
        elif form == Linear() and size == 1:
            axes.append("")
        else:
            return None
    return At(source, tuple(axes))
