"""When plans are refined, and the looks at the frontier that has them (`graphckpt.solve.refine`)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from graphckpt.config import Options
from graphckpt.ir.plan import Plan
from graphckpt.session.looks import Looks
from graphckpt.session.patience import Patience
from graphckpt.session.pause import collection_paused
from graphckpt.solve.frontier import first_correction, pareto
from graphckpt.solve.refine import SHORT, refined_plans


def one_policy(policy: str | None) -> str | None:
    """The policy, if its one plan is to be taken; None where there is a choice among all plans that can be found."""
    return None if policy is None or policy == "smallest" or policy.startswith("index:") else policy


def is_short(options: Options, allowance_bytes: int, looks: Looks) -> bool:
    """Whether the choice will be among the smallest plans, where the planner's own are not the best. A number is taken to be of the
    frontier that such a choice is shown."""
    if not options.refine or one_policy(options.policy):
        return False
    if options.policy is not None:
        return options.policy != "index:0"
    least_bytes = min(looks.estimated_peak(index) for index in range(len(looks.frontier)))
    return allowance_bytes < SHORT * least_bytes * first_correction(looks, looks.exact_peaks()[0])


def refined(looks: Looks, patience: Patience, admits: Callable[[Plan], bool]) -> Looks:
    """Looks at a frontier with plans made from its smallest, which is lowered first and tells which copies have a buffer.

    That one stays in its place by time: what is smaller by the model may be larger in the end, and its peak is known. ``admits``:
    whether a plan is legal.
    """
    index = looks.smallest_index
    if index:
        looks.exact_peak(index, 0)
    with collection_paused():
        known = [looks.ranker.rank(ranked.plan) for ranked in looks.frontier]
        plans = patience.within(refined_plans(looks.ranker, known, looks.lowered.graph))
        frontier = list(pareto(known, [looks.ranker.rank(plan) for plan in plans], admits))
    if known[index] not in frontier:
        frontier.insert(bisect_right(frontier, known[index].time_us, key=lambda entry: entry.time_us), known[index])
    return looks.over(tuple(frontier))
