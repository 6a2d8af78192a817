"""The engine: simulated annealing over schedules with repeats, in C++ (``csrc/remat_*.cpp``).

A state is a schedule s, any sequence of nodes in which each step finds its inputs. With live[t] the bytes live at step t (see
`graphckpt.solve.remat.replay`), B the budget, C the cost of each node once, n their number and P the peak at the start, it is

    f(s) = n cost(s) / C + w sum over t of max(0, live[t] - B) / P

A move puts a step elsewhere, computes a value again right before a reader (by lot also those of its inputs that would have to be
kept for that), drops a computation and what was computed again for it alone, exchanges two computations, or moves a run of steps.
Where the peak is to be small and nothing is computed again at the start, it also computes many values again at once before one
reader, with all that is missing for them: in dense graphs one of them alone costs as much and spares nothing, so a search that adds
them one by one does not come there.
A move that raises f by d is kept with probability exp(-d / T); T falls geometrically, in rounds that start from the best plan; in
one round where the start has repeats already, for what it has is worth more than what a hot search would find again. w grows
slowly while the schedule is over the budget and shrinks while it is not, so that the search stays at the border. Removing excess
*anywhere* counts, not at the peak alone: that is what it does otherwise than FastSA (Imanishi, Xu et al., "A fast heuristic to
optimize time-space tradeoff for large models", NeurIPS 2023), which anneals max(B, peak) cost.

In a free order the first quarter of the search moves steps alone, nothing is computed again, and 0.8 B counts as full: room is
worth having everywhere before it is traded. On the random layered graphs that is worth more than anything else here.

With a fixed order, first computations stand in the order 0, 1, 2, ... and only what is computed again moves.

Deterministic: for a seed and a number of iterations the plan is the same on every machine of one C library (exp and pow), unless
time ends the search before; without a number of iterations T falls by the clock, so the plan depends on the machine. Not
guaranteed: any quality, nor that a plan is found where there is one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import count
from typing import NamedTuple

from graphckpt.core import Status, address_of
from graphckpt.errors import PlanError
from graphckpt.solve.remat.core import Handed, Options, SearchResult, Watch
from graphckpt.solve.remat.instance import Instance

_NO_LIMIT_S = 1e6


class Order(Enum):
    """Whether nodes may be computed first in any order, or in the order 0, 1, 2, ... only."""

    FREE = "free"
    FIXED = "fixed"


class Goal(Enum):
    """The cheapest plan within the budget, or the smallest peak whatever it costs."""

    CHEAPEST = 0
    SMALLEST = 1


class Progress(NamedTuple):
    """What a search has found so far; None while there is no plan."""

    seconds: float
    iterations: int
    cost: int | None
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to search. ``iterations``: 0 for as many as there is time for. ``watch``: asked ten times a second; True ends it."""

    seconds: float
    iterations: int = 0
    seed: int = 0
    watch: Callable[[Progress], bool] | None = None

    @classmethod
    def of_moves(cls, moves: int) -> Limits:
        """So many moves end a search, not the clock: it finds the same on every machine."""
        return cls(_NO_LIMIT_S, moves)


class Found(NamedTuple):
    """``fits``: the schedule is within the budget; else it is the one nearest to it. ``interrupted``: by Ctrl-C or ``watch``."""

    schedule: tuple[int, ...]
    fits: bool
    iterations: int
    interrupted: bool


def search(
    instance: Instance,
    budget_bytes: int,
    limits: Limits,
    order: Order = Order.FREE,
    goal: Goal = Goal.CHEAPEST,
    start: Sequence[int] | None = None,
    cost_floor: int = 0,
) -> Found:
    """Anneal from ``start`` (a legal schedule; each node once if None) until time, iterations or ``watch`` end it, or a plan costs
    ``cost_floor``. Ctrl-C is taken for the wish to stop; what else ``watch`` raises is raised again.

    Raises:
        PlanError: ``start`` is longer than any schedule may become.
    """
    handed = Handed(instance)
    if start is not None and len(start) > instance.capacity:
        most = instance.capacity
        raise PlanError(f"wanted a start of at most {most} steps, came one of {len(start)}: leave out what nobody reads")
    first = handed.into(instance.topological_order if start is None else start)

    def report(seconds: float, iterations: int, cost: int, peak_bytes: int) -> bool:
        if limits.watch is None:
            return False
        plan = (None, None) if cost < 0 else (cost, peak_bytes)
        return limits.watch(Progress(seconds, iterations, *plan))

    watch = Watch(report)
    options = Options(
        goal.value,
        order is Order.FIXED,
        budget_bytes,
        limits.seed % 2**64,
        limits.iterations,
        limits.seconds,
        cost_floor,
        address_of(first),
        len(first),
        watch.callback,
        None,
    )
    result = SearchResult()
    with watch:
        status = handed.library.graphckpt_remat_search(
            ctypes.byref(handed.arrays),
            ctypes.byref(options),
            address_of(handed.steps),
            len(handed.steps),
            ctypes.byref(result),
        )
    if status == Status.OUT_OF_MEMORY:
        raise MemoryError("the search for a plan")
    return Found(handed.out(result.count), bool(result.found), result.iterations, watch.interrupted)


def search_seeds(limits: Limits, threads: int) -> tuple[Limits, ...]:
    """The limits of so many searches side by side: seeds one after another, the first one watched."""
    return tuple(
        Limits(limits.seconds, limits.iterations, seed, limits.watch if seed == limits.seed else None)
        for seed, _ in zip(count(limits.seed), range(threads), strict=False)
    )
