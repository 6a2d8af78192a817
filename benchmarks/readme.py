"""The generated parts of the README: the table of options, and the figures and extra times of the rows that are committed.

    python -m benchmarks.readme            # rewrites README.md between its markers

Enters: ``config.render_table()`` and ``benchmarks/rows/*.jsonl``. Leaves: README.md; a test fails when the two are out of step.
Not guaranteed: that the rows are of the commit at hand; each table names the commit that made it. The picture is drawn by
``benchmarks.plot``, and no test sees whether it is of the same rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks import attention_report, extra, refining_report, solver_report
from benchmarks.record import Measurement, RowRecord, read_rows
from benchmarks.summary import render_models, render_spots
from graphckpt.config import render_table

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "benchmarks" / "rows"
NO_ROWS = "No such rows are committed yet."


def main() -> int:
    """Rewrite the README."""
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text()))
    return 0


def filled(text: str) -> str:
    """``text`` with its generated parts as they should be."""
    parts = {
        "options": render_table(),
        "figures": figures(),
        "extra": extra_times(),
        "attention": attention(),
        "solver": solver(),
        "refining": refining(),
    }
    for name, content in parts.items():
        text = _between(text, name, content)
    return text


def figures(folder: Path = ROWS) -> str:
    """For each committed file of rows a table of models and what the random ones showed, with the commits and the machine."""
    return _each_file(folder, _figures)


def extra_times(folder: Path = ROWS) -> str:
    """The tables of extra times for each file of rows that has ours at a peer's peak."""
    return _each_file(folder, lambda name, rows: f"`{name}`:\n\n{extra.render(rows)}" if extra.has_matches(rows) else "")


def attention(folder: Path = ROWS / "attention") -> str:
    """Which models' attentions are fused, and what that is worth."""
    return attention_report.report(folder)


def solver(folder: Path = ROWS / "solver") -> str:
    """The rematerialization solver beside published figures."""
    return solver_report.report(folder)


def refining(folder: Path = ROWS / "refining") -> str:
    """The smallest plans without and with refining."""
    return refining_report.report(folder)


def _figures(name: str, rows: list[RowRecord]) -> str:
    if not rows:
        return ""
    has_models = any(row.key.measurement is not Measurement.SPOT for row in rows)
    parts = [render_models(rows) if has_models else "", render_spots(rows)]
    return f"`{name}`, {_made_by(rows)}:\n\n" + "\n\n".join(filter(None, parts))


def _each_file(folder: Path, form: Callable[[str, list[RowRecord]], str]) -> str:
    parts = [form(path.stem, read_rows(path)) for path in sorted(folder.glob("*.jsonl"))]
    return "\n\n".join(filter(None, parts)) or NO_ROWS


def _made_by(rows: list[RowRecord]) -> str:
    commits = sorted({row.key.short_commit for row in rows})
    hosts = sorted({f"torch {row.host.torch}, {row.host.device}" for row in rows if row.host is not None})
    return f"measured at {', '.join(commits)} ({'; '.join(hosts)})"


def _between(text: str, name: str, content: str) -> str:
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"README.md has no markers <!-- {name} --> and <!-- /{name} --> to write between")
    return pattern.sub(lambda match: f"{match.group(1)}{content}\n{match.group(2)}", text)


if __name__ == "__main__":
    raise SystemExit(main())
