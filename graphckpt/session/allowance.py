"""What a budget leaves for the activations of one graph.

``budget`` counts every tensor on the device at the worst moment: what is live now, optimizer state still to come, and the step.
``activation_budget`` counts the step alone. Without either there is no limit.

A percentage of ``activation_budget`` is of the step, not of each of its graphs: of the largest unbudgeted peak among this graph and
those compiled before it for the same call of torch.compile. A graph that is small against the largest is not refused for its share.

Graphs come in the order of the program, and a small one may come first. While more of them may follow, because the graph ends at a
graph break or the frame around it runs eagerly, a graph that does not fit its own share is planned at its smallest peak, with a
warning, and stays undecided. The last graph of the frame decides: `BudgetInfeasible` names a graph that does not fit the share of
the largest either. Not guaranteed: an undecided graph that no other graph follows is warned of, not refused.
"""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass, field

from graphckpt.config import Options
from graphckpt.report.record import Budget, Record
from graphckpt.session.ledger import Ledger
from graphckpt.units import Size, format_bytes

NO_LIMIT_BYTES = 2**62
_logger = logging.getLogger("graphckpt")


@dataclass(slots=True)
class Step:
    """The graphs of one torch.compile call so far. ``undecided``: records of those that may be small against one that follows.

    ``in_pieces``: a frame of it runs eagerly, so that no graph is known to be the last.
    """

    largest_bytes: int = 0
    in_pieces: bool = False
    undecided: list[Record] = field(default_factory=list)

    def decide(self, share: Size) -> tuple[Record, ...]:
        """The undecided graphs that do not fit ``share`` of the largest graph; none is undecided afterwards."""
        refused = [record for record in self.undecided if record.predicted_peak_bytes > share.of(self.largest_bytes)]
        self.undecided.clear()
        return tuple(refused)


@dataclass(slots=True)
class Steps:
    """The step of each torch.compile call, for as long as the call's own object lives."""

    known: dict[int, Step] = field(default_factory=dict)

    def of(self, call: object | None) -> Step:
        """The step of the graphs that ``call`` compiles; one of its own where nobody knows the call."""
        if call is None:
            return Step()
        key = id(call)
        if key not in self.known:
            self.known[key] = Step()
            weakref.finalize(call, self.known.pop, key, None)
        return self.known[key]


def is_share(options: Options) -> bool:
    """Whether the budget is a percentage of the step."""
    return options.budget is None and options.activation_budget is not None and options.activation_budget.kind == "percent"


def allowance_for(options: Options, ledger: Ledger, unbudgeted_peak_bytes: int) -> Budget:
    """The limit on one graph of a step whose largest graph needs ``unbudgeted_peak_bytes`` if nothing is recomputed."""
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
