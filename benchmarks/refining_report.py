"""The README's part on short memory: each model's smallest plan without and with refining, rows of the rig's suite ``refining``.

Enters: a folder with `rows.jsonl`. Leaves: a table with the commits that made it, and the mean over the models that have both rows;
a row that does not count is named in its line. Without such rows, a sentence.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.judge import problems, scaled_time_us
from benchmarks.markdown import markdown_table
from benchmarks.record import RowRecord, StepRow, read_rows
from benchmarks.ways import SMALLEST, UNREFINED

ROWS = "rows.jsonl"
HEADINGS = ("model", "smallest without, MB", "modelled ms", "smallest, MB", "modelled ms", "peak", "modelled time", "verdict")


def report(folder: Path) -> str:
    """The table and what it says in a line."""
    rows = read_rows(folder / ROWS)
    if not rows:
        return "No such rows are committed yet."
    commits = sorted({row.key.short_commit for row in rows})
    return f"measured at {', '.join(commits)}:\n\n{table(rows)}\n\n{means(rows)}"


def table(rows: Sequence[RowRecord]) -> str:
    """One line a model; a ratio is of the plan with refining to that without."""
    lines = []
    for config in dict.fromkeys(row.key.config for row in rows):
        found = [_row(rows, config, way.text()) for way in (UNREFINED, SMALLEST)]
        wrong = "; ".join(problem for row in found if row is not None for problem in problems(row, rows))
        steps = [None if row is None else row.step for row in found]
        cells = [cell for step in steps for cell in _figures(step)]
        before, after = steps
        if before is None or after is None:
            lines.append([config, *cells, "-", "-", wrong or "incomplete"])
            continue
        ratios = f"{after.peak_bytes / before.peak_bytes:.3f}", f"{scaled_time_us(after) / scaled_time_us(before):.3f}"
        lines.append([config, *cells, *ratios, wrong or "counts"])
    return markdown_table(HEADINGS, lines)


def means(rows: Sequence[RowRecord]) -> str:
    """The geometric means over the models whose rows both count."""
    pairs = []
    for config in dict.fromkeys(row.key.config for row in rows):
        found = [_row(rows, config, way.text()) for way in (UNREFINED, SMALLEST)]
        if all(row is not None and row.step is not None and not problems(row, rows) for row in found):
            pairs.append([row.step for row in found if row is not None and row.step is not None])
    if not pairs:
        return "No model has both rows."
    peak = statistics.geometric_mean(after.peak_bytes / before.peak_bytes for before, after in pairs)
    time = statistics.geometric_mean(scaled_time_us(after) / scaled_time_us(before) for before, after in pairs)
    return f"In the geometric mean over {len(pairs)} models: {peak:.3f} of the peak at {time:.3f} of the modelled time."


def _row(rows: Sequence[RowRecord], config: str, way: str) -> RowRecord | None:
    return next((row for row in reversed(rows) if (row.key.config, row.key.way) == (config, way)), None)


def _figures(step: StepRow | None) -> tuple[str, str]:
    if step is None:
        return "-", "-"
    return f"{step.peak_bytes / 1e6:.1f}", f"{scaled_time_us(step) / 1e3:.3f}"
