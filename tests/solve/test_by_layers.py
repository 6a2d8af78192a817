"""A deep graph's schedules from searches in a few of its layers.

    few layers: smallest peak, then cheapest within budgets -> ways -> all layers, within any budget
"""

from __future__ import annotations

from graphckpt.solve.by_layers import ByLayers, by_layers
from graphckpt.solve.remat.replay import replay
from graphckpt.solve.remat.search import Order
from tests.solve.remat.deep import deep, kept

LAYERS = 40
STEP = deep(LAYERS)
KEPT_BYTES = replay(STEP.instance, kept(STEP)).peak_bytes


def _layers() -> ByLayers:
    found = by_layers(STEP.instance, kept(STEP), Order.FREE)
    assert found is not None
    return found


def test_a_smaller_peak_is_found_than_that_of_the_plan_begun_with() -> None:
    found = _layers().smallest
    assert replay(STEP.instance, found.schedule).peak_bytes == found.peak_bytes
    assert found.peak_bytes < 0.7 * KEPT_BYTES


def test_each_budget_is_met_and_what_is_taught_makes_it_cheaper() -> None:
    untaught = _layers()
    least_bytes = untaught.smallest.peak_bytes
    budgets = [int(share * least_bytes) for share in (1.0, 1.1, 1.3, 1.6)]
    taught = untaught.taught(budgets)
    assert len(taught.learnt) > 1
    costs = []
    for budget_bytes in budgets:
        before, after = untaught.within(budget_bytes), taught.within(budget_bytes)
        assert before is not None and after is not None
        assert replay(STEP.instance, after.schedule).peak_bytes <= budget_bytes
        assert after.cost <= before.cost
        costs.append(after.cost)
    assert costs[-1] < costs[0]
    assert taught.within(STEP.instance.size_bytes[0]) is None


def test_the_same_every_time_and_none_of_few_layers() -> None:
    one, other = (_layers().taught([KEPT_BYTES // 2]) for _ in range(2))
    assert one.few == other.few
    assert one.within(KEPT_BYTES // 2) == other.within(KEPT_BYTES // 2)
    few = deep(8)
    assert by_layers(few.instance, kept(few), Order.FREE) is None
