"""Plans that the engine of `graphckpt.solve.remat` makes from the smallest of a frontier: any number of copies, and any order where
nothing is pinned.

The planner's own plans (`graphckpt.solve.planner`) keep the order of backward, and compute a value again once for each layer. Near
the smallest peak that is not enough: what is at the peak can still be computed later, or twice. The smallest plan is taken as a
schedule of kernels and annealed to a smaller peak; then, for a ladder of budgets from that peak upwards, the fastest plan known
to fit is annealed to a cheaper one. Above the ladder the planner's plans were found to be nearly as good (within 0.3 % of the
time of a step).

Deterministic: a fixed number of moves and one seed. Not optimal, and with no bound of its own; `graphckpt.solve.bound` holds for
these plans too. Not for graphs whose user says what is to be computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphckpt.ir.graph import Graph
from graphckpt.ir.plan import Plan
from graphckpt.solve.frontier import Ranked, Ranker
from graphckpt.solve.remat.replay import replay
from graphckpt.solve.remat.search import Goal, Limits, Order, search

# Moves of the search for the smallest peak, and of each for a cheaper plan.
_SMALLEST_MOVES = 90_000
_CHEAPER_MOVES = 45_000
# Budgets, in terms of the smallest peak that is found, and where memory is short, in terms of the smallest there was.
_LADDER = (1.0, 1.02, 1.05, 1.1, 1.2)
SHORT = 1.25
# Moves end a search, not the clock.
_NO_LIMIT_S = 1e6


def refined_plans(ranker: Ranker, frontier: Sequence[Ranked], graph: Graph) -> Iterator[Plan]:
    """Plans of ``graph``, which ``ranker`` ranks: a smaller one than all of ``frontier``, then for each rung of the ladder one that
    is faster than what was known to fit; where none is found, none. Not checked."""
    if any(op.tag == "recompute" for op in graph.ops):
        return
    known = list(frontier)
    start = min(known, key=lambda entry: (entry.estimated_peak_bytes, entry.time_us))
    smallest = _refined(ranker, start, graph, f"refined:{len(_LADDER)}", None)
    if smallest.estimated_peak_bytes < start.estimated_peak_bytes:
        known.append(smallest)
        yield smallest.plan
    least_bytes = min(entry.estimated_peak_bytes for entry in known)
    for rung, share in enumerate(_LADDER):
        budget_bytes = int(share * least_bytes)
        start = min((entry for entry in known if entry.estimated_peak_bytes <= budget_bytes), key=lambda entry: entry.time_us)
        faster = _refined(ranker, start, graph, f"refined:{len(_LADDER) - 1 - rung}", budget_bytes)
        # What the problem sees beyond the ranker differs from plan to plan.
        if faster.estimated_peak_bytes <= budget_bytes and faster.time_us < start.time_us:
            known.append(faster)
            yield faster.plan


def _refined(ranker: Ranker, start: Ranked, graph: Graph, name: str, budget_bytes: int | None) -> Ranked:
    """A cheaper plan than ``start`` within the budget, one of a smaller peak if there is no budget; as far as one is found."""
    problem = ranker.joint_problem(start.plan, graph.forward_outputs)
    schedule = problem.schedule_of(start.plan)
    if budget_bytes is None:
        limits, goal, own_bytes = Limits(_NO_LIMIT_S, _SMALLEST_MOVES), Goal.SMALLEST, 0
    else:
        limits, goal = Limits(_NO_LIMIT_S, _CHEAPER_MOVES), Goal.CHEAPEST
        # The problem may see a little more at the peak than the ranker does.
        own_bytes = replay(problem.instance, schedule).peak_bytes + budget_bytes - start.estimated_peak_bytes
    # Effects, what reads behind them and random draws keep their places: in the start's order all that is computed first does.
    order = Order.FIXED if any(op.pinned for op in graph.ops) else Order.FREE
    found = search(problem.instance, own_bytes, limits, order, goal, schedule)
    return ranker.rank(problem.plan_of(name, found.schedule))
