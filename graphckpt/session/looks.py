"""Looks at plans of the frontier: each is a dry lowering, which gives an exact peak and teaches the estimates of the others.

Stock's lowering tells which values get a buffer of their own where stock computes them. What a plan computes again in backward may
get one where stock's did not, for its readers stand apart there (a ``tanh`` that both a product and, behind it, a gradient read).
The first plan that is lowered shows which these are; in the other plans they are then taken to be the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from torch import fx

from graphckpt.compat import aot
from graphckpt.cost.roofline import DeviceSpec
from graphckpt.inductor import DryStep
from graphckpt.ir.check import check_plan
from graphckpt.ir.plan import Plan
from graphckpt.rewrite.schedule import split_by_plan
from graphckpt.session.buffers import copies_with_buffer
from graphckpt.solve.frontier import Ranked, Ranker
from graphckpt.solve.order import values_to_hold
from graphckpt.trace.lower import Lowered


class Lowerer(Protocol):
    """What tells the exact peak of a pair of modules: Inductor's dry lowering, or node-by-node execution."""

    runs: int
    seconds: float

    @property
    def spec(self) -> DeviceSpec:
        """The device that modelled times are for."""

    def lower(self, forward: fx.GraphModule, backward: fx.GraphModule, *, hold_order: bool) -> DryStep:
        """The step that executes both modules, in their order if it is to be held."""


class Candidate(NamedTuple):
    """A plan as it was lowered: with what it holds, its modules and its step."""

    plan: Plan
    modules: aot.Partition
    step: DryStep


@dataclass(slots=True)
class Looks:
    """The looks at one graph's ``frontier``. ``limit_bytes``: what may be spent up to, 0 without a budget. ``candidates``: the
    latest look at each plan, by its place."""

    joint: fx.GraphModule
    num_forward_outputs: int
    lowered: Lowered
    lowerer: Lowerer
    ranker: Ranker
    frontier: Sequence[Ranked]
    limit_bytes: float
    candidates: dict[int, Candidate] = field(default_factory=dict)
    _estimates: list[int] = field(init=False)
    _unspent: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._estimates = [ranked.estimated_peak_bytes for ranked in self.frontier]

    def estimated_peak(self, index: int) -> int:
        """The peak of a plan by the model, as far as it has learnt."""
        return self._estimates[index]

    def exact_peak(self, index: int, may_spend: bool) -> int:
        """Lower a plan dry. ``may_spend``: fusions over a distance may take what the limit leaves where they are."""
        graph, plan = self.lowered.graph, self.frontier[index].plan
        plan = replace(plan, hold=values_to_hold(graph, plan))
        check_plan(graph, plan)
        room_bytes = self.ranker.room_bytes(plan, self.limit_bytes if may_spend else 0)
        modules = split_by_plan(self.joint, self.lowered, plan, self.num_forward_outputs, room_bytes)
        self.candidates[index] = Candidate(plan, modules, self.lowerer.lower(*modules, hold_order=True))
        self._learn(self.candidates[index].step)
        peak_bytes = self.candidates[index].step.peak.peak_bytes
        if not may_spend:
            self._unspent[index] = peak_bytes
        return peak_bytes

    @property
    def smallest_peak_bytes(self) -> int | None:
        """The smallest exact peak, if the smallest plan by the model was among those that were lowered as small as they get."""
        smallest = min(range(len(self._estimates)), key=lambda index: (self._estimates[index], -index))
        return min(self._unspent.values()) if smallest in self._unspent else None

    def _learn(self, step: DryStep) -> None:
        ranker = self.ranker.with_buffers(copies_with_buffer(self.lowered.graph, step))
        if ranker is not self.ranker:
            self.ranker = ranker
            self._estimates = [ranker.rank(ranked.plan).estimated_peak_bytes for ranked in self.frontier]
