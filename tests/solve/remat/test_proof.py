"""The proof alone: outcomes, and what they say where it is cut short."""

import pytest

from graphckpt.solve.remat import instance as instance_module
from graphckpt.solve.remat.proof import MOST_NODES, Outcome, prove
from graphckpt.solve.remat.replay import replay
from graphckpt.solve.remat.search import Limits, Order
from tests.solve.remat.problems import cheapest_by_trying, random_instance, smallest_by_trying, training_instance

CHAIN = training_instance(12)
WHOLE = replay(CHAIN, range(CHAIN.count)).peak_bytes
LIMITS = Limits(20)


@pytest.mark.parametrize("order", list(Order))
def test_what_is_found_is_the_cheapest_of_all(order: Order) -> None:
    for seed in range(100, 140):
        instance = random_instance(seed)
        budget_bytes = smallest_by_trying(instance, order) + seed % 3
        proof = prove(instance, budget_bytes, LIMITS, order)
        facts = replay(instance, proof.schedule)
        assert proof.outcome is Outcome.FOUND
        assert facts.peak_bytes <= budget_bytes
        assert facts.cost == proof.lower_bound
        if facts.computations <= 3:
            assert facts.cost == cheapest_by_trying(instance, budget_bytes, order)


def test_a_plan_to_beat_is_beaten_or_proven() -> None:
    cheapest = prove(CHAIN, WHOLE // 2, LIMITS).lower_bound
    assert cheapest > CHAIN.total_cost
    proof = prove(CHAIN, WHOLE // 2, LIMITS, cost_to_beat=cheapest)
    assert (proof.outcome, proof.lower_bound, proof.schedule) == (Outcome.NONE_CHEAPER, cheapest, ())
    better = prove(CHAIN, WHOLE // 2, LIMITS, cost_to_beat=cheapest + 1)
    assert (better.outcome, better.lower_bound) == (Outcome.FOUND, cheapest)


def test_nothing_cheaper_is_not_nothing_at_all() -> None:
    """A ceiling that cuts every way off must not be taken for a budget without a plan."""
    proof = prove(CHAIN, WHOLE // 2, LIMITS, cost_to_beat=CHAIN.total_cost + 1)
    assert proof.outcome is Outcome.NONE_CHEAPER
    assert prove(CHAIN, 8, LIMITS).outcome is Outcome.INFEASIBLE


def test_a_bound_grows_with_the_states() -> None:
    long = training_instance(60)
    budget_bytes = replay(long, range(long.count)).peak_bytes * 3 // 10
    proofs = [prove(long, budget_bytes, LIMITS, most_states=states) for states in (1, 100, 3000)]
    bounds = [proof.lower_bound for proof in proofs]
    assert all(proof.outcome is Outcome.STOPPED for proof in proofs)
    assert long.total_cost < bounds[0] <= bounds[1] <= bounds[2]


def test_a_schedule_longer_than_there_is_room_for_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cheapest = prove(CHAIN, WHOLE // 2, LIMITS).lower_bound
    monkeypatch.setattr(instance_module, "STEPS_PER_NODE", 1)
    monkeypatch.setattr(instance_module, "SPARE_STEPS", 0)
    proof = prove(CHAIN, WHOLE // 2, LIMITS)
    assert (proof.outcome, proof.lower_bound, proof.schedule) == (Outcome.FOUND, cheapest, ())


def test_what_is_too_large_is_not_begun() -> None:
    large = training_instance(MOST_NODES // 2)
    proof = prove(large, 1, LIMITS)
    assert (proof.outcome, proof.lower_bound, proof.states) == (Outcome.STOPPED, large.total_cost, 0)


def test_who_watches_may_end_it() -> None:
    long = training_instance(80)
    budget_bytes = replay(long, range(long.count)).peak_bytes * 3 // 10
    proof = prove(long, budget_bytes, Limits(60, watch=lambda progress: progress.iterations > 0))
    assert (proof.outcome, proof.interrupted) == (Outcome.STOPPED, True)
