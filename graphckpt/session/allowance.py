"""What a budget leaves for the activations of one graph.

``budget`` counts every tensor on the device at the worst moment: what is live now, optimizer state still to come, and the step.
``activation_budget`` counts the step alone. Without either there is no limit.
"""

from __future__ import annotations

import logging

from graphckpt.config import Options
from graphckpt.report.record import Budget
from graphckpt.session.ledger import Ledger
from graphckpt.units import Size, format_bytes

NO_LIMIT_BYTES = 2**62
_logger = logging.getLogger("graphckpt")


def allowance_for(options: Options, ledger: Ledger, unbudgeted_peak_bytes: int) -> Budget:
    """The limit on one graph whose step needs ``unbudgeted_peak_bytes`` if nothing is recomputed."""
    if options.budget is not None:
        reserve_bytes = ledger.optimizer_reserve_bytes(options.optimizer)
        fixed_bytes = ledger.live_bytes + reserve_bytes
        asked_bytes = _whole(options.budget, ledger.total_bytes, ledger.live_bytes + ledger.free_bytes)
        allowance_bytes = max(0, asked_bytes - fixed_bytes)
        source, asked = options.source("budget"), str(options.budget)
        return Budget("budget", source, asked, asked_bytes, ledger.live_bytes, reserve_bytes, allowance_bytes)
    if options.activation_budget is not None:
        asked_bytes = _whole(options.activation_budget, unbudgeted_peak_bytes, ledger.free_bytes)
        source, asked = options.source("activation_budget"), str(options.activation_budget)
        return Budget("activation_budget", source, asked, asked_bytes, ledger.live_bytes, 0, asked_bytes)
    return Budget("none", "default", "", 0, ledger.live_bytes, 0, NO_LIMIT_BYTES)


def warn_above_device(budget: Budget, ledger: Ledger) -> None:
    """Say that a budget above what the device has protects from nothing."""
    if budget.asked_bytes > ledger.total_bytes:
        _logger.warning(
            "graphckpt: a %s of %s was asked for, but the device has %s: the budget cannot protect from running out of memory",
            budget.kind.replace("_", " "),
            format_bytes(budget.asked_bytes),
            format_bytes(ledger.total_bytes),
        )


def _whole(size: Size, percent_of_bytes: int, auto_bytes: int) -> int:
    return auto_bytes if size.kind == "auto" else size.of(percent_of_bytes)
