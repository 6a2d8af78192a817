"""The frontier of a graph: its plans from fastest to smallest, and the choice a budget makes among them.

The frontier is deterministic: candidates in a fixed order, ranked by modelled time, kept only if they need less memory than
every faster one. The model's peak is an estimate; the exact one comes from a dry lowering, which is slow. So a choice lowers few
plans: it starts at the first whose corrected estimate fits, and goes towards smaller ones while the exact peak does not, or looks
once at a faster one where the exact peak is smaller than was thought.

Not guaranteed: that no faster plan of the frontier fits too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphckpt.ir.graph import Graph
from graphckpt.ir.plan import Plan, recomputed_values, saved_values
from graphckpt.solve.engine import Engine
from graphckpt.solve.segments import base_of

# Dry lowerings, stock's own among them, that are spent on a faster plan or on a smaller one.
_LOOKS = 3
_LAST_RESORTS = _LOOKS - 1


@dataclass(frozen=True, slots=True)
class Ranked:
    """A plan with the model's figures: peak of a step and time of a step."""

    plan: Plan
    estimated_peak_bytes: int
    time_us: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen: its place in the frontier, its exact peak, whether that fits, and every exact peak that was looked at."""

    index: int
    peak_bytes: int
    fits: bool
    looked_at: tuple[tuple[int, int], ...]


class Ranker:
    """Gives plans of one graph the model's figures. Times are by operation: ``again_us`` of one more computation, ``write_us`` of
    writing a value that stock does not write."""

    def __init__(
        self,
        graph: Graph,
        stock: Plan,
        stock_time_us: float,
        materialised: Sequence[bool],
        again_us: Sequence[float],
        write_us: Sequence[float],
    ) -> None:
        self._graph = graph
        self._base = base_of(graph)
        self._engine = Engine(graph)
        self._materialised = tuple(materialised)
        self._again_us = again_us
        self._write_us = write_us
        self._fixed_us = stock_time_us - self._extra_us(stock, self._saved(stock))

    def rank(self, plan: Plan) -> Ranked:
        """The peak and the time of a step by ``plan``. What it saves has a buffer, whatever stock does."""
        saved = self._saved(plan)
        real = [is_real or index in saved for index, is_real in enumerate(self._materialised)]
        return Ranked(plan, self._engine.timeline(plan, real).peak_bytes, self._fixed_us + self._extra_us(plan, saved))

    def _extra_us(self, plan: Plan, saved: frozenset[int]) -> float:
        again = sum(self._again_us[index] for index in recomputed_values(self._graph, plan))
        return again + sum(self._write_us[index] for index in saved)

    def _saved(self, plan: Plan) -> frozenset[int]:
        """What has the memory of the saved values: of a view what it looks at."""
        return frozenset(self._base[index] for index in saved_values(self._graph, plan))


def pareto(ranked: Sequence[Ranked], admits: Callable[[Plan], bool] = lambda plan: True) -> tuple[Ranked, ...]:
    """Stock's plan, which is the first, then from fastest to smallest those that need less memory than every faster one.

    ``admits``: whether a plan is legal; asked of those alone that would be kept.
    """
    stock = ranked[0]
    frontier = [stock]
    for entry in sorted(ranked[1:], key=lambda r: (r.time_us, r.estimated_peak_bytes)):
        is_better = entry.estimated_peak_bytes < frontier[-1].estimated_peak_bytes and entry.time_us >= stock.time_us
        if is_better and admits(entry.plan):
            frontier.append(entry)
    return tuple(frontier)


def choose(
    frontier: Sequence[Ranked], allowance_bytes: int, exact_peak: Callable[[int], int], stock_peak_bytes: int
) -> Choice:
    """The fastest plan of the frontier found to fit ``allowance_bytes``.

    ``exact_peak(i)``: the exact peak of plan ``i`` (slow); ``stock_peak_bytes``: that of plan 0, known already. If nothing fits,
    the smallest plan that was looked at comes back with ``fits=False``.
    """
    looked_at = {0: stock_peak_bytes}
    if stock_peak_bytes <= allowance_bytes:
        return Choice(0, stock_peak_bytes, True, ((0, stock_peak_bytes),))
    correction = stock_peak_bytes / max(1, frontier[0].estimated_peak_bytes)
    index = 0
    while (index := _next_fitting(frontier, index + 1, allowance_bytes, correction)) < len(frontier):
        looked_at[index] = exact_peak(index)
        if looked_at[index] <= allowance_bytes:
            return _faster(frontier, index, allowance_bytes, exact_peak, looked_at)
        correction = max(correction, looked_at[index] / max(1, frontier[index].estimated_peak_bytes))
    return last_resort(frontier, allowance_bytes, exact_peak, looked_at)


def _faster(
    frontier: Sequence[Ranked], index: int, allowance_bytes: int, exact_peak: Callable[[int], int], looked_at: dict[int, int]
) -> Choice:
    """Plan ``index``, or a faster one that fits too: worth a second look where the first one showed estimates to be too large."""
    ratio = looked_at[index] / max(1, frontier[index].estimated_peak_bytes)
    faster = _next_fitting(frontier, 1, allowance_bytes, ratio)
    if faster < index and faster not in looked_at and len(looked_at) < _LOOKS:
        looked_at[faster] = exact_peak(faster)
        if looked_at[faster] <= allowance_bytes:
            index = faster
    return Choice(index, looked_at[index], True, tuple(looked_at.items()))


def last_resort(
    frontier: Sequence[Ranked], allowance_bytes: int, exact_peak: Callable[[int], int], looked_at: dict[int, int]
) -> Choice:
    """The first of the smallest plans to fit, or the smallest of them: estimates this close cannot tell which one it is."""
    for index in range(len(frontier) - 1, max(0, len(frontier) - 1 - _LAST_RESORTS), -1):
        if index not in looked_at:
            looked_at[index] = exact_peak(index)
        if looked_at[index] <= allowance_bytes:
            return Choice(index, looked_at[index], True, tuple(looked_at.items()))
    smallest = min(looked_at, key=lambda i: (looked_at[i], i))
    return Choice(smallest, looked_at[smallest], looked_at[smallest] <= allowance_bytes, tuple(looked_at.items()))


def _next_fitting(frontier: Sequence[Ranked], start: int, allowance_bytes: int, correction: float) -> int:
    for index in range(start, len(frontier)):
        if frontier[index].estimated_peak_bytes * correction <= allowance_bytes:
            return index
    return len(frontier)
