"""The definition of peak and cost."""

import pytest

from graphckpt.errors import PlanError
from graphckpt.solve.remat.instance import Kernels, make_instance
from graphckpt.solve.remat.replay import replay

# a (5 bytes) -> b (3) -> c (2) -> d (1), and d reads a too.
CHAIN = make_instance("", (10, 20, 30, 40), (5, 3, 2, 1), ((), (0,), (1,), (0, 2)))


def test_what_is_read_later_is_live_and_what_is_not_is_dropped() -> None:
    facts = replay(CHAIN, (0, 1, 2, 3))
    assert facts.live_bytes == (5, 8, 10, 8)
    assert (facts.cost, facts.peak_bytes, facts.computations, facts.keeps_order) == (100, 10, 1, True)


def test_a_copy_is_kept_to_its_last_reader_before_the_next_copy() -> None:
    """a's first copy goes after b, its second one is there for d."""
    facts = replay(CHAIN, (0, 1, 2, 0, 3))
    assert facts.live_bytes == (5, 8, 5, 7, 8)
    assert (facts.cost, facts.computations, facts.keeps_order) == (110, 2, True)


def test_a_copy_that_nobody_reads_is_there_at_its_own_step_alone() -> None:
    assert replay(CHAIN, (0, 0, 1, 2, 3)).live_bytes == (5, 5, 8, 10, 8)


def test_another_order_is_seen() -> None:
    forks = make_instance("", (1, 1, 1), (1, 1, 1), ((), (0,), (0,)))
    assert not replay(forks, (0, 2, 1)).keeps_order


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ((0, 1, 2), "none of node 3"),
        ((0, 2, 1, 3), "node 2 reads node 1"),
        ((0, 1, 2, 3, 4), "wanted a node 0 to 3, came 4"),
        ((0, 1, 1, 2, 3), "node 1 may be computed once only"),
        ((), "none of node 0"),
    ],
)
def test_what_is_no_schedule_is_refused(schedule: tuple[int, ...], words: str) -> None:
    once = make_instance("", CHAIN.cost, CHAIN.size_bytes, CHAIN.inputs, frozenset({1}))
    with pytest.raises(PlanError, match=words):
        replay(once, schedule)


# x (4 bytes) -> y (4), z (4) reads both; y may write over x where it is the last to read it.
WRITERS = make_instance(
    "", (1, 1, 1), (4, 4, 4), ((), (0,), (0, 1)), kernels=Kernels((0, 0, 3), frozenset({1, 2}), frozenset())
)


def test_a_kernel_writes_over_one_input_that_it_is_the_last_to_read_and_needs_its_scratch() -> None:
    """y is not the last reader of x; z is that of both, and writes over one of them."""
    assert replay(WRITERS, (0, 1, 2)).live_bytes == (4, 8, 12 - 4 + 3)
    again = replay(WRITERS, (0, 1, 0, 2))
    # The second x is there for z, so y writes over the first one.
    assert again.live_bytes == (4, 4, 8, 11)


@pytest.mark.parametrize(
    ("size", "kernels"),
    [
        ((4, 4, 4), Kernels((0, 0, 3), frozenset({1, 2}), frozenset({0, 1}))),
        ((4, 4, 4), Kernels((0, 0, 3), frozenset(), frozenset())),
        ((5, 4, 6), Kernels((0, 0, 3), frozenset({1, 2}), frozenset())),
    ],
    ids=["shared", "no writer", "other sizes"],
)
def test_what_is_shared_or_of_another_size_is_not_written_over(size: tuple[int, ...], kernels: Kernels) -> None:
    instance = make_instance("", WRITERS.cost, size, WRITERS.inputs, kernels=kernels)
    assert replay(instance, (0, 1, 2)).live_bytes[-1] == sum(size) + 3
    assert replay(instance, (0, 1, 2)).live_bytes[1] == size[0] + size[1]
