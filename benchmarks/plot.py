"""A picture of what less memory costs: peak against modelled time, one panel a model.

    python -m benchmarks.plot benchmarks/rows/house.jsonl benchmarks/figures/tradeoff.svg --configs gpt2 llama

Enters: rows. Leaves: an SVG file, the same bytes for the same rows under one version of matplotlib, which is an extra: `plot`.
Points are step rows that count: torch.compile, HF checkpointing, torch's knob, and ours with a budget or the smallest plan, of
the newest commit that has such rows. The caption names commits, and how many rows were left out because they do not count.

Not guaranteed: that the line of ours is a frontier; it joins what was measured, by rising peak.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.configs import parse_config
from benchmarks.judge import has_budget, problems, scaled_time_us
from benchmarks.matching import is_ours, model_rows, newest_commit
from benchmarks.record import RowRecord, read_rows
from benchmarks.ways import COMPILE, HF_CKPT, KNOBS, SMALLEST, Way, parse_way

HOW_TO_INSTALL = "plot: matplotlib was wanted and is not installed; run pip install -e '.[plot]'"
DEFAULT_CONFIGS = ("gpt2", "llama")
PANEL_INCHES = (5.0, 3.6)
# Element ids in an SVG are random unless they are salted, and text drawn as outlines is ten times its size.
SETTINGS = {"svg.hashsalt": "graphckpt", "svg.fonttype": "none", "font.size": 9}


class Point(NamedTuple):
    """One measured row. MB is 1e6 bytes, time is modelled."""

    peak_mb: float
    time_ms: float


@dataclass(frozen=True)
class Panel:
    """The points of one model, each series by rising peak. `left_out`: rows that were measured and do not count."""

    config: str
    stock: tuple[Point, ...]
    checkpointing: tuple[Point, ...]
    knobs: tuple[Point, ...]
    ours: tuple[Point, ...]
    left_out: int
    commits: tuple[str, ...]
    peer_commits: tuple[str, ...]


def choose(rows: Sequence[RowRecord], config: str) -> Panel:
    """The points of one model."""
    own = model_rows(rows, config)
    series = [_latest(own, [way]) for way in (COMPILE, HF_CKPT)]
    series += [_latest(own, KNOBS), newest_commit([row for row in own if _is_limited(row)])]
    counting = [[row for row in rows_of if not problems(row, own)] for rows_of in series]
    stock, checkpointing, knobs, ours = (_points(rows_of) for rows_of in counting)
    return Panel(
        config,
        stock,
        checkpointing,
        knobs,
        ours,
        left_out=sum(map(len, series)) - sum(map(len, counting)),
        commits=_commits(counting[-1]),
        peer_commits=_commits(row for rows_of in counting[:-1] for row in rows_of),
    )


def caption(panels: Sequence[Panel]) -> str:
    """Which commits the points are of, and what is not shown."""
    ours, peers = (
        ", ".join(dict.fromkeys(commit for panel in panels for commit in commits(panel))) or "none"
        for commits in (lambda panel: panel.commits, lambda panel: panel.peer_commits)
    )
    left_out = sum(panel.left_out for panel in panels)
    return f"commits: ours {ours}; others {peers}" + (f"; {left_out} rows that do not count left out" if left_out else "")


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Write the picture. Raises `ModuleNotFoundError` without matplotlib."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        width, height = PANEL_INCHES
        figure = Figure(figsize=(width * len(panels), height), layout="constrained")
        for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
            _draw_panel(panel, axes)
        figure.supxlabel(caption(panels), fontsize=6)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw_panel(panel: Panel, axes: Any) -> None:
    series: list[tuple[tuple[Point, ...], dict[str, Any]]] = [
        # A budget between two points gets the plan of the lower one.
        (panel.ours, {"drawstyle": "steps-post", "marker": "o", "markersize": 3, "color": "tab:blue", "label": "graphckpt"}),
        (panel.knobs, {"linestyle": "", "marker": "s", "markersize": 4, "color": "tab:gray", "label": "torch's knob"}),
        (panel.checkpointing, {"linestyle": "", "marker": "^", "color": "tab:orange", "label": "HF checkpointing"}),
        (panel.stock, {"linestyle": "", "marker": "D", "color": "black", "label": "torch.compile"}),
    ]
    for points, form in series:
        if points:
            axes.plot([point.peak_mb for point in points], [point.time_ms for point in points], **form)
    axes.set(title=panel.config, xlabel="peak, MB above the start of a step", ylabel="modelled time, ms")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _latest(rows: Sequence[RowRecord], ways: Sequence[Way]) -> list[RowRecord]:
    """The last row of each way that has figures."""
    texts = [way.text() for way in ways]
    return list({row.key.way: row for row in rows if row.key.way in texts and row.step is not None}.values())


def _is_limited(row: RowRecord) -> bool:
    return is_ours(row) and (row.key.way == SMALLEST.text() or has_budget(parse_way(row.key.way)))


def _points(rows: Sequence[RowRecord]) -> tuple[Point, ...]:
    steps = [row.step for row in rows if row.step is not None]
    return tuple(sorted({Point(step.peak_bytes / 1e6, scaled_time_us(step) / 1e3) for step in steps}))


def _commits(rows: Iterable[RowRecord]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row.key.short_commit for row in rows))


def main(arguments: list[str] | None = None) -> int:
    """Draw the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("out", type=Path, help="the SVG file to write")
    parser.add_argument("--configs", nargs="+", type=parse_config, default=[*map(parse_config, DEFAULT_CONFIGS)])
    chosen = parser.parse_args(arguments)
    rows = read_rows(chosen.rows)
    panels = [choose(rows, config.text()) for config in chosen.configs]
    empty = [panel.config for panel in panels if not (panel.stock or panel.ours)]
    if empty:
        parser.error(f"rows: no figures of {', '.join(empty)} in {chosen.rows}; measure them with benchmarks.rig --suite curve")
    try:
        draw(panels, chosen.out)
    except ModuleNotFoundError as error:
        if error.name not in (None, "matplotlib", "matplotlib.figure"):
            raise
        raise SystemExit(HOW_TO_INSTALL) from error
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
