"""How long the planner looks for plans of one graph.

Not guaranteed: that planning takes no longer; what the first plan needs (the hulls of prices) and the plan being made are finished.
With a limit that is reached, what is found depends on the machine and its load.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from graphckpt.ir.plan import Plan


@dataclass(slots=True)
class Patience:
    """Ends ``seconds`` after it was made, never if that is None. ``is_over``: whether plans were left out for it."""

    seconds: float | None = None
    clock: Callable[[], float] = time.perf_counter
    is_over: bool = False
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    def within(self, plans: Iterator[Plan]) -> Iterator[Plan]:
        """The plans that come in time; at least the first."""
        for count, plan in enumerate(plans):
            if count and self.seconds is not None and self.clock() - self._started > self.seconds:
                self.is_over = True
                return
            yield plan
