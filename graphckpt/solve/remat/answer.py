"""What is said about a problem and a budget: the plan, what is proven, by which argument and for which schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import NamedTuple

from graphckpt.errors import PlanError
from graphckpt.solve.remat.instance import Instance
from graphckpt.solve.remat.replay import replay
from graphckpt.solve.remat.search import Order

ANY = "any order and any number of computations a node"
FIXED = "first computations in the order 0..n-1, any number of computations a node"


class Status(Enum):
    """``OPTIMAL``: the plan costs what no other can be below. ``NO_PLAN``: none was found, and none was excluded."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    NO_PLAN = "no_plan"


class Bound(NamedTuple):
    """No schedule within the budget costs less; ``cost`` is None where none fits at all.

    ``argument``: why; ``holds_for``: for which schedules.
    """

    cost: int | None
    argument: str
    holds_for: str


@dataclass(frozen=True, slots=True)
class Answer:
    """``schedule``, ``cost`` and ``peak`` (bytes) are None where there is no plan; all are those of the replay."""

    schedule: tuple[int, ...] | None
    cost: int | None
    peak: int | None
    lower_bound: int | None
    bound_from: str
    bound_holds_for: str
    status: Status
    seconds: float

    def as_fields(self) -> dict[str, object]:
        """The fields of the command line's JSON object."""
        return {**asdict(self), "status": self.status.value, "seconds": round(self.seconds, 3)}


def answer_of(
    instance: Instance, budget_bytes: int, order: Order, schedule: Sequence[int] | None, bound: Bound, seconds: float
) -> Answer:
    """Check and state a plan and a bound.

    Raises:
        PlanError: the plan is not legal, over the budget, not in the order, or below the bound: an error of ours.
    """
    if schedule is None:
        status = Status.INFEASIBLE if bound.cost is None else Status.NO_PLAN
        return Answer(None, None, None, bound.cost, bound.argument, bound.holds_for, status, seconds)
    facts = replay(instance, schedule)
    if facts.peak_bytes > budget_bytes:
        raise PlanError(f"wanted a plan of at most {budget_bytes} bytes, came one of {facts.peak_bytes}")
    if order is Order.FIXED and not facts.keeps_order:
        raise PlanError("wanted first computations in the order 0, 1, 2, ..., came another order")
    if bound.cost is None or facts.cost < bound.cost:
        raise PlanError(f"wanted a plan that costs {bound.cost} or more, as was proven, came one of {facts.cost}")
    status = Status.OPTIMAL if facts.cost == bound.cost else Status.FEASIBLE
    return Answer(
        tuple(schedule), facts.cost, facts.peak_bytes, bound.cost, bound.argument, bound.holds_for, status, seconds
    )
