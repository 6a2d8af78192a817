"""Looks at plans of the frontier: each is a dry lowering, which gives an exact peak and teaches the estimates of the others.

Stock's lowering tells which values get a buffer of their own where stock computes them. What a plan computes again in backward may
get one where stock's did not, for its readers stand apart there (a ``tanh`` that both a product and, behind it, a gradient read).
Each plan that is lowered shows some of these; in the other plans they are then taken to be the same.

Not guaranteed: that what is learnt holds. It is learnt of backward and charged to forward as well, and never forgotten, so an
estimate may become too large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
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
    """The looks at one graph's ``frontier``. ``stock``: its first plan, lowered already; ``candidates``: the latest look at each
    plan, by its place."""

    joint: fx.GraphModule
    num_forward_outputs: int
    lowered: Lowered
    lowerer: Lowerer
    ranker: Ranker
    frontier: Sequence[Ranked]
    stock: InitVar[Candidate]
    candidates: dict[int, Candidate] = field(init=False)
    _estimates: list[int] = field(init=False)
    _unspent: dict[int, int] = field(init=False)

    def __post_init__(self, stock: Candidate) -> None:
        self.candidates = {0: stock}
        self._estimates = [ranked.estimated_peak_bytes for ranked in self.frontier]
        self._unspent = {0: stock.step.peak.peak_bytes}

    def estimated_peak(self, index: int) -> int:
        """The peak of a plan by the model, as far as it has learnt."""
        return self._estimates[index]

    def exact_peaks(self) -> dict[int, int]:
        """The exact peaks of the plans that were lowered, by their place in the order they were."""
        return {index: candidate.step.peak.peak_bytes for index, candidate in self.candidates.items()}

    def exact_peak(self, index: int, limit_bytes: float) -> int:
        """Lower a plan dry. Fusions over a distance may take what ``limit_bytes`` leaves where they are."""
        graph, plan = self.lowered.graph, self.frontier[index].plan
        plan = replace(plan, hold=values_to_hold(graph, plan, self.ranker.buffers(plan)))
        check_plan(graph, plan)
        room_bytes = self.ranker.room_bytes(plan, limit_bytes)
        modules = split_by_plan(self.joint, self.lowered, plan, self.num_forward_outputs, room_bytes)
        self.candidates[index] = Candidate(plan, modules, self.lowerer.lower(*modules, hold_order=True))
        self._learn(self.candidates[index].step)
        peak_bytes = self.candidates[index].step.peak.peak_bytes
        if not limit_bytes:
            self._unspent[index] = peak_bytes
        return peak_bytes

    @property
    def smallest_index(self) -> int:
        """The smallest plan by the model; of several the slowest."""
        return min(range(len(self._estimates)), key=lambda index: (self._estimates[index], -index))

    def over(self, frontier: Sequence[Ranked]) -> Looks:
        """The same looks at another frontier of the graph, its first plan the same: what was seen and learnt stays."""
        other = Looks(
            self.joint, self.num_forward_outputs, self.lowered, self.lowerer, self.ranker, frontier, self.candidates[0]
        )
        place = {ranked.plan: index for index, ranked in enumerate(frontier)}
        moved = {index: place[ranked.plan] for index, ranked in enumerate(self.frontier) if ranked.plan in place}
        other.candidates |= {moved[index]: seen for index, seen in self.candidates.items() if index in moved}
        other._unspent |= {moved[index]: peak_bytes for index, peak_bytes in self._unspent.items() if index in moved}
        return other

    def adopt(self, other: Looks, peaks: Mapping[int, int]) -> None:
        """Take over from looks at the same frontier what has the peak that ``peaks`` names for a plan, and is not here."""
        for index, peak_bytes in peaks.items():
            own = self.candidates.get(index)
            if own is None or own.step.peak.peak_bytes != peak_bytes:
                self.candidates[index] = other.candidates[index]
        for index, peak_bytes in other._unspent.items():
            self._unspent[index] = min(peak_bytes, self._unspent.get(index, peak_bytes))

    @property
    def smallest_peak_bytes(self) -> int | None:
        """The smallest exact peak, if the smallest plan by the model was among those that were lowered as small as they get."""
        if self.smallest_index not in self._unspent:
            return None
        return min(*self._unspent.values(), *self.exact_peaks().values())

    def _learn(self, step: DryStep) -> None:
        ranker = self.ranker.with_buffers(copies_with_buffer(self.lowered.graph, step))
        if ranker is not self.ranker:
            self.ranker = ranker
            self._estimates = [ranker.rank(ranked.plan).estimated_peak_bytes for ranked in self.frontier]
