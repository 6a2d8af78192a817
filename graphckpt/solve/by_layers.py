"""Schedules of a deep graph that are searched for with a few of its equal layers, and done in all of them.

A move in a few layers does more than one in all of them, and what it does is done in all. The search is made for the smallest
peak, and for the least cost within each of some budgets (`graphckpt.solve.remat.fold`); what it finds are ways to do a layer. Each
layer of the whole graph gets the one that serves it best (`graphckpt.solve.remat.lift`).

Deterministic: a fixed number of moves and one seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphckpt.solve.remat.fold import fold
from graphckpt.solve.remat.instance import Instance
from graphckpt.solve.remat.lift import Learnt, Lifted, Lifter
from graphckpt.solve.remat.search import Goal, Limits, Order, search

_SMALLEST_MOVES = 200_000
_CHEAPER_MOVES = 100_000


@dataclass(frozen=True)
class ByLayers:
    """``few``: the latest schedule of the smaller problem. ``learnt``: of each so far."""

    lifter: Lifter
    few: tuple[int, ...]
    learnt: tuple[Learnt, ...]

    @property
    def smallest(self) -> Lifted:
        """The smallest peak found for all layers."""
        return min(one.smallest.alike for one in self.learnt)

    def taught(self, budgets: Sequence[int]) -> ByLayers:
        """With what the cheapest schedules of the few within these budgets, ascending, do."""
        here = self
        for budget_bytes in budgets:
            few = _search(here.lifter.folded.instance, budget_bytes, _CHEAPER_MOVES, Goal.CHEAPEST, here.few)
            more = here.lifter.learn(few)
            here = replace(here, few=few, learnt=(*here.learnt, *([] if more is None else [more])))
        return here

    def within(self, budget_bytes: int) -> Lifted | None:
        """The cheapest schedule of all layers within a budget."""
        return self.lifter.cheapest(self.learnt, budget_bytes)


def by_layers(instance: Instance, schedule: Sequence[int], order: Order) -> ByLayers | None:
    """What a search for the smallest peak from ``schedule`` teaches; None where there are not enough equal layers, they are not
    done one after another, or ``schedule`` is too long to search from. ``order``: of the schedules to be found, fixed or free."""
    folded = fold(instance, schedule)
    if folded is None:
        return None
    start = folded.restrict(schedule)
    if len(start) > folded.instance.capacity:
        return None
    lifter = Lifter(folded, order)
    few = _search(folded.instance, 0, _SMALLEST_MOVES, Goal.SMALLEST, start)
    learnt = lifter.learn(few)
    return None if learnt is None else ByLayers(lifter, few, (learnt,))


def _search(few: Instance, budget_bytes: int, moves: int, goal: Goal, start: Sequence[int]) -> tuple[int, ...]:
    # In an order that is fixed layers stay alike, so what is found for one serves the others.
    return search(few, budget_bytes, Limits.of_moves(moves), Order.FIXED, goal, start).schedule
