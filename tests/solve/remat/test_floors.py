"""What is refused before anything is searched for."""

import pytest

from graphckpt.solve.remat.floors import cone, floor_refusal, peak_floor
from graphckpt.solve.remat.instance import make_instance
from graphckpt.solve.remat.search import Order
from tests.solve.remat.problems import cheapest_by_trying, random_instance, smallest_by_trying

# Two values of 5 that are made out of 4 each, and their sum of 1: the second is made beside the first.
#
#     0 (4) -> 2 (5) \
#                     4 (1) -> 5 (1)
#     1 (4) -> 3 (5) /
FORKS = make_instance("forks", (1,) * 6, (4, 4, 5, 5, 1, 1), ((), (), (0,), (1,), (2, 3), (4,)))


def test_a_cone_is_what_a_node_depends_on() -> None:
    assert cone(FORKS, 3) == make_instance("forks, node 3", (0, 0), (4, 5), ((), (0,)))


def test_one_node_is_refused_by_its_own_bytes() -> None:
    assert peak_floor(FORKS) == (11, 4)
    refusal = floor_refusal(FORKS, 10, 5)
    assert refusal is not None
    assert "node 4, its inputs and its output take 11 bytes" in refusal.argument


@pytest.mark.parametrize(("budget_bytes", "is_refused"), [(11, True), (13, True), (14, False)])
def test_a_cone_is_refused_where_its_node_alone_would_fit(budget_bytes: int, is_refused: bool) -> None:
    """5 kept, 4 + 5 beside it."""
    refusal = floor_refusal(FORKS, budget_bytes, 5)
    assert (refusal is not None) == is_refused
    assert (cheapest_by_trying(FORKS, budget_bytes, Order.FREE) is None) == is_refused
    if refusal is not None:
        assert "what node 4 reads" in refusal.argument


def test_nothing_is_refused_that_has_a_schedule() -> None:
    refused = 0
    for seed in range(60):
        instance = random_instance(seed)
        smallest = smallest_by_trying(instance, Order.FREE)
        assert floor_refusal(instance, smallest, 5) is None
        refused += floor_refusal(instance, smallest - 1, 5) is not None
    # Few nodes, few states: each is refused.
    assert refused == 60
