"""Plans that the engine of `graphckpt.solve.remat` makes from the smallest of a frontier: any number of copies, and any order where
nothing is pinned.

The planner's own plans (`graphckpt.solve.planner`) keep the order of backward, and compute a value again once for each layer. Near
the smallest peak that is not enough: what is at the peak can still be computed later, or twice. The smallest plan is taken as a
schedule of kernels and annealed to a smaller peak; then, for a ladder of budgets from that peak upwards, the fastest plan known
to fit is annealed to a cheaper one, and so is one that nearly fits. Where a graph has many equal layers, both are also searched
for with a few of them (`graphckpt.solve.by_layers`). Above the ladder the planner's plans were found to be nearly as good (within
0.3 % of the time of a step).

Deterministic: a fixed number of moves and one seed. Not optimal, and with no bound of its own; `graphckpt.solve.bound` holds for
these plans too. Not for graphs whose user says what is to be computed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from graphckpt.ir.graph import Graph
from graphckpt.ir.plan import Plan
from graphckpt.solve.by_layers import ByLayers, by_layers
from graphckpt.solve.frontier import Ranked, Ranker
from graphckpt.solve.remat.instance import Instance
from graphckpt.solve.remat.joint import JointProblem
from graphckpt.solve.remat.replay import replay
from graphckpt.solve.remat.search import Goal, Limits, Order, search

# Moves of the search for the smallest peak, and of each for a cheaper plan.
_SMALLEST_MOVES = 90_000
_CHEAPER_MOVES = 45_000
# Budgets, in terms of the smallest peak that is found, and where memory is short, in terms of the smallest there was.
_LADDER = (1.0, 1.02, 1.05, 1.1, 1.2)
SHORT = 1.25
_LITTLE = 1.05


def refined_plans(ranker: Ranker, frontier: Sequence[Ranked], graph: Graph) -> Iterator[Plan]:
    """Plans of ``graph``, which ``ranker`` ranks: smaller ones than all of ``frontier``, then for each rung of the ladder one that
    is faster than what was known to fit; where none is found, or the smallest is too long to search from, none. Not checked."""
    if any(op.tag == "recompute" for op in graph.ops):
        return
    known = list(frontier)
    start = min(known, key=lambda entry: (entry.estimated_peak_bytes, entry.time_us))
    whole = _Whole.of(ranker, start, graph)
    if len(whole.schedule) > whole.problem.instance.capacity:
        return
    yield from _noted(known, _smallest(ranker, whole), start.estimated_peak_bytes)
    budgets = [int(share * min(entry.estimated_peak_bytes for entry in known)) for share in _LADDER]
    layers = None if whole.layers is None else whole.layers.taught([whole.own_bytes(budget) for budget in budgets])
    for rung, budget_bytes in enumerate(budgets):
        name = f"refined:{len(_LADDER) - 1 - rung}"
        fastest = _fastest(known, budget_bytes)
        lifted = None if layers is None else layers.within(whole.own_bytes(budget_bytes))
        others = [] if lifted is None else [ranker.rank(whole.problem.plan_of(name, lifted.schedule))]
        begins = [_fastest([fastest, *others], budget_bytes), *_just_over(known, budget_bytes)]
        tried = [_faster(ranker, begin, graph, name, budget_bytes) for begin in begins]
        # What the problem sees beyond the ranker differs from plan to plan.
        best = _fastest([fastest, *others, *tried], budget_bytes)
        if best is not fastest:
            known.append(best)
            yield best.plan


def _fastest(entries: Iterable[Ranked], budget_bytes: int) -> Ranked:
    return min((entry for entry in entries if entry.estimated_peak_bytes <= budget_bytes), key=lambda entry: entry.time_us)


class _Whole(NamedTuple):
    """The problem of a graph as its smallest plan sees it. ``layers``: what a few of them teach, if it has enough."""

    problem: JointProblem
    start: Ranked
    schedule: tuple[int, ...]
    peak_bytes: int
    order: Order
    layers: ByLayers | None

    @classmethod
    def of(cls, ranker: Ranker, start: Ranked, graph: Graph) -> _Whole:
        problem, order = ranker.joint_problem(start.plan, graph.forward_outputs), _order(graph)
        schedule = problem.schedule_of(start.plan)
        peak_bytes = replay(problem.instance, schedule).peak_bytes
        return cls(problem, start, schedule, peak_bytes, order, by_layers(problem.instance, schedule, order))

    def own_bytes(self, budget_bytes: int) -> int:
        """A budget as the problem has it: it may see a little more at the peak than the ranker does."""
        return budget_bytes + self.peak_bytes - self.start.estimated_peak_bytes


def _noted(known: list[Ranked], found: Iterator[Ranked], below_bytes: int) -> Iterator[Plan]:
    """Plans of what is found that is smaller, which is known from then on."""
    for entry in found:
        if entry.estimated_peak_bytes < below_bytes:
            known.append(entry)
            yield entry.plan


def _smallest(ranker: Ranker, whole: _Whole) -> Iterator[Ranked]:
    """Plans of a smaller peak, as far as they are found: one by one, for whoever asks may run out of patience."""
    name = f"refined:{len(_LADDER)}"
    yield ranker.rank(whole.problem.plan_of(name, _smaller(whole.problem.instance, whole.schedule, whole.order)))
    if whole.layers is not None and whole.layers.smallest.peak_bytes < whole.peak_bytes:
        lifted = _smaller(whole.problem.instance, whole.layers.smallest.schedule, whole.order)
        yield ranker.rank(whole.problem.plan_of(f"{name}:layers", lifted))


def _just_over(known: Sequence[Ranked], budget_bytes: int) -> list[Ranked]:
    """The smallest plan that is over the budget, if it is by little: to make it fit may cost less than to make one that fits
    faster."""
    over = (entry for entry in known if budget_bytes < entry.estimated_peak_bytes <= _LITTLE * budget_bytes)
    return sorted(over, key=lambda entry: entry.estimated_peak_bytes)[:1]


def _faster(ranker: Ranker, start: Ranked, graph: Graph, name: str, budget_bytes: int) -> Ranked:
    """A cheaper plan than ``start`` within the budget, as far as one is found."""
    problem = ranker.joint_problem(start.plan, graph.forward_outputs)
    schedule = problem.schedule_of(start.plan)
    if len(schedule) > problem.instance.capacity:
        return start
    # The problem may see a little more at the peak than the ranker does.
    own_bytes = replay(problem.instance, schedule).peak_bytes + budget_bytes - start.estimated_peak_bytes
    limits = Limits.of_moves(_CHEAPER_MOVES)
    found = search(problem.instance, own_bytes, limits, _order(graph), Goal.CHEAPEST, schedule)
    return ranker.rank(problem.plan_of(name, found.schedule))


def _smaller(instance: Instance, start: Sequence[int], order: Order) -> tuple[int, ...]:
    return search(instance, 0, Limits.of_moves(_SMALLEST_MOVES), order, Goal.SMALLEST, start).schedule


def _order(graph: Graph) -> Order:
    # Effects, what reads behind them and random draws keep their places: in the start's order all that is computed first does.
    return Order.FIXED if any(op.pinned for op in graph.ops) else Order.FREE
