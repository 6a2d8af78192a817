"""The generated parts of the README: the table of options, and the figures of the rows that are committed.

    python -m benchmarks.readme            # rewrites README.md between its markers

Enters: ``config.render_table()`` and ``benchmarks/rows/*.jsonl``. Leaves: README.md; a test fails when the two are out of step.
Not guaranteed: that the rows are of the commit at hand; each table names the commit that made it.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.record import RowRecord, read_rows
from benchmarks.summary import render_models
from graphckpt.config import render_table

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "benchmarks" / "rows"
COMMIT_LENGTH = 8


def main() -> int:
    """Rewrite the README."""
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text()))
    return 0


def filled(text: str) -> str:
    """``text`` with both generated parts as they should be."""
    return _between(_between(text, "options", render_table()), "figures", figures())


def figures() -> str:
    """A table of models for each committed file of rows, with the commits and the machine that made it."""
    parts = []
    for path in sorted(ROWS.glob("*.jsonl")):
        rows = read_rows(path)
        if rows:
            parts.append(f"`{path.stem}`, {_made_by(rows)}:\n\n{render_models(rows)}")
    return "\n\n".join(parts) or "No rows are committed yet."


def _made_by(rows: list[RowRecord]) -> str:
    commits = sorted({row.key.commit[:COMMIT_LENGTH] for row in rows})
    hosts = sorted({f"torch {row.host.torch}, {row.host.device}" for row in rows if row.host is not None})
    return f"measured at {', '.join(commits)} ({'; '.join(hosts)})"


def _between(text: str, name: str, content: str) -> str:
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"README.md has no markers <!-- {name} --> and <!-- /{name} --> to write between")
    return pattern.sub(lambda match: f"{match.group(1)}{content}\n{match.group(2)}", text)


if __name__ == "__main__":
    raise SystemExit(main())
