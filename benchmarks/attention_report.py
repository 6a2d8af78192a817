"""The README's part on attention: which models are fused, and what that is worth in memory and modelled time.

Enters: a folder with `coverage.jsonl` (rows of `benchmarks.coverage`), `interpreted.jsonl` (the same by Triton's kernels in its
interpreter) and `memory.jsonl` (rows of the rig's suite ``attention``). Leaves: two tables, and what the interpreter showed, with
the commits that made them; of a file that is not there, none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.coverage import Coverage, render
from benchmarks.judge import problems, scaled_time_us
from benchmarks.markdown import markdown_table
from benchmarks.record import SHORT_COMMIT_LENGTH, RowRecord, read_rows
from benchmarks.ways import COMPILE

COVERAGE, INTERPRETED, MEMORY = "coverage.jsonl", "interpreted.jsonl", "memory.jsonl"


def report(folder: Path) -> str:
    """All of it."""
    covered, measured = read_coverage(folder / COVERAGE), read_rows(folder / MEMORY)
    parts = []
    if covered:
        parts.append(f"`coverage`, measured at {_commits(covered)}:\n\n{render(covered)}")
    interpreted = read_coverage(folder / INTERPRETED)
    if interpreted:
        parts.append(interpreted_line(interpreted))
    if measured:
        commits = sorted({row.key.short_commit for row in measured})
        parts.append(f"`memory` ({measured[0].key.config}), measured at {', '.join(commits)}:\n\n{memory_table(measured)}")
    return "\n\n".join(parts) or "No such rows are committed yet."


def interpreted_line(rows: Sequence[Coverage]) -> str:
    """What the kernels did in place of the models' attentions: how many rows, how exact, and which are not as they are to be."""
    models, dtypes = {row.model for row in rows}, ", ".join(sorted({row.dtype for row in rows}))
    worst = max((row for row in rows if row.ratio is not None), key=lambda row: row.ratio or 0.0)
    wrong = sorted({row.model for row in rows if not row.is_covered})
    return (
        f"By Triton's kernels, in its interpreter (`TRITON_INTERPRET=1 python -m benchmarks.coverage --implementation triton`, "
        f"measured at {_commits(rows)}): {len(models)} models, {len(rows)} rows, {dtypes}; gradients err at most {worst.ratio:.2f} "
        f"times as much as eager's ({worst.model}); not fused or less exact than twice eager: {', '.join(wrong) or 'none'}."
    )


def _commits(rows: Sequence[Coverage]) -> str:
    return ", ".join(sorted({row.commit[:SHORT_COMMIT_LENGTH] for row in rows}))


def read_coverage(path: Path) -> list[Coverage]:
    """The rows of a file; none where it is not there."""
    lines = path.read_text().splitlines() if path.is_file() else []
    found = [json.loads(line) for line in lines]
    return [Coverage(**{**row, "reasons": tuple(row["reasons"])}) for row in found]


def memory_table(rows: Sequence[RowRecord]) -> str:
    """One line a way: its peak and modelled time, alone and over torch.compile's in these rows."""
    stock = next(row.step for row in rows if row.key.way == COMPILE.text() and row.step is not None)
    lines = []
    for row in rows:
        wrong = "; ".join(problems(row, rows))
        if row.step is None:
            lines.append([row.key.way, "-", "-", "-", "-", wrong])
            continue
        peak, time = row.step.peak_bytes, scaled_time_us(row.step)
        shares = f"{peak / stock.peak_bytes:.3f}", f"{time / scaled_time_us(stock):.3f}"
        lines.append([row.key.way, f"{peak / 1e6:.1f}", shares[0], f"{time / 1e3:.3f}", shares[1], wrong or "counts"])
    return markdown_table(["way", "peak MB", "of torch.compile's", "modelled ms", "of torch.compile's", "verdict"], lines)
