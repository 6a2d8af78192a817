"""Plans that the engine of `graphckpt.solve.remat` makes from the smallest of a frontier: any number of copies, and any order where
nothing is pinned.

The planner's own plans (`graphckpt.solve.planner`) keep the order of backward, and compute a value again once for each layer. Near
the smallest peak that is not enough: what is at the peak can still be computed later, or twice. The smallest plan is taken as a
schedule of kernels and annealed to a smaller peak; then, for a ladder of budgets from that peak upwards, the fastest plan known
to fit is annealed to a cheaper one, and so is one that nearly fits. Where a graph has many equal layers, the smallest peak is also
searched for with a few of them (`graphckpt.solve.remat.fold`), and what that finds done in all. Above the ladder the planner's
plans were found to be nearly as good (within 0.3 % of the time of a step).

Deterministic: a fixed number of moves and one seed. Not optimal, and with no bound of its own; `graphckpt.solve.bound` holds for
these plans too. Not for graphs whose user says what is to be computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphckpt.ir.graph import Graph
from graphckpt.ir.plan import Plan
from graphckpt.solve.frontier import Ranked, Ranker
from graphckpt.solve.remat.fold import fold
from graphckpt.solve.remat.instance import Instance
from graphckpt.solve.remat.replay import replay
from graphckpt.solve.remat.search import Goal, Limits, Order, search

# Moves of the search for the smallest peak, and of each for a cheaper plan.
_SMALLEST_MOVES = 90_000
_CHEAPER_MOVES = 45_000
# In a few of many equal layers, where a move does more.
_FEW_MOVES = 200_000
# Budgets, in terms of the smallest peak that is found, and where memory is short, in terms of the smallest there was.
_LADDER = (1.0, 1.02, 1.05, 1.1, 1.2)
SHORT = 1.25
_LITTLE = 1.05
# Moves end a search, not the clock.
_NO_LIMIT_S = 1e6


def refined_plans(ranker: Ranker, frontier: Sequence[Ranked], graph: Graph) -> Iterator[Plan]:
    """Plans of ``graph``, which ``ranker`` ranks: smaller ones than all of ``frontier``, then for each rung of the ladder one that
    is faster than what was known to fit; where none is found, none. Not checked."""
    if any(op.tag == "recompute" for op in graph.ops):
        return
    known = list(frontier)
    start = min(known, key=lambda entry: (entry.estimated_peak_bytes, entry.time_us))
    for found in _smallest(ranker, start, graph):
        if found.estimated_peak_bytes < start.estimated_peak_bytes:
            known.append(found)
            yield found.plan
    least_bytes = min(entry.estimated_peak_bytes for entry in known)
    for rung, share in enumerate(_LADDER):
        budget_bytes = int(share * least_bytes)
        start = min((entry for entry in known if entry.estimated_peak_bytes <= budget_bytes), key=lambda entry: entry.time_us)
        name = f"refined:{len(_LADDER) - 1 - rung}"
        tried = [_faster(ranker, begin, graph, name, budget_bytes) for begin in (start, *_just_over(known, budget_bytes))]
        # What the problem sees beyond the ranker differs from plan to plan.
        faster = [entry for entry in tried if entry.estimated_peak_bytes <= budget_bytes and entry.time_us < start.time_us]
        if faster:
            known.append(min(faster, key=lambda entry: entry.time_us))
            yield known[-1].plan


def _smallest(ranker: Ranker, start: Ranked, graph: Graph) -> Iterator[Ranked]:
    """Plans of a smaller peak than ``start``, as far as they are found: one by one, for whoever asks may run out of patience."""
    problem = ranker.joint_problem(start.plan, graph.forward_outputs)
    instance, schedule, order = problem.instance, problem.schedule_of(start.plan), _order(graph)
    name = f"refined:{len(_LADDER)}"
    yield ranker.rank(problem.plan_of(name, _smaller(instance, schedule, order)))
    learnt = _learnt_of_few(instance, schedule, order)
    if learnt is not None:
        yield ranker.rank(problem.plan_of(f"{name}:layers", _smaller(instance, learnt, order)))


def _just_over(known: Sequence[Ranked], budget_bytes: int) -> list[Ranked]:
    """The smallest plan that is over the budget, if it is by little: to make it fit may cost less than to make one that fits
    faster."""
    over = (entry for entry in known if budget_bytes < entry.estimated_peak_bytes <= _LITTLE * budget_bytes)
    return sorted(over, key=lambda entry: entry.estimated_peak_bytes)[:1]


def _faster(ranker: Ranker, start: Ranked, graph: Graph, name: str, budget_bytes: int) -> Ranked:
    """A cheaper plan than ``start`` within the budget, as far as one is found."""
    problem = ranker.joint_problem(start.plan, graph.forward_outputs)
    schedule = problem.schedule_of(start.plan)
    # The problem may see a little more at the peak than the ranker does.
    own_bytes = replay(problem.instance, schedule).peak_bytes + budget_bytes - start.estimated_peak_bytes
    limits = Limits(_NO_LIMIT_S, _CHEAPER_MOVES)
    found = search(problem.instance, own_bytes, limits, _order(graph), Goal.CHEAPEST, schedule)
    return ranker.rank(problem.plan_of(name, found.schedule))


def _learnt_of_few(instance: Instance, schedule: Sequence[int], order: Order) -> tuple[int, ...] | None:
    """A schedule of a smaller peak, found for a few of a graph's equal layers; None where there are not enough."""
    folded = fold(instance, schedule)
    if folded is None:
        return None
    # In an order that is fixed layers stay alike, so what is found for one serves the others.
    limits, few = Limits(_NO_LIMIT_S, _FEW_MOVES), folded.restrict(schedule)
    found = search(folded.instance, 0, limits, Order.FIXED, Goal.SMALLEST, few)
    return folded.lift(found.schedule, lambda lifted: (replay(instance, lifted).peak_bytes,), order)


def _smaller(instance: Instance, start: Sequence[int], order: Order) -> tuple[int, ...]:
    return search(instance, 0, Limits(_NO_LIMIT_S, _SMALLEST_MOVES), order, Goal.SMALLEST, start).schedule


def _order(graph: Graph) -> Order:
    # Effects, what reads behind them and random draws keep their places: in the start's order all that is computed first does.
    return Order.FIXED if any(op.pinned for op in graph.ops) else Order.FREE
