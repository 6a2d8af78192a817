"""Rows as markdown tables.

    python -m benchmarks.table benchmarks/rows/peers.jsonl

Enters: records, or files of them. Leaves: one table a measurement, a verdict a row, and below them the budgets at
which less memory did not mean more time. MB is 1e6 bytes, GB 1e9. Rows of several commits are told apart by a column;
with one commit chosen its rows alone are shown, and judged beside all that are there.
Not guaranteed: that a table fits a page; columns without a value show a dash.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.judge import (
    allowed_peak_bytes,
    baseline,
    flops,
    monotone_problems,
    moved_bytes,
    problems,
    scaled_time_us,
)
from benchmarks.markdown import markdown_table
from benchmarks.record import RowRecord, SpotRow, StepRow, read_rows
from benchmarks.ways import parse_way

NOTHING = "-"


@dataclass(frozen=True)
class Column:
    """A heading, and what stands below it for one row among all rows."""

    heading: str
    cell: Callable[[RowRecord, Sequence[RowRecord]], str]


def render(shown: Sequence[RowRecord], known: Sequence[RowRecord] = ()) -> str:
    """All tables of the rows to show, judged beside all known rows; without those, beside each other."""
    rows = known or shown
    gradient_rows = [row for row in shown if row.key.measurement == "gradients"]
    step_rows = [row for row in shown if row.key.measurement == "step"]
    parts = []
    if step_rows:
        parts.append(_table(_STEP_COLUMNS, step_rows, rows))
    if gradient_rows:
        parts.append(_table(_GRADIENT_COLUMNS, gradient_rows, rows))
    spot_rows = [row for row in shown if row.key.measurement == "spot"]
    if spot_rows:
        parts.append(_table(_SPOT_COLUMNS, spot_rows, rows))
    broken = monotone_problems(step_rows)
    if broken:
        parts.append("Not monotone:\n\n" + "\n".join(f"- {sentence}" for sentence in broken))
    return "\n\n".join(parts)


def failing(shown: Sequence[RowRecord], known: Sequence[RowRecord] = ()) -> int:
    """How many of these rows do not count, and how often their budgets are not monotone."""
    rows = known or shown
    return sum(bool(problems(row, rows)) for row in shown) + len(monotone_problems(shown))


def _table(columns: Sequence[Column], shown: Sequence[RowRecord], rows: Sequence[RowRecord]) -> str:
    lines = [[column.cell(row, rows) for column in columns] for row in shown]
    return markdown_table([column.heading for column in columns], lines)


def _of_step(form: Callable[[StepRow], str]) -> Callable[[RowRecord, Sequence[RowRecord]], str]:
    return lambda row, rows: form(row.step) if row.step is not None else NOTHING


def _budget(row: RowRecord, rows: Sequence[RowRecord]) -> str:
    allowed = allowed_peak_bytes(row.step, parse_way(row.key.way)) if row.step is not None else None
    return f"{allowed / 1e6:.1f}" if allowed is not None else NOTHING


def _predicted(row: RowRecord, rows: Sequence[RowRecord]) -> str:
    predicted = row.step.predicted_peak_bytes if row.step is not None else None
    if row.step is None or predicted is None:
        return NOTHING
    return f"{predicted / 1e6:.1f} ({100 * (predicted / row.step.peak_bytes - 1):+.1f} %)"


def _slowdown(row: RowRecord, rows: Sequence[RowRecord]) -> str:
    unbudgeted = baseline(row, rows)
    if row.step is None or unbudgeted is None or not scaled_time_us(unbudgeted):
        return NOTHING
    return f"{scaled_time_us(row.step) / scaled_time_us(unbudgeted):.3f}"


def _planning(row: RowRecord, rows: Sequence[RowRecord]) -> str:
    if row.step is None or not row.step.predictions:
        return NOTHING
    seconds = sum(graph.plan_seconds for graph in row.step.predictions)
    return f"{seconds:.1f} ({sum(graph.dry_lowerings for graph in row.step.predictions)} dry)"


def _verdict(row: RowRecord, rows: Sequence[RowRecord]) -> str:
    return "; ".join(problems(row, rows)) or "counts"


def _of_gradients(name: str) -> Callable[[RowRecord, Sequence[RowRecord]], str]:
    def cell(row: RowRecord, rows: Sequence[RowRecord]) -> str:
        value = getattr(row.gradients, name) if row.gradients is not None else None
        return f"{value:.2e}" if value is not None else NOTHING

    return cell


def _of_spot(form: Callable[[SpotRow], str]) -> Callable[[RowRecord, Sequence[RowRecord]], str]:
    return lambda row, rows: form(row.spot) if row.spot is not None else NOTHING


_CONFIG = Column("config", lambda row, rows: row.key.config)
_WAY = Column("way", lambda row, rows: row.key.way)
_COMMIT = Column("commit", lambda row, rows: row.key.short_commit)
_VERDICT = Column("verdict", _verdict)

_STEP_COLUMNS = (
    _CONFIG,
    _WAY,
    Column("peak MB", _of_step(lambda step: f"{step.peak_bytes / 1e6:.1f}")),
    Column("allowed MB", _budget),
    Column("predicted MB", _predicted),
    Column("start MB", _of_step(lambda step: f"{step.start_bytes / 1e6:.1f}")),
    Column("GFLOP", _of_step(lambda step: f"{flops(step) / 1e9:.1f}")),
    Column("GB moved", _of_step(lambda step: f"{moved_bytes(step) / 1e9:.2f}")),
    Column("scaled ms", _of_step(lambda step: f"{scaled_time_us(step) / 1e3:.3f}")),
    Column("x compile", _slowdown),
    Column("H100 ms", _of_step(lambda step: f"{(step.forward.h100_time_us + step.backward.h100_time_us) / 1e3:.3f}")),
    Column("graphs", _of_step(lambda step: f"{step.graphs} ({step.graph_breaks} breaks)")),
    Column("kernels", _of_step(lambda step: f"{step.forward.kernels} + {step.backward.kernels}")),
    Column("compile s", _of_step(lambda step: f"{step.compile_seconds:.1f}")),
    Column("planning s", _planning),
    Column("step ms", _of_step(lambda step: f"{step.step_seconds * 1e3:.0f}")),
    _COMMIT,
    _VERDICT,
)

_GRADIENT_COLUMNS = (
    _CONFIG,
    _WAY,
    Column("difference", _of_gradients("difference_ratio")),
    Column("directional error", _of_gradients("directional_error")),
    Column("without a budget", _of_gradients("reference_directional_error")),
    _COMMIT,
    _VERDICT,
)

_SPOT_COLUMNS = (
    _CONFIG,
    _WAY,
    Column("smallest MB", _of_spot(lambda spot: f"{spot.smallest_bytes / 1e6:.1f}")),
    Column("budget MB", _of_spot(lambda spot: f"{spot.budget_bytes / 1e6:.1f}")),
    Column("predicted MB", _of_spot(lambda spot: f"{spot.predicted_bytes / 1e6:.1f}")),
    Column("peak MB", _of_spot(lambda spot: f"{spot.peak_bytes / 1e6:.1f}")),
    Column("plan", _of_spot(lambda spot: spot.plan)),
    Column("difference", _of_spot(lambda spot: f"{spot.difference_ratio:.2e}")),
    _COMMIT,
    _VERDICT,
)


def main(arguments: list[str] | None = None) -> int:
    """Print the tables of the files; exits with 1 when a row does not count."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--commit", default="", help="only rows whose commit starts like this")
    chosen = parser.parse_args(arguments)
    rows = [row for path in chosen.files for row in read_rows(path)]
    shown = [row for row in rows if row.key.commit.startswith(chosen.commit)]
    print(render(shown, rows))
    return 1 if failing(shown, rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
