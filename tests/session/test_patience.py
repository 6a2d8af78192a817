"""The planner stops looking for plans when its time is over."""

from collections.abc import Iterator

import pytest

from graphckpt.ir.plan import Plan
from graphckpt.session.patience import Patience

PLANS = [Plan(name, (), ()) for name in "abcd"]


def _every_second() -> Iterator[float]:
    yield from map(float, range(100))


@pytest.mark.parametrize(
    ("seconds", "found", "is_over"), [(None, 4, False), (3.0, 4, False), (2.0, 3, True), (1.0, 2, True), (0.5, 1, True)]
)
def test_plans_that_come_in_time(seconds: float | None, found: int, is_over: bool) -> None:
    """A plan a second, the second one at 1 s; the first comes whatever the time."""
    patience = Patience(seconds, _every_second().__next__)
    assert list(patience.within(iter(PLANS))) == PLANS[:found]
    assert patience.is_over == is_over
