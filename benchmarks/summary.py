"""Rows as one line a model: what each way peaks at and costs, and which promises of ours the rows show.

Enters: records. Leaves: a markdown table of step and gradient rows, sentences on random ones; a dash where nothing was measured.
MB is 1e6 bytes; ms are modelled. Every row stands in `benchmarks.table`, with the figures behind its verdict.
Not guaranteed: that a line covers every budget or dropout; the counts say how many rows are behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.configs import ModelConfig, default_config, parse_config
from benchmarks.gradients import RATIO_BARS
from benchmarks.judge import has_budget, monotone_problems, problems, scaled_time_us
from benchmarks.markdown import markdown_table
from benchmarks.prediction import STOCK
from benchmarks.record import Measurement, RowRecord, Status
from benchmarks.ways import COMPILE, HF_CKPT, SMALLEST, UNBUDGETED, Way, parse_way

NOTHING = "-"
HEADINGS = (
    "model",
    "torch.compile",
    "+ HF checkpointing",
    "ours, no budget",
    "ours, smallest",
    "budgets kept",
    "prediction off by",
    "gradients off by: fp32, fp64",
)


def render_models(rows: Sequence[RowRecord]) -> str:
    """The table, without random rows; models in the order of their first rows."""
    rows = [row for row in rows if row.key.measurement is not Measurement.SPOT]
    models = list(dict.fromkeys(_model(row) for row in rows))
    return markdown_table(HEADINGS, [_line(model, [row for row in rows if _model(row) == model]) for model in models])


def render_spots(rows: Sequence[RowRecord]) -> str:
    """Some sentences on the random rows, the newest of each model and budget; empty where there are none."""
    newest = {(row.key.config, row.key.way): row for row in rows if row.key.measurement is Measurement.SPOT}
    if not newest:
        return ""
    drawn = list(newest.values())
    commits = ", ".join(dict.fromkeys(row.key.short_commit for row in drawn))
    spots = [(row.spot, parse_config(row.key.config).dtype) for row in drawn if row.spot is not None]
    refused = sum(row.status is Status.REFUSED for row in drawn)
    over = sum(spot.over_bytes > 0 for spot, _ in spots)
    off_bytes = max((abs(spot.predicted_bytes - spot.peak_bytes) for spot, _ in spots), default=0)
    worst = {dtype: max((spot.difference_ratio for spot, its in spots if its == dtype), default=None) for dtype in RATIO_BARS}
    gradients = ", ".join(f"{NOTHING if ratio is None else f'{ratio:.0e}'} in {dtype}" for dtype, ratio in worst.items())
    return (
        f"{len(drawn)} random models and budgets ({sum(spot.plan != STOCK for spot, _ in spots)} with a plan of ours, at "
        f"{commits}): {sum(not problems(row, rows) for row in drawn)} count; {over} over budget, "
        f"{refused} refused, {len(drawn) - len(spots) - refused} failed otherwise. Prediction off by at most {off_bytes} bytes; "
        f"gradients off by at most {gradients}."
    )


def _model(row: RowRecord) -> str:
    """A row's config without what gradient rows vary: its type of numbers and its dropout."""
    config = parse_config(row.key.config)
    return _plain(config).text()


def _plain(config: ModelConfig) -> ModelConfig:
    usual = default_config(config.family)
    return replace(config, dtype=usual.dtype, dropout=usual.dropout)


def _line(model: str, rows: Sequence[RowRecord]) -> list[str]:
    peaks = [_figures(rows, way) for way in (COMPILE, HF_CKPT, UNBUDGETED, SMALLEST)]
    return [model, *peaks, _budgets(rows), _prediction(rows), f"{_gradients(rows, 'fp32')}, {_gradients(rows, 'fp64')}"]


def _figures(rows: Sequence[RowRecord], way: Way) -> str:
    found = [row for row in rows if row.step is not None and row.key.way == way.text()]
    if not found:
        return NOTHING
    step = found[-1].step
    assert step is not None
    text = f"{step.peak_bytes / 1e6:.1f} MB, {scaled_time_us(step) / 1e3:.3f} ms"
    wrong = problems(found[-1], rows)
    return f"{text} (does not count: {wrong[0]})" if wrong else text


def _budgets(rows: Sequence[RowRecord]) -> str:
    limited = [row for row in rows if _has_budget(row)]
    if not limited:
        return NOTHING
    kept = sum(not problems(row, rows) for row in limited)
    order = ", not monotone" if monotone_problems(limited) else ""
    return f"{kept} of {len(limited)}{order}"


def _has_budget(row: RowRecord) -> bool:
    """A refused row has no figures, and counts as one that was not kept."""
    return row.key.measurement is Measurement.STEP and has_budget(parse_way(row.key.way))


def _prediction(rows: Sequence[RowRecord]) -> str:
    """The worst of all rows, whatever their way."""
    steps = [row.step for row in rows if row.step is not None]
    predicted = [(step.predicted_peak_bytes, step.peak_bytes) for step in steps]
    errors = [abs(said / measured - 1) for said, measured in predicted if said is not None]
    return f"{100 * max(errors):.2f} % ({len(errors)} plans)" if errors else NOTHING


def _gradients(rows: Sequence[RowRecord], dtype: str) -> str:
    found = [row for row in rows if row.gradients is not None and parse_config(row.key.config).dtype == dtype]
    if not found:
        return NOTHING
    failed = [problem for row in found for problem in problems(row, rows)]
    worst = max(row.gradients.difference_ratio for row in found if row.gradients is not None)
    return f"{worst:.0e}" + (f" ({'; '.join(failed)})" if failed else "")
