"""Answers against the oracle: never over budget, never below what is proven, optimal where it is said."""

import itertools
from collections import Counter

import pytest

from graphckpt.errors import InstanceError
from graphckpt.solve.remat.answer import Answer, Status
from graphckpt.solve.remat.floors import peak_floor
from graphckpt.solve.remat.instance import Instance, make_instance
from graphckpt.solve.remat.replay import replay
from graphckpt.solve.remat.search import Order, Progress
from graphckpt.solve.remat.solve import Wish, frontier, smallest_peak, solve
from tests.solve.remat.problems import cheapest_by_trying, random_instance, smallest_by_trying, training_instance


def _wish(order: Order = Order.FREE, **changes: object) -> Wish:
    return Wish(seconds=60, order=order, iterations=600, states=20_000, **changes)  # type: ignore[arg-type]


def _check(instance: Instance, budget_bytes: int, order: Order, answer: Answer, cheapest: int | None) -> None:
    if answer.schedule is not None:
        facts = replay(instance, answer.schedule)
        assert facts.peak_bytes <= budget_bytes
        assert (facts.cost, facts.peak_bytes) == (answer.cost, answer.peak)
        assert order is Order.FREE or facts.keeps_order
        assert answer.lower_bound is not None
        assert facts.cost >= answer.lower_bound
        if facts.computations <= 3:
            assert cheapest is not None
            assert facts.cost >= cheapest
    if answer.status is Status.OPTIMAL:
        # Optimal over any number of computations: the oracle tries three.
        assert answer.cost == answer.lower_bound
        assert cheapest is None or answer.cost is None or answer.cost <= cheapest
    if cheapest is not None:
        assert answer.status is not Status.INFEASIBLE
        assert answer.lower_bound is not None
        assert answer.lower_bound <= cheapest


@pytest.mark.parametrize("order", list(Order))
def test_answers_agree_with_trying_all_schedules(order: Order) -> None:
    statuses: Counter[Status] = Counter()
    repeats = 0
    for seed in range(60):
        instance = random_instance(seed)
        smallest, whole = smallest_by_trying(instance, order), replay(instance, range(instance.count)).peak_bytes
        for budget_bytes in {smallest - 1, smallest, smallest + 1, (smallest + whole) // 2}:
            answer = solve(instance, budget_bytes, _wish(order))
            _check(instance, budget_bytes, order, answer, cheapest_by_trying(instance, budget_bytes, order))
            statuses[answer.status] += 1
            repeats += answer.schedule is not None and len(answer.schedule) > instance.count
    # Graphs this small are closed, all of them.
    assert set(statuses) == {Status.OPTIMAL, Status.INFEASIBLE}
    assert statuses[Status.INFEASIBLE] == 60
    assert repeats > 30


def test_a_training_chain_is_solved_to_the_optimum() -> None:
    instance = training_instance(3)
    whole = replay(instance, range(instance.count)).peak_bytes
    for budget_bytes in range(peak_floor(instance)[0] - 1, whole + 1):
        answer = solve(instance, budget_bytes, _wish())
        cheapest = cheapest_by_trying(instance, budget_bytes, Order.FREE)
        assert answer.cost == cheapest
        assert answer.status is (Status.INFEASIBLE if cheapest is None else Status.OPTIMAL)


def test_the_same_seed_gives_the_same_plan() -> None:
    instance = training_instance(40)
    budget_bytes = replay(instance, range(instance.count)).peak_bytes * 6 // 10
    plans = [solve(instance, budget_bytes, _wish(seed=seed)).schedule for seed in (3, 3)]
    assert plans[0] == plans[1] is not None
    side_by_side = [solve(instance, budget_bytes, _wish(threads=2)).schedule for _ in range(2)]
    assert side_by_side[0] == side_by_side[1] is not None


def test_the_frontier_is_monotone() -> None:
    instance = training_instance(24)
    whole = replay(instance, range(instance.count)).peak_bytes
    budgets = [int(share * whole) for share in (1.0, 0.3, 0.8, 0.4, 0.6, 0.5, 0.05)]
    answers = frontier(instance, budgets, _wish())
    assert [answer.status for answer in answers].count(Status.INFEASIBLE) == 1
    ordered = [answers[at] for at in sorted(range(len(budgets)), key=budgets.__getitem__)]
    for smaller, larger in itertools.pairwise(ordered):
        if smaller.cost is not None and larger.cost is not None:
            assert larger.cost <= smaller.cost
        if smaller.lower_bound is not None and larger.lower_bound is not None:
            assert larger.lower_bound <= smaller.lower_bound
    assert answers[0].cost == instance.total_cost


@pytest.mark.parametrize("order", list(Order))
def test_the_smallest_peak_is_the_smallest(order: Order) -> None:
    for seed in range(20):
        instance = random_instance(seed, 7)
        found = smallest_peak(instance, _wish(order))
        assert replay(instance, found.schedule).peak_bytes == found.peak_bytes == found.floor_bytes
        assert solve(instance, found.peak_bytes, _wish(order)).status is Status.OPTIMAL
        assert cheapest_by_trying(instance, found.peak_bytes - 1, order) is None


def test_a_fixed_order_needs_nodes_in_order() -> None:
    instance = make_instance("", (1, 1), (1, 1), ((1,), ()))
    with pytest.raises(InstanceError, match="fixed order"):
        solve(instance, 2, _wish(Order.FIXED))
    assert solve(instance, 2, _wish()).schedule == (1, 0)


def test_who_watches_is_told_and_may_end_it() -> None:
    instance = training_instance(60)
    budget_bytes = replay(instance, range(instance.count)).peak_bytes // 4
    seen: list[Progress] = []

    def watch(progress: Progress) -> bool:
        seen.append(progress)
        return len(seen) == 4

    answer = solve(instance, budget_bytes, Wish(seconds=60, watch=watch))
    assert len(seen) == 4
    assert answer.seconds < 30
    assert answer.status in (Status.FEASIBLE, Status.NO_PLAN)


def test_ctrl_c_keeps_what_was_found() -> None:
    instance = training_instance(60)
    whole = replay(instance, range(instance.count)).peak_bytes

    def watch(progress: Progress) -> bool:
        if progress.cost is not None:
            raise KeyboardInterrupt
        return False

    answer = solve(instance, whole * 3 // 4, Wish(seconds=80, watch=watch))
    assert answer.schedule is not None
    assert answer.seconds < 30
