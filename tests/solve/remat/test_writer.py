"""Schedules from steps of which some are missing and others in vain.

    a -> b -> c -> d        a -> d        once: a
"""

from __future__ import annotations

import random

import pytest

from graphckpt.solve.remat.instance import make_instance
from graphckpt.solve.remat.replay import replay
from graphckpt.solve.remat.search import Order
from graphckpt.solve.remat.writer import ScheduleWriter
from tests.solve.remat.problems import random_instance

A, B, C, D = range(4)
LINE = make_instance("line", (1, 1, 1, 1), (1, 1, 1, 1), ((), (A,), (B,), (A, C)), frozenset((A,)))


def test_what_is_missing_is_computed_where_it_is_first_read() -> None:
    writer = ScheduleWriter(LINE, Order.FREE)
    writer.put([C])
    assert writer.schedule() == (A, B, C, D)


def test_what_is_gone_is_computed_again_but_for_what_may_not_be() -> None:
    writer = ScheduleWriter(LINE, Order.FREE)
    writer.put([A, B, C])
    writer.drop([A, B, C])
    writer.put([D])
    # The first C is read by nobody any more, and so is the first B.
    assert writer.schedule() == (A, B, C, D)
    writer = ScheduleWriter(make_instance("line", (1,) * 5, (1,) * 5, (*LINE.inputs, (B, D)), frozenset((A,))), Order.FREE)
    writer.put([A, B, C])
    writer.drop([B])
    writer.put([D, 4])
    assert writer.schedule() == (A, B, C, D, B, 4)


def test_copies_that_nobody_reads_go_and_the_first_of_a_fixed_order_stays() -> None:
    for order, expected in ((Order.FREE, (A, B, C, D)), (Order.FIXED, (A, B, C, B, C, D))):
        writer = ScheduleWriter(LINE, order)
        writer.put([A, A, B, C, B, C, C, D])
        assert writer.schedule() == expected


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("seed", range(40))
def test_any_steps_make_a_legal_schedule(order: Order, seed: int) -> None:
    """Nodes by lot, several times or never, and some gone in between."""
    draw = random.Random(seed)
    instance = random_instance(seed, 12)
    writer = ScheduleWriter(instance, order)
    for _ in range(draw.randint(0, 4)):
        writer.put(draw.choices(range(instance.count), k=draw.randint(0, 2 * instance.count)))
        writer.drop(draw.choices(range(instance.count), k=draw.randint(0, instance.count)))
    found = replay(instance, writer.schedule())
    assert order is Order.FREE or found.keeps_order
