"""The README's table of smallest plans without and with refining, from rows made by hand."""

from __future__ import annotations

from pathlib import Path

from benchmarks.record import RowRecord, append_row
from benchmarks.refining_report import ROWS, means, report
from benchmarks.suites import Scope, refining
from benchmarks.ways import SMALLEST, UNREFINED
from tests.benchmarks.samples import prediction, record, step_row


def _row(peak_mb: int, time_us: float, way: str, config: str = "gpt2") -> RowRecord:
    predicted = prediction(peak_mb * 10**6)
    return record(way, step_row(peak_mb * 10**6, scaled_time_us=time_us, predictions=(predicted,)), config)


def test_both_smallest_plans_stand_in_a_line_and_their_mean_below(tmp_path: Path) -> None:
    assert report(tmp_path) == "No such rows are committed yet."
    for row in (
        _row(50, 400.0, UNREFINED.text()),
        _row(40, 440.0, SMALLEST.text()),
        _row(80, 400.0, UNREFINED.text(), "llama"),
        _row(100, 440.0, SMALLEST.text(), "llama"),
        _row(80, 400.0, UNREFINED.text(), "bert"),
    ):
        append_row(tmp_path / ROWS, row)
    text = report(tmp_path)
    assert "| gpt2 | 50.0 | 0.800 | 40.0 | 0.880 | 0.800 | 1.100 | counts |" in text
    assert "| bert | 80.0 | 0.800 | - | - | - | - | incomplete |" in text
    assert text.endswith("In the geometric mean over 2 models: 1.000 of the peak at 1.100 of the modelled time.")


def test_a_row_that_does_not_count_enters_no_mean() -> None:
    """A graph went around the backend."""
    rows = [_row(50, 400.0, UNREFINED.text()), record(SMALLEST.text(), step_row(fallbacks=("no backward graph was compiled",)))]
    assert means(rows) == "No model has both rows."


def test_the_suite_measures_both() -> None:
    specs = refining(Scope(), [])
    assert {spec.way for spec in specs} == {UNREFINED, SMALLEST}
    assert len(specs) == 2 * len(Scope().configs())
