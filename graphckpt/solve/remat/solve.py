"""A problem and a budget in, a plan with a proven bound out; the frontier of budgets; the smallest peak.

The way of one answer: a floor that refuses what cannot be; a short search for a plan; a proof, which knows what to beat; and, if
that did not end, search again for the rest of the time. Everything is replayed before it is said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, pairwise

from graphckpt.errors import InstanceError
from graphckpt.solve.remat.answer import ANY, FIXED, Answer, Bound, answer_of
from graphckpt.solve.remat.floors import floor_refusal, peak_floor, trivial_bound
from graphckpt.solve.remat.instance import Instance
from graphckpt.solve.remat.proof import MOST_STATES, Outcome, Proof, prove
from graphckpt.solve.remat.replay import replay
from graphckpt.solve.remat.search import Found, Goal, Limits, Order, Progress, search, search_seeds

# Of the time: each cone of the floor; the proof of one peak; and up to where each step may go. With `exact` and a plan, the proof
# has all that is left.
_FLOOR = 0.005
_ONE_PEAK = 0.05
_FIRST_SEARCH = 0.05
_FITTING_FIRST = (0.15, 0.25)
_PROOF = 0.4
_SECOND_SEARCH = 0.75
_FITTING_LAST = (0.5, 0.6, 0.7, 0.8)


_LARGER = ", for a larger budget"
Schedule = Sequence[int] | None


@dataclass(frozen=True, slots=True)
class Wish:
    """How a problem is to be solved.

    ``seconds``: for all of it. ``iterations``: moves of a search, 0 for as many as there is time for. ``states``: at most so many
    in a proof. With both, and unless time cuts something short, an answer is always the same. ``threads``: searches side
    by side, of seeds one after another; the best plan counts, of equal ones that of the first seed. ``exact``: the time goes into
    the proof. ``watch``: asked ten times a second; True ends it.
    """

    seconds: float
    order: Order = Order.FREE
    seed: int = 0
    iterations: int = 0
    states: int = MOST_STATES
    threads: int = 1
    exact: bool = False
    watch: Callable[[Progress], bool] | None = None


class _Clock:
    """The time of a wish, and whether it was cut short."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self._start = time.monotonic()
        self.interrupted = False

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def limits(self, until_share: float, seed: int | None = None) -> Limits:
        """Up to this share of the time."""
        left = max(0.0, until_share * self._wish.seconds - self.seconds())
        return Limits(left, self._wish.iterations, self._wish.seed if seed is None else seed, self._wish.watch)


def solve(instance: Instance, budget_bytes: int, wish: Wish, known: Schedule = None) -> Answer:
    """The cheapest plan found within the budget, and what is proven. ``known``: a legal schedule to do no worse than.

    KeyboardInterrupt while it searches ends it with the best so far. Raises `InstanceError` for a fixed order where 0, 1, 2, ... is
    no schedule.
    """
    if wish.order is Order.FIXED and not instance.is_in_order:
        raise InstanceError(
            "a fixed order: wanted nodes that read smaller numbers only, came others; use the free order"
        )
    clock = _Clock(wish)
    refusal = floor_refusal(instance, budget_bytes, _FLOOR * wish.seconds)
    if refusal is not None:
        return answer_of(instance, budget_bytes, wish.order, None, refusal, clock.seconds())
    plan, bound = _cheaper(instance, budget_bytes, None, known), trivial_bound(instance)
    # Ctrl-C inside of the core comes back as a result; between two calls of it, as an exception.
    with suppress(KeyboardInterrupt):
        for found in _steps(instance, budget_bytes, wish, clock, plan, bound):
            plan, bound = found
            if clock.interrupted or bound.cost is None or _cost(instance, plan) == bound.cost:
                break
    return answer_of(instance, budget_bytes, wish.order, plan, bound, clock.seconds())


def _steps(
    instance: Instance, budget_bytes: int, wish: Wish, clock: _Clock, best: Schedule, bound: Bound
) -> Iterator[tuple[Schedule, Bound]]:
    yield best, bound
    run = partial(_search, instance, budget_bytes, wish)
    floor = instance.total_cost
    best = _cheaper(instance, budget_bytes, best, run(clock, _FIRST_SEARCH, 0, floor))
    yield best, bound
    for turn, until_share in enumerate(_FITTING_FIRST, 1):
        # What is hard to fit is sought for its own sake, from several seeds: a plan that is dear is more than none.
        if best is None:
            best = run(clock, until_share, turn, floor, Goal.SMALLEST)
            yield best, bound
    limits = clock.limits(1.0 if wish.exact and best is not None else _PROOF)
    proof = prove(instance, budget_bytes, limits, wish.order, _cost(instance, best), wish.states)
    clock.interrupted = proof.interrupted
    best = _cheaper(instance, budget_bytes, best, proof.schedule or None)
    bound = _stronger(bound, _bound_of(instance, wish.order, proof))
    yield best, bound
    floor = bound.cost or floor
    turns = count(len(_FITTING_FIRST) + 1)
    if best is not None:
        best = _cheaper(instance, budget_bytes, best, run(clock, _SECOND_SEARCH, next(turns), floor))
        yield best, bound
    for until_share in _FITTING_LAST:
        if best is None:
            best = run(clock, until_share, next(turns), floor, Goal.SMALLEST)
            yield best, bound
    yield _cheaper(instance, budget_bytes, best, run(clock, 1.0, next(turns), floor, Goal.CHEAPEST, best)), bound


def frontier(instance: Instance, budgets: Sequence[int], wish: Wish) -> tuple[Answer, ...]:
    """One answer a budget, in their order; ``wish.seconds`` is for each.

    Monotone by construction: a plan for a smaller budget is one for a larger, so none costs more; and what is proven for a larger
    budget holds for a smaller.
    """
    answers: dict[int, Answer] = {}
    ascending = sorted(set(budgets))
    known: tuple[int, ...] | None = None
    for budget_bytes in ascending:
        answers[budget_bytes] = solve(instance, budget_bytes, wish, known)
        known = answers[budget_bytes].schedule
    for larger, smaller in pairwise(reversed(ascending)):
        bound, own = _bound(answers[larger]), _bound(answers[smaller])
        if _stronger(own, bound) is not own:
            argument = bound.argument if bound.argument.endswith(_LARGER) else f"{bound.argument}{_LARGER}"
            answer, bound = answers[smaller], bound._replace(argument=argument)
            answers[smaller] = answer_of(instance, smaller, wish.order, answer.schedule, bound, answer.seconds)
    return tuple(answers[budget_bytes] for budget_bytes in budgets)


@dataclass(frozen=True, slots=True)
class SmallestPeak:
    """The smallest peak found, a schedule of it, and the bytes that no schedule's peak is below."""

    peak_bytes: int
    schedule: tuple[int, ...]
    floor_bytes: int
    floor_from: str


def smallest_peak(instance: Instance, wish: Wish) -> SmallestPeak:
    """The smallest peak whatever it costs, and its own bound: budgets are halved between what is proven to be too small, by
    `floor_refusal` and by the proof of `graphckpt.solve.remat.proof`, and what has a schedule."""
    clock = _Clock(wish)
    floor, node = peak_floor(instance)
    found = search(instance, floor, clock.limits(0.6), wish.order, Goal.SMALLEST)
    schedule, peak = found.schedule, replay(instance, found.schedule).peak_bytes
    why, high = f"node {node}, its inputs and its output", peak
    while not found.interrupted and floor < high and clock.seconds() < wish.seconds:
        middle = (floor + high) // 2
        refusal = floor_refusal(instance, middle, _FLOOR * wish.seconds)
        limits = replace(clock.limits(1.0), seconds=min(_ONE_PEAK * wish.seconds, clock.limits(1.0).seconds))
        proof = None if refusal else prove(instance, middle, limits, wish.order, None, wish.states)
        if refusal is not None or (proof is not None and proof.outcome is Outcome.INFEASIBLE):
            why = (
                refusal.argument if refusal is not None else "search over sets of live values: none leads to a schedule"
            )
            floor = middle + 1
        elif proof is not None and proof.schedule:
            schedule, peak = proof.schedule, replay(instance, proof.schedule).peak_bytes
            high = peak
        else:
            # Undecided: what is smaller may still be refused.
            high = middle
    return SmallestPeak(peak, schedule, floor, why)


def _search(
    instance: Instance,
    budget_bytes: int,
    wish: Wish,
    clock: _Clock,
    until_share: float,
    turn: int,
    cost_floor: int,
    goal: Goal = Goal.CHEAPEST,
    start: Schedule = None,
) -> Schedule:
    def run(own: Limits) -> Found:
        return search(instance, budget_bytes, own, wish.order, goal, start, cost_floor)

    first, *others = search_seeds(clock.limits(until_share, wish.seed + turn * wish.threads), wish.threads)
    ended: list[bool] = []
    with ThreadPoolExecutor(len(others) or 1) as pool:
        # The first one runs here: signals reach the main thread alone, and its end ends the others.
        futures = [pool.submit(run, replace(own, watch=lambda _: bool(ended))) for own in others]
        founds = [run(first)]
        clock.interrupted = founds[0].interrupted
        if clock.interrupted:
            ended.append(True)
        founds += [future.result() for future in futures]
    fitting = [found.schedule for found in founds if found.fits]
    return min(fitting, key=instance.cost_of, default=None)


def _bound_of(instance: Instance, order: Order, proof: Proof) -> Bound:
    holds_for = ANY if order is Order.FREE else FIXED
    how = f"search over sets of live values, {proof.states} states"
    if proof.outcome is Outcome.NONE_CHEAPER and not proof.states:
        # The plan costs what the bound of the first state says.
        return Bound(proof.lower_bound, "what does not fit beside one node is computed again: a knapsack", holds_for)
    if proof.outcome is Outcome.INFEASIBLE:
        return Bound(None, f"{how}: none leads to a schedule", holds_for)
    if proof.outcome is Outcome.STOPPED:
        if proof.lower_bound == instance.total_cost:
            return trivial_bound(instance)
        return Bound(proof.lower_bound, f"{how}, not ended", holds_for)
    return Bound(proof.lower_bound, f"{how}, ended", holds_for)


def _bound(answer: Answer) -> Bound:
    return Bound(answer.lower_bound, answer.bound_from, answer.bound_holds_for)


def _stronger(old: Bound, new: Bound) -> Bound:
    if old.cost is None or (new.cost is not None and new.cost <= old.cost):
        return old
    return new


def _cost(instance: Instance, schedule: Schedule) -> int | None:
    return None if schedule is None else instance.cost_of(schedule)


def _cheaper(instance: Instance, budget_bytes: int, best: Schedule, other: Schedule) -> Schedule:
    if other is None or replay(instance, other).peak_bytes > budget_bytes:
        return best
    if best is None or instance.cost_of(other) < instance.cost_of(best):
        return other
    return best
