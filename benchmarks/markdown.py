"""Markdown tables. Enters: headings and lines of cells. Leaves: the table as text; a bar inside a cell is escaped."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """One table; every line has as many cells as there are headings."""
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [headings, ["---"] * len(headings), *escaped])
