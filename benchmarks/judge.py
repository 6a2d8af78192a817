"""Which rows count, and which promises they keep.

Enters: a record and all rows it is compared with. Leaves: sentences that say what is wrong with it; none where it
counts. A peer counts only with the graphs and at least the flops of plain `torch.compile`; a row of ours must keep its
budget, report before backward first runs, and use no fallback. Rows are compared within one config and one commit.
Not guaranteed: the peer rules where the rows hold no `compile` row of that config; it is then said to be missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from benchmarks.configs import parse_config
from benchmarks.gradients import DIRECTIONAL_BAR, RATIO_BARS
from benchmarks.record import GradientRow, RowKey, RowRecord, Status, StepRow
from benchmarks.ways import Kind, Way, parse_way


def problems(record: RowRecord, rows: Sequence[RowRecord]) -> list[str]:
    """Everything that keeps this row from counting."""
    if record.status is not Status.OK:
        return [f"{record.status}: {record.reason}"]
    if record.gradients is not None:
        return gradient_problems(record.gradients, parse_config(record.key.config).dtype)
    if record.step is None:
        return ["no figures"]
    way = parse_way(record.key.way)
    found = list(record.step.fallbacks)
    if way.kind is Kind.OURS:
        found += our_problems(record.step, way)
    if way.kind not in (Kind.COMPILE, Kind.EAGER):
        found += peer_problems(record.step, baseline(record.key, rows), way)
    return found


def peer_problems(step: StepRow, unbudgeted: StepRow | None, way: Way) -> list[str]:
    """Graphs and flops against plain `torch.compile`; ours may spend fewer flops, for it replaces attention."""
    if unbudgeted is None:
        return [] if way.kind is Kind.OURS else ["no compile row of this config to compare with"]
    found = []
    if step.graphs != unbudgeted.graphs:
        found.append(f"{step.graphs} graphs where torch.compile has {unbudgeted.graphs}")
    if way.kind is not Kind.OURS and flops(step) < flops(unbudgeted):
        missing = (flops(unbudgeted) - flops(step)) / 1e9
        found.append(f"{missing:.1f} GFLOP fewer than torch.compile: part of it ran outside the compiled graphs")
    return found


def our_problems(step: StepRow, way: Way) -> list[str]:
    """The promises of our backend that one row can show."""
    found = []
    allowed = allowed_peak_bytes(step, way)
    if allowed is not None and step.peak_bytes > allowed:
        found.append(f"over budget by {(step.peak_bytes - allowed) / 1e6:.3f} MB")
    if not step.predicted_before_backward:
        found.append("the report changed after the first backward")
    return found


def gradient_problems(row: GradientRow, dtype: str) -> list[str]:
    """The gradients against their bars."""
    found = []
    bar = RATIO_BARS.get(dtype)
    if bar is not None and not row.difference_ratio <= bar:
        found.append(f"gradients differ by {row.difference_ratio:.2e}, wanted {bar:.0e}")
    if row.directional_error is not None and not row.directional_error < DIRECTIONAL_BAR:
        found.append(f"directional derivative off by {row.directional_error:.2e}, wanted {DIRECTIONAL_BAR:.0e}")
    return found


def allowed_peak_bytes(step: StepRow, way: Way) -> int | None:
    """What the budget leaves for the step above its start, None without a budget in bytes."""
    activation_budget, budget = way.option("activation_budget"), way.option("budget")
    if isinstance(activation_budget, int):
        return activation_budget
    return budget - step.start_bytes if isinstance(budget, int) else None


def monotone_problems(rows: Sequence[RowRecord]) -> list[str]:
    """Less budget must never yield more peak nor less modelled time, within one config and commit."""
    groups: dict[tuple[str, str], list[tuple[int, StepRow]]] = {}
    for row in rows:
        allowed = allowed_peak_bytes(row.step, parse_way(row.key.way)) if row.step is not None else None
        if row.step is not None and allowed is not None:
            groups.setdefault((row.key.config, row.key.commit), []).append((allowed, row.step))
    found = []
    for (config, _), group in groups.items():
        ordered = sorted(group, key=lambda pair: pair[0])
        for (low, less), (high, more) in pairwise(ordered):
            where = f"{config}: from {high / 1e6:.1f} down to {low / 1e6:.1f} MB"
            if less.peak_bytes > more.peak_bytes:
                found.append(f"{where} the peak rises by {(less.peak_bytes - more.peak_bytes) / 1e6:.3f} MB")
            if scaled_time_us(less) < scaled_time_us(more):
                found.append(f"{where} the modelled time falls by {scaled_time_us(more) - scaled_time_us(less):.1f} us")
    return found


def baseline(key: RowKey, rows: Sequence[RowRecord]) -> StepRow | None:
    """The plain `torch.compile` row of the same config and commit."""
    wanted = RowKey(key.measurement, key.config, str(Kind.COMPILE), key.commit)
    found = [row.step for row in rows if row.key == wanted and row.step is not None]
    return found[-1] if found else None


def flops(step: StepRow) -> int:
    """Flops of forward and backward."""
    return step.forward.flops + step.backward.flops


def moved_bytes(step: StepRow) -> int:
    """Bytes moved by forward and backward."""
    return step.forward.moved_bytes + step.backward.moved_bytes


def scaled_time_us(step: StepRow) -> float:
    """The modelled time rows are compared by."""
    return step.forward.scaled_time_us + step.backward.scaled_time_us
