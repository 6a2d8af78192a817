"""A lower bound on the modelled time of every legal plan that peaks at P bytes or below, by Lagrangian duality.

What backward reads of forward is live when backward starts, and so are all tangents. With S(q) the values that a plan q saves (of a
view what it looks at) and n_q(v) how often its backward computes v:

    (1)  peak(q)  >=  tangents + bytes(S(q))
    (2)  time(q)   =  fixed  +  sum over S(q) of write(u)  +  sum over v in backward of again(v) * (n_q(v) - [v not in forward])

(1): if the first step writes over one of these blocks, then with one of the same size. (2) is `graphckpt.solve.frontier.Ranker`'s,
fixed being such that stock's plan takes the time it is known to take. The problem of `graphckpt.solve.saving` is *relaxed* until
each plan q is one of its solutions x(q), a for there and r for computed again, with

    (3)  bytes(x(q)) <= bytes(S(q))   and   cost(x(q)) <= time(q) - fixed :

 - No value is there for nothing, whoever wants it saved: saved it weighs its bytes and costs its write, like any other.
 - Whatever is computed may be saved, tuples and what the user wants recomputed too. Elements that share a storage share its bytes;
   those of a tuple without a buffer weigh nothing, for they hold on to what the tuple is made from.
 - Computing again costs where every plan pays for it: for what forward's outputs are made from; what of that is pinned cannot be
   computed again. Anything else some plan computes in backward alone, at no cost. So there is no constant to subtract, as there
   would be of the problem that plans are made from, which charges what stock's forward leaves to backward wherever it is done.
 - A view costs and weighs nothing but needs what it looks at. One that does not hold on to just that may be saved for nothing.

x(q): a = 1 for what backward computes, reads of forward, or looks at through a saved view; r = 1 for what of that is a view, is an
element of a saved tuple, or is computed in backward and not saved. Its inputs were there, so x(q) is a solution. (3): saved values
have distinct blocks and writes of their own, and what forward's outputs are made from is in forward, so each n_q(v) > 0 is paid.

Then for each price p >= 0, with value(p) = min over x of cost(x) + p * bytes(x), which is a minimum cut:

    time(q)  >=  fixed + cost(x(q)) + p * (bytes(x(q)) - (P - tangents))  >=  fixed + value(p) - p * (P - tangents)

Each price that is solved gives a line that no plan is below, so the largest of them is a bound whatever the resolution at which the
prices were chosen; only how close it comes depends on that.

Not a bound on: real time; plans that leave out an operation of stock's backward. Not known to it: anything of the peak but the
first step of backward, so where the peak is elsewhere the bound is low. It may be below stock's own time: stock is not optimal.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from graphckpt.ir.graph import Graph, OpKind, Phase
from graphckpt.ir.plan import Plan, recomputed_values, saved_values
from graphckpt.solve.hull import lower_hull
from graphckpt.solve.saving import SavingProblem, state_saving
from graphckpt.solve.segments import base_of, is_element

# Between two vertices whose saved bytes differ by less than this share of the largest, no price is looked for.
_RESOLUTION = 1 / 64
# Cuts count whole picoseconds.
_PICOSECOND_US = 1e-6


class Line(NamedTuple):
    """Passes through a peak and a time, falls by the price; no plan is below it."""

    price_us_per_byte: float
    peak_bytes: int
    time_us: float

    def at(self, peak_bytes: float) -> float:
        """Its time, in microseconds, at this peak."""
        return self.time_us + self.price_us_per_byte * (self.peak_bytes - peak_bytes)


@dataclass(frozen=True, slots=True)
class TimeBound:
    """``lines`` by ascending price, the first of price 0; ``least_peak_bytes``: no legal plan peaks below."""

    lines: tuple[Line, ...]
    least_peak_bytes: int

    def time_us(self, peak_bytes: float) -> float:
        """No legal plan that peaks at this or below takes less, in microseconds; infinity where there is no such plan."""
        if peak_bytes < self.least_peak_bytes:
            return math.inf
        return max(line.at(peak_bytes) for line in self.lines)


def bound_times(
    graph: Graph,
    stock: Plan,
    stock_time_us: float,
    materialised: Sequence[bool],
    again_us: Sequence[float],
    write_us: Sequence[float],
) -> TimeBound:
    """The bound on what `Ranker` gives with the same arguments, for a legal graph and a legal plan of stock.

    Takes about one cut for each vertex of the hull, beside finding the hull.
    """
    problem = _relaxed(graph, stock, materialised, again_us, write_us)
    vertices = [vertex.saving for vertex in lower_hull(problem, _RESOLUTION)]
    slopes = ((right.extra_us - left.extra_us) / (left.saved_bytes - right.saved_bytes) for left, right in pairwise(vertices))
    # What a cut finds and what is optimal are both rounded, by half a picosecond at most for each value.
    rounding_us = _PICOSECOND_US * len(problem.values)
    saved_by_stock = saved_owners(graph, base_of(graph), stock)
    fixed_us = stock_time_us - extra_us(graph, stock, saved_by_stock, again_us, write_us) - rounding_us
    tangent_bytes = _tangent_bytes(graph, stock)
    lines = []
    for price in sorted({0.0, *(slope for slope in slopes if slope > 0)}):
        best = problem.solve([price] * len(problem.values))
        lines.append(Line(price, tangent_bytes + best.saved_bytes, fixed_us + best.extra_us))
    return TimeBound(tuple(lines), tangent_bytes + _fewest_bytes(problem))


def _relaxed(
    graph: Graph, stock: Plan, materialised: Sequence[bool], again_us: Sequence[float], write_us: Sequence[float]
) -> SavingProblem:
    """The problem that every legal plan solves with no more than its own bytes and time."""
    stated = state_saving(graph, stock, frozenset(), again_us, write_us)
    always = _made_for_outputs(graph)
    sharers = Counter(storage for i in range(len(graph.ops)) if is_element(graph, i) for storage in graph.ops[i].storages)
    sizes: list[int] = []
    saves: list[float | None] = []
    agains: list[float | None] = []
    for value in stated.values:
        op = graph.ops[value]
        if op.kind is OpKind.COMPUTE:
            sizes.append(graph.own_bytes(value))
            saves.append(write_us[value])
            cannot = bool(op.pinned) and value in always
            agains.append(None if cannot else again_us[value] if value in always else 0.0)
            continue
        agains.append(0.0)
        if is_element(graph, value) and _reads_one(graph, value):
            has_buffer = materialised[op.inputs[0]]
            sizes.append(sum(graph.storages[s].size_bytes // sharers[s] for s in _held(graph, value)) if has_buffer else 0)
            saves.append(write_us[value])
        else:
            sizes.append(0)
            saves.append(None if _holds_its_input(graph, value) else 0.0)
    return replace(stated, size_bytes=tuple(sizes), write_us=tuple(saves), again_us=tuple(agains))


def _made_for_outputs(graph: Graph) -> frozenset[int]:
    """What the forward pass of every legal plan computes."""
    found: set[int] = set()
    todo = list(graph.forward_outputs)
    while todo:
        value = todo.pop()
        if value not in found:
            found.add(value)
            todo.extend(graph.ops[value].inputs)
    return frozenset(found)


def _held(graph: Graph, value: int) -> frozenset[int]:
    return frozenset(s for s in graph.ops[value].storages if not graph.storages[s].external)


def _reads_one(graph: Graph, view: int) -> bool:
    """Whether what a view reads beside its first input is free to save: sizes, which are views of nothing, and inputs."""
    first, *others = graph.ops[view].inputs
    others = [source for source in others if source != first and graph.ops[source].kind is not OpKind.INPUT]
    views = (graph.ops[s].kind is OpKind.ALIAS and not is_element(graph, s) and not _held(graph, s) for s in others)
    return all(views)


def _holds_its_input(graph: Graph, view: int) -> bool:
    """Whether a view holds on to every block of its first input, to one at least, and needs nothing else."""
    held = _held(graph, view)
    return bool(held) and _held(graph, graph.ops[view].inputs[0]) <= held and _reads_one(graph, view)


def saved_owners(graph: Graph, base: Sequence[int], plan: Plan) -> frozenset[int]:
    """What has the memory of the values that ``plan`` saves: of a view what it looks at, by `base_of`."""
    return frozenset(base[value] for value in saved_values(graph, plan))


def extra_us(
    graph: Graph, plan: Plan, saved: frozenset[int], again_us: Sequence[float], write_us: Sequence[float]
) -> float:
    """Time of a plan beyond what every plan takes, (2) above; ``saved`` as `saved_owners` gives it."""
    return sum(again_us[value] for value in recomputed_values(graph, plan)) + sum(write_us[value] for value in saved)


def _tangent_bytes(graph: Graph, stock: Plan) -> int:
    """Tangents are there when backward starts, if every plan has something to do there."""
    if all(graph.ops[index].phase is Phase.FORWARD for index in stock.backward):
        return 0
    held = {s for i, op in enumerate(graph.ops) if op.kind is OpKind.TANGENT for s in _held(graph, i)}
    return sum(graph.storages[s].size_bytes for s in held)


def _fewest_bytes(problem: SavingProblem) -> int:
    """The least that can be saved, whatever time it takes."""
    free = replace(
        problem,
        write_us=tuple(None if write is None else 0.0 for write in problem.write_us),
        again_us=tuple(None if again is None else 0.0 for again in problem.again_us),
    )
    # A byte is one unit of the cut, so nothing is rounded.
    return free.solve([_PICOSECOND_US] * len(problem.values)).saved_bytes
