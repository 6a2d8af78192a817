"""Positions in a sequence, and the runs that transformers finds in them to tell packed documents apart:

    runs = (diff(positions, prepend=first - 1) != 1).cumsum(-1)

Within a run positions go up by one from key to key, so there they differ as their places do. Positions that nobody gave are one
run, whatever their number. Not guaranteed: positions that wrap around, which no model has.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import fx

from graphckpt.rewrite.attention.calls import (
    FullSizes,
    argument,
    full_index,
    is_whole_slice,
    name_of,
    number,
    shape,
    value,
)
from graphckpt.rewrite.attention.coordinates import side_of
from graphckpt.rewrite.attention.ranges import gathered, linear

# Where a tensor is looked at by itself.
_NO_SCORES = (0, 0, 0, 0)


class Position(NamedTuple):
    """A tensor of integers looked up by query or by key, ``coordinate`` "i" or "j", and what is added."""

    source: fx.Node
    coordinate: str
    more: int


def position_of(given: object, axes: tuple[str, ...], full: FullSizes) -> Position | None:
    """What one side of a comparison with these coordinates looks up, if it is a position."""
    more = 0
    while isinstance(given, fx.Node):
        at = gathered(side_of(given, axes), full)
        found = value(at.node)
        if found is None or found.dtype != torch.int64:
            return None
        step = at.node.args[1] if name_of(at.node) in ("add", "sub") and len(at.node.args) == 2 else None
        if not isinstance(step, int):
            places = at.depends_on - {"b"}
            return Position(at.node, min(places), more) if places in ({"i"}, {"j"}) and at.is_ordered else None
        more += step if name_of(at.node) == "add" else -step
        given, axes = at.node.args[0], at.axes
    return None


def run_source(runs: fx.Node) -> fx.Node | None:
    """The positions that these are the runs of; None where they are something else."""
    starts = argument(runs, 0) if name_of(runs) == "cumsum" else None
    steps = _steps(argument(starts, 0)) if isinstance(starts, fx.Node) and name_of(starts) == "ne" else None
    if steps is None or number(argument(starts, 1, "other")) != 1:  # type: ignore[arg-type]
        return None
    rank = len(shape(steps.source))
    if argument(runs, 1, "dim") not in (-1, rank - 1) or _minus(steps.before, steps.source) != -1:
        return None
    return gathered(side_of(steps.source, ("b", "j")[-rank:]), _NO_SCORES).node


def same_everywhere(node: object) -> float | None:
    """The number that all elements of a tensor are, whatever its sizes; None where that is not known.

    What transformers derives from positions when none are given: ``(diff(positions, prepend=first - 1) != 1).cumsum(-1)``.
    """
    if not isinstance(node, fx.Node):
        return number(node)
    name, source = name_of(node), argument(node, 0) if node.args else None
    if number(node) is not None:
        return number(node)
    if name == "diff":
        return _step_of(_steps(node))
    if name in ("eq", "ne"):
        sides = [same_everywhere(side) for side in node.args]
        return None if None in sides or len(sides) != 2 else float((sides[0] == sides[1]) == (name == "eq"))
    if name == "cumsum":
        return 0.0 if same_everywhere(source) == 0 else None
    return None


class _Steps(NamedTuple):
    """From neighbour to neighbour of ``source`` along its last dimension, the first one from ``before``, if that is there."""

    source: fx.Node
    before: object


def _steps(diff: object) -> _Steps | None:
    """What a difference is of, one or two dimensions; None where it is another one."""
    if not isinstance(diff, fx.Node) or name_of(diff) != "diff":
        return None
    source = argument(diff, 0)
    rank = len(shape(source))
    of_neighbours = argument(diff, 1, "n", 1) == 1 and argument(diff, 4, "append") is None
    if not of_neighbours or rank not in (1, 2) or argument(diff, 2, "dim", -1) not in (-1, rank - 1):
        return None
    return _Steps(source, argument(diff, 3, "prepend"))


def _step_of(steps: _Steps | None) -> float | None:
    """The number that all steps are, if they are of a range."""
    if steps is None:
        return None
    sizes = shape(steps.source)
    axes = tuple("" if size == 1 else axis for size, axis in zip(sizes, "bj"[-len(sizes) :], strict=True))
    form = linear(steps.source, axes, _NO_SCORES)
    if form is None or steps.before is None:
        return None if form is None else float(form.j)
    first = _minus(steps.before, steps.source)
    return float(form.j) if first is not None and -first == form.j else None


def _minus(before: object, source: fx.Node) -> int | None:
    """By how much ``source[..., :1] + number`` is more than the first of each row of ``source``."""
    if not isinstance(before, fx.Node) or name_of(before) not in ("add", "sub") or len(before.args) != 2:
        return None
    first, more = before.args
    if not isinstance(first, fx.Node) or name_of(first) != "getitem" or argument(first, 0) is not source:
        return None
    *rest, last = full_index(argument(first, 1), len(shape(source)))
    whole = all(is_whole_slice(part, size) for part, size in zip(rest, shape(source), strict=False))
    is_first = last in (slice(None, 1, None), slice(0, 1, None))
    if not is_first or not whole or not isinstance(more, int):
        return None
    return more if name_of(before) == "add" else -more
