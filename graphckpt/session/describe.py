"""From a planned graph to its record: every tensor that crosses or is recomputed, and why."""

from __future__ import annotations

from collections.abc import Sequence

from graphckpt.inductor import DryStep
from graphckpt.ir.graph import Graph, Phase, value_bytes
from graphckpt.ir.plan import Plan, recomputed_values, saved_values
from graphckpt.report.record import Budget, FrontierEntry, Record, TensorEntry
from graphckpt.rewrite.schedule import traced_name
from graphckpt.session.pipeline import Planned

_HOLDERS = 12


def describe(
    planned: Planned, graph_id: int, budget: Budget, dry_lowerings: int, lower_seconds: float, notes: Sequence[str]
) -> Record:
    """The record of one planned graph."""
    graph, choice = planned.lowered.graph, planned.choice
    plan = planned.plan
    exact = dict(choice.looked_at)
    tensors = tensor_entries(graph, plan, planned.stock)
    saved = saved_values(graph, plan)
    random = [i for i in saved if graph.ops[i].pinned == "random" or "random" in graph.ops[i].target]
    return Record(
        graph_id=graph_id,
        budget=budget,
        plan=plan.name,
        predicted_peak_bytes=planned.step.peak.peak_bytes,
        predicted_held_peak_bytes=planned.step.held_peak.peak_bytes,
        unbudgeted_peak_bytes=planned.stock_step.peak.peak_bytes,
        smallest_peak_bytes=planned.smallest_peak_bytes,
        saved_bytes=planned.step.peak.saved_bytes,
        random_saved_bytes=value_bytes(graph, random),
        recomputed_bytes=sum(entry.size_bytes for entry in tensors if entry.action == "recomputed"),
        modelled_time_us=planned.step.time_us,
        unbudgeted_time_us=planned.stock_step.time_us,
        frontier=tuple(
            FrontierEntry(ranked.plan.name, ranked.estimated_peak_bytes, exact.get(index), ranked.time_us)
            for index, ranked in enumerate(planned.frontier)
        ),
        tensors=tensors,
        holders=name_holders(graph, planned.step)[:_HOLDERS],
        dry_lowerings=dry_lowerings,
        plan_seconds=planned.plan_seconds,
        lower_seconds=lower_seconds,
        gap=_gap(planned),
        notes=tuple(notes),
    )


def _gap(planned: Planned) -> str:
    """By how much the plan's time exceeds the least possible one, both by the model; real kernels may be fused better."""
    least_us, time_us = planned.least_time_us, planned.frontier[planned.choice.index].time_us
    if least_us is None or least_us <= 0:
        return "no bound"
    if least_us > time_us * (1 + 1e-9):
        return "unknown: the bound is above the plan's own time, which is a bug; please report it"
    return f"{100 * (time_us / least_us - 1):.1f} %"


def tensor_entries(graph: Graph, plan: Plan, stock: Plan) -> tuple[TensorEntry, ...]:
    """What crosses and what is recomputed, beyond the pointwise recomputation that stock does anyway."""
    entries = []
    stock_saved = frozenset(saved_values(graph, stock))
    listed: set[int] = set()
    for index in saved_values(graph, plan):
        # Several views of one storage hold it once; a view of an input holds nothing.
        held = {s for s in graph.ops[index].storages if not graph.storages[s].external}
        if held <= listed:
            continue
        listed |= held
        reason = graph.ops[index].pinned or _why_saved(graph, index, stock_saved)
        entries.append(_entry(graph, index, "saved", reason))
    recomputed_by_stock = frozenset(recomputed_values(graph, stock))
    again = [index for index in recomputed_values(graph, plan) if index not in recomputed_by_stock]
    entries += [_entry(graph, index, "recomputed", "dropped by the plan, computed again before its use") for index in again]
    return tuple(entries)


def _why_saved(graph: Graph, index: int, stock_saved: frozenset[int]) -> str:
    if index in stock_saved:
        return "saved by Inductor's own cut"
    readers = sum(1 for op in graph.ops if index in op.inputs and op.phase is Phase.FORWARD)
    return f"enters a recomputed segment, {readers} readers in forward"


def _entry(graph: Graph, index: int, action: str, reason: str) -> TensorEntry:
    op = graph.ops[index]
    size_bytes = value_bytes(graph, [index])
    origin = op.origin
    return TensorEntry(op.name, origin.module, origin.source, origin.shape, origin.dtype, size_bytes, action, reason)


def name_holders(graph: Graph, step: DryStep) -> tuple[tuple[str, int], ...]:
    """(description, bytes) of what is alive at the peak, largest first: the traced operation behind each buffer where known."""
    by_name = {op.name: op for op in graph.ops}
    described = []
    for name, size_bytes in step.peak.holders:
        op = by_name.get(name) or by_name.get(traced_name(name))
        text = name
        if op is not None:
            shape = "x".join(map(str, op.origin.shape))
            text = " ".join(part for part in (op.origin.module, op.target, shape, op.origin.source) if part)
        described.append((text, size_bytes))
    return tuple(sorted(described, key=lambda holder: -holder[1]))
