"""Plans of single tensors: the hull of saving problems, and what lies between its vertices.

A vertex (`graphckpt.solve.hull`) treats equal layers alike. Between two neighbours lie the plans that take the cheaper vertex's
price in the later layers and the dearer one's in the first K: what early layers save lives longest. Each set of saved values
becomes a schedule by computing the rest again just before its use (`graphckpt.solve.demand`).

Deterministic. Not optimal: a price cannot see the peak, so a vertex may save little and still peak high (what is computed again
lives on); such plans fall out when they are ranked. At most two prices are mixed, and no value is computed a third time unless it
is cheap and another layer's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple

from graphckpt.errors import PlanError
from graphckpt.ir.plan import Plan
from graphckpt.solve.hull import Vertex, lower_hull
from graphckpt.solve.policies import Situation
from graphckpt.solve.saving import Saving, SavingProblem
from graphckpt.solve.segments import Segments, cut_at, spread

# Between two vertices whose saved bytes differ by less than this share of the largest, no other is looked for.
_RESOLUTION = 1 / 64
# Two vertices are mixed no finer than that, and at this many places at most: time to plan stays close to linear in the layers.
_MIXES = 12


def saving_plans(situation: Situation, problem: SavingProblem) -> Iterator[Plan]:
    """The plans of the hull and between its vertices: first ``saving``, free in what to save, then ``layered``, which saves what
    enters each layer whatever its price, so that no layer is computed again for the sake of another, then ``tailed``, which is
    ``saving`` with memory at its cheapest behind the last layer: what is dropped there is computed again right where the peak is.

    Each set of saved values once. Not checked; a plan that would compute twice what may run once is left out.
    """
    segments = cut_at(situation.graph, situation.order, situation.layers)
    entering = frozenset().union(*segments.crossing)
    seen = set[frozenset[int]]()
    nothing = frozenset[int]()
    free, layered = (_Hull(p, lower_hull(p, _RESOLUTION)) for p in (problem, problem.forcing(entering)))
    families = (("saving", free, nothing, False), ("layered", layered, entering, False), ("tailed", free, nothing, True))
    for name, hull, forced, keeps_tail in families:
        for place, saving in _savings(hull, segments, keeps_tail):
            saved = saving.saved | situation.always_saved | forced
            if saved in seen:
                continue
            seen.add(saved)
            with suppress(PlanError):
                yield situation.demand.plan(f"{name}:{place}", saved, segments.of_op, situation.backward_order)


class _Hull(NamedTuple):
    problem: SavingProblem
    vertices: tuple[Vertex, ...]


def _savings(hull: _Hull, segments: Segments, keeps_tail: bool) -> Iterator[tuple[str, Saving]]:
    """The vertices of the hull with their places in it, and behind each the mixtures of its price and that of the one before."""
    problem, vertices = hull
    resolved_bytes = max(1.0, _RESOLUTION * vertices[0].saving.saved_bytes)
    tail = vertices[0].price_us_per_byte if keeps_tail else None
    yield "0", vertices[0].saving
    for number, (left, right) in enumerate(pairwise(vertices), 1):
        yield f"{number}", right.saving if tail is None else problem.solve(_prices(problem, segments, left, right, None, tail))
        gap = round((left.saving.saved_bytes - right.saving.saved_bytes) / resolved_bytes)
        for count in spread(segments.count - 1, min(gap, _MIXES)):
            yield f"{number}:first_{count}", problem.solve(_prices(problem, segments, left, right, count, tail))


def _prices(
    problem: SavingProblem, segments: Segments, left: Vertex, right: Vertex, count: int | None, tail: float | None
) -> Sequence[float]:
    """The dearer price, of ``right``, in the first ``count`` segments or in all; ``tail``, if any, in the last and outside."""
    prices = []
    for value in problem.values:
        segment = segments.of_op[value]
        if tail is not None and segment in (-1, segments.count - 1):
            prices.append(tail)
        else:
            prices.append(right.price_us_per_byte if count is None or 0 <= segment < count else left.price_us_per_byte)
    return prices
