"""Plans of single tensors: the hull of saving problems, and what lies between its vertices.

A vertex (`graphckpt.solve.hull`) treats equal layers alike. Between two neighbours lie the plans that take the dearer one's price
up to a place in forward and the cheaper one's behind it: what is saved early lives longest. Each set of saved values becomes a
schedule by computing the rest again just before its use (`graphckpt.solve.demand`).

Deterministic. Not optimal: a price cannot see the peak, so a vertex may save little and still peak high (what is computed again
lives on); such plans fall out when they are ranked. At most two prices are mixed, and no value is computed a third time unless it
is cheap and another layer's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise
from typing import NamedTuple

from graphckpt.errors import PlanError
from graphckpt.ir.plan import Plan
from graphckpt.solve.hull import Vertex, lower_hull
from graphckpt.solve.policies import Situation
from graphckpt.solve.saving import Saving, SavingProblem
from graphckpt.solve.segments import cut_at

# Between two vertices whose saved bytes differ by less than this share of the largest, no other is looked for.
_RESOLUTION = 1 / 64
# Two vertices are mixed in steps no finer than that, and at this many places at most: time to plan stays close to linear in the
# layers.
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
    behind = frozenset(value for value in problem.values if segments.of_op[value] in (-1, segments.count - 1))
    free, layered = (_Hull(p, lower_hull(p, _RESOLUTION), nothing) for p in (problem, problem.forcing(entering)))
    families = (("saving", free, nothing), ("layered", layered, entering), ("tailed", free._replace(behind=behind), nothing))
    for name, hull, forced in families:
        for place, saving in _savings(hull, situation.order):
            saved = saving.saved | situation.always_saved | forced
            if saved in seen:
                continue
            seen.add(saved)
            with suppress(PlanError):
                yield situation.plan(f"{name}:{place}", saved, segments.of_op)


class _Hull(NamedTuple):
    """One family's problem with its vertices; what is ``behind`` takes memory at the price of ``saving:0`` whatever the vertex."""

    problem: SavingProblem
    vertices: tuple[Vertex, ...]
    behind: frozenset[int]


def _savings(hull: _Hull, order: Sequence[int]) -> Iterator[tuple[str, Saving]]:
    """The vertices of the hull with their places in it, and behind each the mixtures of its price and that of the one before."""
    vertices = hull.vertices
    resolved_bytes = max(1.0, _RESOLUTION * vertices[0].saving.saved_bytes)
    # What forward does not compute by itself comes last.
    position = dict.fromkeys(hull.problem.values, len(order)) | {index: k for k, index in enumerate(order)}
    yield "0", vertices[0].saving
    for number, (left, right) in enumerate(pairwise(vertices), 1):
        yield f"{number}", right.saving if not hull.behind else _mixture(hull, position, left, right, len(order) + 1)
        gap = round((left.saving.saved_bytes - right.saving.saved_bytes) / resolved_bytes)
        for share, before in enumerate(_places(hull, position, left, right, min(gap, _MIXES)), 1):
            yield f"{number}:mix_{share}", _mixture(hull, position, left, right, before)


def _places(hull: _Hull, position: Mapping[int, int], left: Vertex, right: Vertex, count: int) -> list[int]:
    """Positions that part the bytes which ``left`` saves and ``right`` does not evenly, ascending: at most ``count``."""
    problem = hull.problem
    dropped = left.saving.saved - right.saving.saved - hull.behind
    by_value = zip(problem.values, problem.size_bytes, strict=True)
    sizes = sorted((position[value], size_bytes) for value, size_bytes in by_value if value in dropped)
    before_bytes = list(accumulate(size for _, size in sizes))
    if not before_bytes:
        return []
    goals = (before_bytes[-1] * share / (count + 1) for share in range(1, count + 1))
    return sorted({sizes[bisect_left(before_bytes, goal)][0] + 1 for goal in goals})


def _mixture(hull: _Hull, position: Mapping[int, int], left: Vertex, right: Vertex, before: int) -> Saving:
    """The dearer price, of ``right``, at positions below ``before``, and that of ``left`` further on."""
    dear, cheap, tail = (vertex.price_us_per_byte for vertex in (right, left, hull.vertices[0]))
    values = hull.problem.values
    return hull.problem.solve([tail if v in hull.behind else dear if position[v] < before else cheap for v in values])
