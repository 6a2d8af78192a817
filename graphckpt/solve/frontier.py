"""The frontier of a graph: its plans from fastest to smallest, and the choice a budget makes among them.

The frontier is deterministic: candidates in a fixed order, ranked by modelled time, kept only if they need noticeably less
memory than every faster one, or least of all, or less and are a policy's. The last may be as small as the one before it.

The model's peak is an estimate; the exact one comes from a dry lowering, which is slow. So a choice lowers few plans: it starts
at the first whose corrected estimate fits. The first two looks may spend what the budget leaves. What is over then is looked at
once more, allowed that much less; if its estimate is too close to the budget for that, the next plan is. Later looks spend
nothing, and what is over is left, with caution. Where the first look shows estimates to be too large, a faster plan is looked at,
once. Each look may teach the estimates.

Not guaranteed: that no faster plan of the frontier fits too, nor, where estimates fail twice, how many plans are lowered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from graphckpt.ir.graph import Graph, OpKind, Phase, Storage
from graphckpt.ir.peak import Timeline
from graphckpt.ir.plan import Plan
from graphckpt.solve.bound import TimeBound, bound_times, extra_us, saved_owners
from graphckpt.solve.engine import Engine
from graphckpt.solve.remat.joint import JointProblem, joint_problem
from graphckpt.solve.segments import base_of

# So many of the smallest plans are lowered, as small as they get, before giving up.
_LAST_RESORTS = 2
# Of stock's peak: a plan of the planner's that gains less than that over a faster one is the same plan, for more time.
_LEAST_GAIN = 1 / 512
# So many looks may spend what the budget leaves before spending is given up.
_SPENDING_LOOKS = 2
# Estimates that were too small twice are trusted that much less the next time; a plan this close to the budget is not tried again.
_CAUTION = 1.02


@dataclass(frozen=True, slots=True)
class Ranked:
    """A plan with the model's figures: peak of a step and time of a step."""

    plan: Plan
    estimated_peak_bytes: int
    time_us: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen: its place in the frontier, its exact peak, whether that fits, and the exact peak of each plan that was
    lowered, as it was lowered last."""

    index: int
    peak_bytes: int
    fits: bool
    looked_at: tuple[tuple[int, int], ...]


class Lookable(Protocol):
    """What tells peaks of plans by their place in the frontier."""

    def estimated_peak(self, index: int) -> int:
        """By the model. Later looks may change it."""

    def exact_peak(self, index: int, limit_bytes: float) -> int:
        """As Inductor will have it; slow. ``limit_bytes``: what the plan may use up to; 0: it is to be as small as it gets."""


class Ranker:
    """Gives plans of one graph the model's figures. Times are by operation: ``again_us`` of one more computation, ``write_us`` of
    writing a value that stock does not write. ``laid_out``: bytes of the inputs that forward lays out anew for itself and backward,
    by operation; they are charged to backward alone."""

    def __init__(
        self,
        graph: Graph,
        stock: Plan,
        stock_time_us: float,
        materialised: Sequence[bool],
        again_us: Sequence[float],
        write_us: Sequence[float],
        laid_out: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self._graph, self._stock, self._stock_time_us = graph, stock, stock_time_us
        self._base = base_of(graph)
        self._engine = Engine(_made_for_backward(graph, laid_out))
        self._materialised = tuple(materialised)
        self.again_us = again_us
        self.write_us = write_us
        self._fixed_us = stock_time_us - self._extra_us(stock, self._saved(stock))

    def rank(self, plan: Plan) -> Ranked:
        """The peak and the time of a step by ``plan``."""
        saved = self._saved(plan)
        return Ranked(plan, self._timeline(plan).peak_bytes, self._fixed_us + self._extra_us(plan, saved))

    def room_bytes(self, plan: Plan, limit_bytes: float) -> list[int]:
        """What ``limit_bytes`` leaves at each step of ``plan``, forward's and then backward's; 0 where it is exceeded."""
        return [max(0, int(limit_bytes - live)) for live in self._timeline(plan).live_bytes]

    def joint_problem(self, plan: Plan, returned: Sequence[int]) -> JointProblem:
        """The step as a rematerialization problem of kernels: what has a buffer in ``plan`` has one whatever the schedule.
        ``returned``: what forward returns, of which this graph may have only what stays."""
        real = self.buffers(plan)
        return joint_problem(self._graph, self.again_us, plan=plan, is_real=real, returned=returned, kernels=True)

    def buffers(self, plan: Plan) -> list[bool]:
        """Which operations have a buffer in ``plan``: what is saved has, whatever stock does."""
        saved = self._saved(plan)
        return [is_real or index in saved for index, is_real in enumerate(self._materialised)]

    def with_buffers(self, ops: Iterable[int]) -> Ranker:
        """The same, but these operations have a buffer; itself where they do already."""
        more = [index for index in ops if not self._materialised[index]]
        if not more:
            return self
        flags = list(self._materialised)
        for index in more:
            flags[index] = True
        other = copy(self)
        other._materialised = tuple(flags)
        return other

    def time_bound(self) -> TimeBound:
        """What no plan of this graph can take less than, by its peak."""
        return bound_times(
            self._graph, self._stock, self._stock_time_us, self._materialised, self.again_us, self.write_us
        )

    def _timeline(self, plan: Plan) -> Timeline:
        return self._engine.timeline(plan, self.buffers(plan))

    def _extra_us(self, plan: Plan, saved: frozenset[int]) -> float:
        return extra_us(self._graph, plan, saved, self.again_us, self.write_us)

    def _saved(self, plan: Plan) -> frozenset[int]:
        return saved_owners(self._graph, self._base, plan)


def _made_for_backward(graph: Graph, laid_out: Mapping[int, int]) -> Graph:
    """``graph`` with these inputs, and what looks at them, there when backward starts, as tangents are. Only for timelines: what
    forward computes from them is no legal graph's."""
    ops, storages = list(graph.ops), list(graph.storages)
    base = base_of(graph)
    for source, size_bytes in laid_out.items():
        for index in (i for i in range(len(ops)) if base[i] == source):
            ops[index] = replace(ops[index], storages=(len(storages),))
        ops[source] = replace(ops[source], kind=OpKind.TANGENT, phase=Phase.BACKWARD)
        storages.append(Storage(size_bytes, external=False, shared=True))
    return replace(graph, ops=tuple(ops), storages=tuple(storages))


def pareto(
    policies: Sequence[Ranked], others: Sequence[Ranked] = (), admits: Callable[[Plan], bool] = lambda plan: True
) -> tuple[Ranked, ...]:
    """Stock's plan, which is the first, then from fastest to smallest what needs less memory than every faster one, and last, where
    the model finds several plans as small as it gets, the one of them that computes most again.

    A plan of ``others`` is to need noticeably less, if it is not the smallest of all; one of ``policies``, however little: at its
    own peak nothing that is chosen is slower. ``admits``: whether a plan is legal; asked of those alone that would be kept.
    """
    stock = policies[0]
    frontier = [stock]
    others_least = stock.estimated_peak_bytes * _LEAST_GAIN
    slower = [(entry, 0.0) for entry in policies[1:] if entry.time_us >= stock.time_us]
    slower += [(entry, others_least) for entry in others if entry.time_us >= stock.time_us]
    for entry, least_bytes in sorted(slower, key=lambda pair: (pair[0].time_us, pair[0].estimated_peak_bytes)):
        gain_bytes = frontier[-1].estimated_peak_bytes - entry.estimated_peak_bytes
        if gain_bytes > least_bytes and admits(entry.plan):
            frontier.append(entry)
    for entry, _ in sorted(slower, key=lambda pair: (pair[0].estimated_peak_bytes, pair[0].time_us)):
        if entry.estimated_peak_bytes >= frontier[-1].estimated_peak_bytes:
            break
        if admits(entry.plan):
            # Policies kept for a little may be slower than it.
            while len(frontier) > 1 and frontier[-1].time_us >= entry.time_us:
                frontier.pop()
            frontier.append(entry)
            break
    # Estimates that are equal cannot tell which plan is the smallest: the slowest of them saves the least.
    smallest = frontier[-1]
    tied = [entry for entry, _ in slower if entry.estimated_peak_bytes == smallest.estimated_peak_bytes]
    for entry in sorted(tied, key=lambda entry: -entry.time_us):
        if smallest is not stock and entry.time_us > smallest.time_us and admits(entry.plan):
            frontier.append(entry)
            break
    return tuple(frontier)


def choose(
    plan_count: int, allowance_bytes: int, looks: Lookable, known: Mapping[int, int], afresh: Lookable | None = None
) -> Choice:
    """The fastest plan of the frontier found to fit ``allowance_bytes``.

    ``known``: exact peaks that are known already, as small as they get: that of plan 0 and maybe others. If nothing fits, the
    smallest plan that was looked at comes back with ``fits=False``. ``afresh``: looks that those here teach nothing. They find
    before a refusal what they would for a budget that nothing fits, so that whatever smallest peak that was told is found again.
    """
    looked_at = dict(known)
    stock_peak_bytes = known[0]
    if stock_peak_bytes <= allowance_bytes:
        return _found(0, looked_at)
    index, spending_looks, caution, has_looked = 1, 0, 1.0, False
    # What estimates are too small by as a look that spent nothing tells, 0 while only stock tells; and what was spent too much.
    error, overspent = 0.0, 1.0
    spent: set[int] = set()
    while True:
        correction = (error or first_correction(looks, stock_peak_bytes)) * overspent
        index = _next_fitting(looks, range(index, plan_count), allowance_bytes, caution * correction, known)
        if index == plan_count:
            choice = last_resort(plan_count, allowance_bytes, looks, looked_at, spent)
            if choice.fits or afresh is None or not has_looked:
                return choice
            return _smaller(choice, last_resort(plan_count, allowance_bytes, afresh, dict(known)))
        has_looked = True
        may_spend = spending_looks < _SPENDING_LOOKS
        peak_bytes = looks.exact_peak(index, allowance_bytes / correction if may_spend else 0)
        # As large as before, with less to spend: it spends nothing.
        spends = may_spend and looked_at.get(index) != peak_bytes
        looked_at[index] = peak_bytes
        if peak_bytes <= allowance_bytes:
            return _found(index, looked_at) if spending_looks else _faster(index, allowance_bytes, correction, looks, looked_at)
        spending_looks += may_spend
        caution = _CAUTION if spending_looks == _SPENDING_LOOKS else 1.0
        estimate_bytes = looks.estimated_peak(index)
        if not spends:
            spent.discard(index)
            error, overspent = max(1.0, peak_bytes / max(1, estimate_bytes)), 1.0
            index += 1
            continue
        spent.add(index)
        # What the estimate, as the look has taught it, does not explain was spent: so much less of it, here or further on.
        own_bytes = estimate_bytes * first_correction(looks, stock_peak_bytes) * overspent
        excess = peak_bytes / min(peak_bytes, max(1, allowance_bytes, own_bytes))
        overspent *= excess
        # A plan that has little to spend is over by itself.
        if own_bytes * excess * _CAUTION > allowance_bytes:
            index += 1


def first_correction(looks: Lookable, stock_peak_bytes: int) -> float:
    """What estimates are to be multiplied by, as far as stock's tells: its order is Inductor's own, so where stock needs less than
    the model thinks, our plans need not."""
    return max(1.0, stock_peak_bytes / max(1, looks.estimated_peak(0)))


def _faster(index: int, allowance_bytes: int, correction: float, looks: Lookable, looked_at: dict[int, int]) -> Choice:
    """Plan ``index``, or a faster one that fits too: worth a second look where the first one showed estimates to be too large."""
    ratio = looked_at[index] / max(1, looks.estimated_peak(index))
    faster = _next_fitting(looks, range(1, index), allowance_bytes, ratio, looked_at)
    if faster < index:
        looked_at[faster] = looks.exact_peak(faster, allowance_bytes / correction)
        if looked_at[faster] <= allowance_bytes:
            return _found(faster, looked_at)
    return _found(index, looked_at)


def _found(index: int, looked_at: dict[int, int]) -> Choice:
    return Choice(index, looked_at[index], True, tuple(looked_at.items()))


def last_resort(
    plan_count: int, allowance_bytes: int, looks: Lookable, looked_at: dict[int, int], spent: Collection[int] = ()
) -> Choice:
    """The first of the smallest plans to fit, or the smallest of all looks: estimates this close cannot tell which one it is.

    ``looked_at``: peaks known already, of which those of ``spent`` may be larger than they need to be.
    """
    known = set(looked_at) - set(spent)
    for _ in range(_LAST_RESORTS):
        smallest = sorted(range(1, plan_count), key=looks.estimated_peak)[:_LAST_RESORTS]
        left = [index for index in smallest if index not in known]
        if not left:
            break
        known.add(left[0])
        looked_at[left[0]] = looks.exact_peak(left[0], 0)
        if looked_at[left[0]] <= allowance_bytes:
            return _found(left[0], looked_at)
    smallest_seen = min(looked_at, key=lambda i: (looked_at[i], i))
    peak_bytes = looked_at[smallest_seen]
    return Choice(smallest_seen, peak_bytes, peak_bytes <= allowance_bytes, tuple(looked_at.items()))


def _smaller(one: Choice, other: Choice) -> Choice:
    """The choice of the smaller peak, with the looks of both: of two at one plan that of the smaller peak."""
    smaller, seen = min(one, other, key=lambda choice: choice.peak_bytes), dict(one.looked_at)
    for index, peak_bytes in other.looked_at:
        seen[index] = min(peak_bytes, seen.get(index, peak_bytes))
    return replace(smaller, looked_at=tuple(seen.items()))


def _next_fitting(
    looks: Lookable, indices: range, allowance_bytes: int, correction: float, known: Mapping[int, int]
) -> int:
    """The first that should fit and is not known not to."""
    for index in indices:
        if looks.estimated_peak(index) * correction <= allowance_bytes and known.get(index, 0) <= allowance_bytes:
            return index
    return indices.stop
