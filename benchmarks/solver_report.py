"""The README's part on the solver: its rows beside the published ones, and what became of the others.

Enters: a folder with rows of `benchmarks.solver`. Leaves: one table and one line a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.solver import SolverRow, made_by, read_solver_rows, render, verdict

_WORDS = {
    "optimal": "proven optimal",
    "infeasible": "proven that no plan fits",
    "feasible": "planned, with a bound",
    "no_plan": "neither planned nor excluded",
}


def report(folder: Path) -> str:
    """All files of the folder."""
    parts = []
    for path in sorted(folder.glob("*.jsonl")):
        rows = read_solver_rows(path)
        compared = [row for row in rows if verdict(row) != "-"]
        parts.append(f"`{path.stem}`, {rows[0].limit_seconds:g} s a row, at {made_by(rows)}: {counted(rows)}.")
        if compared:
            parts.append(render(compared))
    return "\n\n".join(parts) or "No such rows are committed yet."


def counted(rows: Sequence[SolverRow]) -> str:
    """How many rows ended how, and what is left open where a plan is not proven optimal."""
    statuses = Counter(row.status for row in rows)
    words = ", ".join(f"{statuses[status]} {word}" for status, word in _WORDS.items() if statuses[status])
    gaps = [
        row.overhead_percent - row.bound_percent
        for row in rows
        if row.status == "feasible" and row.overhead_percent is not None and row.bound_percent is not None
    ]
    left = f"; between plan and bound at most {max(gaps):.2f} percentage points" if gaps else ""
    return f"of {len(rows)} rows {words}{left}"
