"""The lower convex hull of (saved bytes, time), by prices: every trade-off that one price for all bytes can reach.

Between two vertices the price at which both cost the same either has them as its optimum, then nothing lies below the line between
them, or gives a vertex between them (Eisner and Severance 1976). Not guaranteed: optima off the hull, which no price reaches, and
vertices closer together than the resolution asked for.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

from graphckpt.solve.saving import Saving, SavingProblem

# So low that time alone decides, and so high that bytes alone do, in microseconds for a byte.
_TIME_ALONE, _BYTES_ALONE = 1e-9, 1.0
# Costs that differ by less are one solution, added up in another order.
_ROUNDING = 1e-6


class Vertex(NamedTuple):
    """A solution, and a price in the middle of those it is the optimum of."""

    saving: Saving
    price_us_per_byte: float


def lower_hull(problem: SavingProblem, resolution: float) -> tuple[Vertex, ...]:
    """The vertices from the most saved bytes to the fewest; between two that are closer than ``resolution``, a share of the most
    bytes, none is looked for."""
    most, fewest = (_at(problem, price) for price in (_TIME_ALONE, _BYTES_ALONE))
    found = [most]
    todo = [(most, fewest)]
    while todo:
        left, right = todo.pop()
        is_close = left.saved_bytes - right.saved_bytes <= resolution * most.saved_bytes
        between = left if is_close else _at(problem, _slope(left, right))
        if not is_close and _is_below(between, left, right):
            todo += [(between, right), (left, between)]
        elif right.saved_bytes < found[-1].saved_bytes:
            found.append(right)
    slopes = [_TIME_ALONE, *(_slope(left, right) for left, right in pairwise(found)), _BYTES_ALONE]
    return tuple(Vertex(saving, math.sqrt(low * high)) for saving, (low, high) in zip(found, pairwise(slopes), strict=True))


def _at(problem: SavingProblem, price_us_per_byte: float) -> Saving:
    return problem.solve([price_us_per_byte] * len(problem.values))


def _is_below(between: Saving, left: Saving, right: Saving) -> bool:
    """Whether a solution lies below the line between two others, and not on it but for rounding."""
    price = _slope(left, right)
    on_the_line = _cost(left, price)
    return _cost(between, price) < on_the_line - _ROUNDING * max(1.0, on_the_line)


def _cost(saving: Saving, price_us_per_byte: float) -> float:
    return saving.extra_us + price_us_per_byte * saving.saved_bytes


def _slope(left: Saving, right: Saving) -> float:
    """The price at which both cost the same; times are rounded, so it could come out below zero."""
    return max(_TIME_ALONE, (right.extra_us - left.extra_us) / (left.saved_bytes - right.saved_bytes))
