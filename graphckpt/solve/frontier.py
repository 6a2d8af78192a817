"""The frontier of a graph: its plans from fastest to smallest, and the choice a budget makes among them.

The frontier is deterministic: candidates in a fixed order, ranked by modelled time, kept only if they need less memory than
every faster one. The model's peak is an estimate; the exact one comes from a dry lowering, which is slow. So a choice lowers few
plans: it starts at the first whose corrected estimate fits, and goes towards smaller ones while the exact peak does not.

Not guaranteed: that no faster plan of the frontier fits too; the correction errs on the side of the smaller plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from graphckpt.ir.graph import Graph
from graphckpt.ir.plan import Plan, recomputed_values
from graphckpt.solve.engine import Engine

# With stock's own, that makes at most three dry lowerings for the smallest plan.
_LAST_RESORTS = 2


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


def rank_plans(
    graph: Graph,
    plans: Iterable[Plan],
    materialised: Sequence[bool],
    recompute_us: Sequence[float],
    stock_time_us: float,
) -> tuple[Ranked, ...]:
    """The model's figures of ``plans``, in their order; the first is stock's, whose time is ``stock_time_us``."""
    engine = Engine(graph)
    ranked: list[Ranked] = []
    base_us = 0.0
    for number, plan in enumerate(plans):
        extra_us = sum(recompute_us[i] for i in recomputed_values(graph, plan))
        base_us = extra_us if number == 0 else base_us
        time_us = stock_time_us + (extra_us - base_us)
        ranked.append(Ranked(plan, engine.timeline(plan, materialised).peak_bytes, time_us))
    return tuple(ranked)


def pareto(ranked: Sequence[Ranked]) -> tuple[Ranked, ...]:
    """Stock's plan, which is the first, then from fastest to smallest those that need less memory than every faster one."""
    stock = ranked[0]
    frontier = [stock]
    for entry in sorted(ranked[1:], key=lambda r: (r.time_us, r.estimated_peak_bytes)):
        if entry.estimated_peak_bytes < frontier[-1].estimated_peak_bytes and entry.time_us >= stock.time_us:
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
            return Choice(index, looked_at[index], True, tuple(looked_at.items()))
        correction = max(correction, looked_at[index] / max(1, frontier[index].estimated_peak_bytes))
    return last_resort(frontier, allowance_bytes, exact_peak, looked_at)


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
