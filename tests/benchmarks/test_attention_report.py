"""The README's tables on attention, from rows made by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.attention_report import COVERAGE, INTERPRETED, MEMORY, read_coverage, report
from benchmarks.coverage import Coverage
from benchmarks.record import append_row
from tests.benchmarks.samples import record, step_row

ROW = Coverage("abcdef1234", "llama", "fp32", 0.0, False, 2, 2, 0, 33, 0, 1.25, ())


def test_a_row_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, ratio=None, reasons=("softmax: no",))]
    (tmp_path / COVERAGE).write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    assert read_coverage(tmp_path / COVERAGE) == rows


def test_covered_is_all_fused_and_as_exact() -> None:
    assert ROW.is_covered
    assert replace(ROW, ratio=None).is_covered
    assert not replace(ROW, fused=1).is_covered
    assert not replace(ROW, ratio=2.5).is_covered
    assert not replace(ROW, ratio=float("nan")).is_covered


def test_models_and_memory_stand_in_tables(tmp_path: Path) -> None:
    assert report(tmp_path) == "No such rows are committed yet."
    (tmp_path / COVERAGE).write_text(json.dumps(asdict(ROW)) + "\n")
    append_row(tmp_path / MEMORY, record("compile", step_row(200_000_000)))
    append_row(tmp_path / MEMORY, record("ours:attention=auto", step_row(50_000_000)))
    text = report(tmp_path)
    assert "| llama | 2 | 2 | 0 | 33 | 0 | 1.25 | 1 | - |" in text
    assert "measured at abcdef12" in text
    assert "| ours:attention=auto | 50.0 | 0.250 |" in text


def test_what_the_interpreter_showed_is_a_sentence(tmp_path: Path) -> None:
    """Three rows: the second's gradients are worse than twice eager's, the third has none."""
    rows = [ROW, replace(ROW, model="t5", ratio=2.5), replace(ROW, dropout=0.1, ratio=None)]
    (tmp_path / INTERPRETED).write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    text = report(tmp_path)
    assert "2 models, 3 rows, fp32; gradients err at most 2.50 times as much as eager's (t5)" in text
    assert "less exact than twice eager: t5." in text
