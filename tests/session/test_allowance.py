"""What budgets leave for a step. The device of these tests has 1000 bytes, 300 of them taken, 100 by parameters, 600 free."""

import logging

import pytest

from graphckpt.config import Options
from graphckpt.report.record import Budget
from graphckpt.session.allowance import NO_LIMIT_BYTES, allowance_for, warn_above_device
from graphckpt.session.ledger import Ledger
from graphckpt.units import parse_size

LEDGER = Ledger(live_bytes=300, trainable_bytes=100, total_bytes=1000, free_bytes=600, stateless_bytes=100)
WITH_STATE = Ledger(live_bytes=500, trainable_bytes=100, total_bytes=1000, free_bytes=400, stateless_bytes=0)


def _options(kind: str, size: str | int, source: str = "options", **others: object) -> Options:
    return Options(**{kind: parse_size(size)}, **others, source_of=((kind, source),))  # type: ignore[arg-type]


def test_without_a_budget_there_is_no_limit() -> None:
    assert allowance_for(Options(), LEDGER, 10**9) == Budget("none", "default", "", 0, 300, 0, NO_LIMIT_BYTES)


def test_a_budget_counts_what_is_live_and_what_is_to_come() -> None:
    """900 less 300 live, less Adam's two moments of 100 parameter bytes."""
    budget = allowance_for(_options("budget", 900, "environment"), LEDGER, 0)
    assert budget == Budget("budget", "environment", "900 B", 900, 300, 200, 400)


@pytest.mark.parametrize(("optimizer", "reserve_bytes"), [("adam", 200), ("sgd", 0), (0, 0), (50, 50)])
def test_the_optimizer_to_come_is_as_told(optimizer: str | int, reserve_bytes: int) -> None:
    budget = allowance_for(_options("budget", 900, optimizer=optimizer), LEDGER, 0)
    assert (budget.reserve_bytes, budget.allowance_bytes) == (reserve_bytes, 600 - reserve_bytes)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", 50])
def test_optimizer_state_that_is_there_is_live_already(optimizer: str | int) -> None:
    budget = allowance_for(_options("budget", 900, optimizer=optimizer), WITH_STATE, 0)
    assert (budget.live_bytes, budget.reserve_bytes, budget.allowance_bytes) == (500, 0, 400)


def test_percent_of_the_device() -> None:
    """80 % of 1000."""
    budget = allowance_for(_options("budget", "80%"), LEDGER, 12345)
    assert (budget.asked, budget.asked_bytes, budget.allowance_bytes) == ("80%", 800, 300)


def test_auto_is_what_is_live_and_what_is_free() -> None:
    """300 + 600; of the free 600 the optimizer takes 200."""
    budget = allowance_for(_options("budget", "auto"), LEDGER, 12345)
    assert (budget.asked, budget.asked_bytes, budget.allowance_bytes) == ("auto", 900, 400)


def test_what_is_live_above_the_budget_leaves_nothing() -> None:
    budget = allowance_for(_options("budget", 400), LEDGER, 0)
    assert (budget.asked_bytes, budget.allowance_bytes) == (400, 0)


@pytest.mark.parametrize(("size", "allowance_bytes"), [(70, 70), ("50%", 40), ("100%", 80), ("auto", 600)])
def test_an_activation_budget_counts_the_step_alone(size: str | int, allowance_bytes: int) -> None:
    """Percent of the 80 bytes that the step would take, auto all that is free; nothing is taken off."""
    budget = allowance_for(_options("activation_budget", size), LEDGER, 80)
    assert (budget.kind, budget.live_bytes, budget.reserve_bytes) == ("activation_budget", 300, 0)
    assert budget.asked_bytes == budget.allowance_bytes == allowance_bytes


@pytest.mark.parametrize("kind", ["budget", "activation_budget"])
def test_more_than_the_device_has_warns(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "graphckpt"):
        warn_above_device(allowance_for(_options(kind, 1000), LEDGER, 0), LEDGER)
        assert caplog.records == []
        warn_above_device(allowance_for(_options(kind, 2048), LEDGER, 0), LEDGER)
    (warning,) = caplog.messages
    assert f"a {kind.replace('_', ' ')} of 2.00 KiB was asked for, but the device has 1000 B" in warning
