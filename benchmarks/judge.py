"""Which rows count, and which promises they keep.

Enters: a record and all rows it is compared with. Leaves: sentences that say what is wrong with it; none where it
counts. A peer counts only with the graphs and at least the flops of plain `torch.compile`; a row of ours must keep its
budget, report before backward first runs, and use no fallback. Rows are compared within one config.

Rows of ours are tied to their commit. A peer's row runs none of our code, so one that was measured at another commit is
as good where its `Host` is equal: the row of the same commit answers first, else the latest of another one that ran or
was found unsupported. That goes for peaks, graphs, flops and modelled time. Wall-clock seconds are never compared here;
the suite that measures them measures its peers at its own commit.

Not guaranteed: the peer rules where the rows hold no `compile` row of that config, which is then said to be missing;
that the rig built the same model at another commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from benchmarks.configs import parse_config
from benchmarks.gradients import DIRECTIONAL_BAR, RATIO_BARS
from benchmarks.prediction import STOCK
from benchmarks.record import GradientRow, Host, RowKey, RowRecord, SpotRow, Status, StepRow
from benchmarks.ways import COMPILE, Kind, Way, parse_way

# How a peer's row may have ended to stand in at another commit; errors and timeouts are tried again there.
SETTLED = (Status.OK, Status.UNSUPPORTED)


def problems(record: RowRecord, rows: Sequence[RowRecord]) -> list[str]:
    """Everything that keeps this row from counting."""
    if record.status is not Status.OK:
        return [f"{record.status}: {record.reason}"]
    if record.gradients is not None:
        return gradient_problems(record.gradients, parse_config(record.key.config).dtype)
    if record.spot is not None:
        return spot_problems(record.spot, parse_config(record.key.config).dtype)
    if record.step is None:
        return ["no figures"]
    way = parse_way(record.key.way)
    found = list(record.step.fallbacks)
    if way.kind is Kind.OURS:
        found += our_problems(record.step, way)
    if way.kind not in (Kind.COMPILE, Kind.EAGER):
        found += peer_problems(record.step, baseline(record, rows), way)
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
        found.append(_over(step.peak_bytes - allowed))
    if not step.predicted_before_backward:
        found.append("the report changed after the first backward")
    return found


def spot_problems(row: SpotRow, dtype: str) -> list[str]:
    """The budget, which was drawn from where budgets are promised, and the gradients."""
    found = _ratio_problems(row.difference_ratio, dtype)
    if row.over_bytes:
        found.append(_over(row.over_bytes))
    return found


def gradient_problems(row: GradientRow, dtype: str) -> list[str]:
    """The gradients against their bars."""
    found = _ratio_problems(row.difference_ratio, dtype)
    if row.directional_error is not None and not row.directional_error < DIRECTIONAL_BAR:
        found.append(f"directional derivative off by {row.directional_error:.2e}, wanted {DIRECTIONAL_BAR:.0e}")
    return found


def _ratio_problems(difference_ratio: float, dtype: str) -> list[str]:
    bar = RATIO_BARS.get(dtype)
    if bar is None or difference_ratio <= bar:
        return []
    return [f"gradients differ by {difference_ratio:.2e}, wanted {bar:.0e}"]


def _over(size_bytes: int) -> str:
    return f"over budget by {size_bytes / 1e6:.3f} MB"


def allowed_peak_bytes(step: StepRow, way: Way) -> int | None:
    """What the budget leaves for the step above its start, None without a budget in bytes."""
    return _allowed_bytes(way, step.start_bytes)


def has_budget(way: Way) -> bool:
    """Whether the way carries a budget in bytes; a row that was refused has one too, and no start."""
    return _allowed_bytes(way, start_bytes=0) is not None


def monotone_problems(rows: Sequence[RowRecord]) -> list[str]:
    """Less budget must never yield more peak nor less modelled time, within one config and commit.

    Inductor's own cut, which a budget that it fits leaves alone, is no choice of ours: a plan below it may be faster.
    """
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
            if scaled_time_us(less) < scaled_time_us(more) and not _is_stock(more):
                found.append(f"{where} the modelled time falls by {scaled_time_us(more) - scaled_time_us(less):.1f} us")
    return found


def _is_stock(step: StepRow) -> bool:
    return bool(step.predictions) and all(graph.plan == STOCK for graph in step.predictions)


def baseline(record: RowRecord, rows: Sequence[RowRecord]) -> StepRow | None:
    """The plain `torch.compile` row that a row is compared with."""
    measured = [row for row in rows if row.step is not None]
    found = standing(replace(record.key, way=COMPILE.text()), record.host, measured)
    return found.step if found is not None else None


def standing(key: RowKey, host: Host | None, rows: Sequence[RowRecord]) -> RowRecord | None:
    """The row that answers for this key on this host: its own, else a peer's of another commit that stands in."""
    own = [row for row in rows if row.key == key]
    if own or parse_way(key.way).kind is Kind.OURS:
        return own[-1] if own else None
    others = [
        row
        for row in rows
        if replace(row.key, commit=key.commit) == key and row.host == host and row.status in SETTLED
    ]
    return others[-1] if others else None


def flops(step: StepRow) -> int:
    """Flops of forward and backward."""
    return step.forward.flops + step.backward.flops


def moved_bytes(step: StepRow) -> int:
    """Bytes moved by forward and backward."""
    return step.forward.moved_bytes + step.backward.moved_bytes


def scaled_time_us(step: StepRow) -> float:
    """The modelled time rows are compared by."""
    return step.forward.scaled_time_us + step.backward.scaled_time_us


def _allowed_bytes(way: Way, start_bytes: int) -> int | None:
    activation_budget, budget = way.option("activation_budget"), way.option("budget")
    if isinstance(activation_budget, int):
        return activation_budget
    return budget - start_bytes if isinstance(budget, int) else None
