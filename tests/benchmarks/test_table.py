"""Rows as markdown."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.record import GradientRow, Measurement, RowKey, RowRecord, Status, append_row
from benchmarks.table import failing, main, render
from benchmarks.ways import ours
from tests.benchmarks.samples import prediction, record, step_row

COMPILE = record("compile", step_row(200_000_000))


def cells(table: str, line: int) -> dict[str, str]:
    """One line of a table by its headings."""
    rows = [[cell.strip() for cell in text.strip("| ").split(" | ")] for text in table.splitlines()]
    return dict(zip(rows[0], rows[line], strict=True))


def test_a_row_shows_its_figures_in_units_of_ten() -> None:
    row = record(ours(activation_budget=110_000_000).text(), step_row(predictions=(prediction(101_000_000),)))
    shown = cells(render([COMPILE, row]), 3)
    assert shown["peak MB"] == "100.0"
    assert shown["allowed MB"] == "110.0"
    assert shown["predicted MB"] == "101.0 (+1.0 %)"
    assert shown["scaled ms"] == "1.000"
    assert shown["x compile"] == "1.000"
    assert shown["kernels"] == "10 + 10"
    assert shown["planning s"] == "3.5 (2 dry)"
    assert shown["verdict"] == "counts"


def test_a_row_without_figures_shows_dashes_and_its_reason() -> None:
    row = RowRecord(record("hf_ckpt").key, Status.TIMEOUT, "no record after 900 s")
    shown = cells(render([COMPILE, row]), 3)
    assert shown["peak MB"] == "-"
    assert shown["verdict"] == "timeout: no record after 900 s"


def test_a_dirty_commit_is_marked() -> None:
    row = record("compile", commit="0123456789abcdef-dirty.89abcdef")
    assert cells(render([row]), 2)["commit"] == "01234567-dirty"


def test_rows_of_one_commit_are_judged_beside_peers_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    for row in (record("compile", step_row(graphs=2), commit="old"), record("ours", commit="new")):
        append_row(path, row)
    assert main([str(path), "--commit", "new"]) == 1
    shown = capsys.readouterr().out
    assert "1 graphs where torch.compile has 2" in shown
    assert cells(shown, 2)["x compile"] == "1.000"
    assert "old" not in shown


def test_gradients_have_a_table_of_their_own() -> None:
    key = RowKey(Measurement.GRADIENTS, "gpt2", "ours:policy=smallest", "abc")
    row = RowRecord(key, Status.OK, "", None, gradients=GradientRow(2e-6, None, None, 7.5, 7.5, ()))
    shown = cells(render([row]), 2)
    assert shown["difference"] == "2.00e-06"
    assert shown["directional error"] == "-"
    assert shown["verdict"] == "counts"


def test_what_is_not_monotone_stands_below_the_table() -> None:
    rows = [
        record(ours(activation_budget=100_000_000).text(), step_row(80_000_000)),
        record(ours(activation_budget=90_000_000).text(), step_row(85_000_000)),
    ]
    assert "- gpt2: from 100.0 down to 90.0 MB the peak rises by 5.000 MB" in render(rows)
    assert failing(rows) == 1


def test_a_bar_in_a_reason_does_not_split_a_cell() -> None:
    row = RowRecord(record("ours").key, Status.ERROR, "wanted int | str")
    assert "wanted int \\| str" in render([row])


def test_the_command_fails_when_a_row_does_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    append_row(path, COMPILE)
    assert main([str(path)]) == 0
    append_row(path, record("hf_ckpt", step_row(graphs=2)))
    assert main([str(path)]) == 1
    assert "2 graphs where torch.compile has 1" in capsys.readouterr().out
