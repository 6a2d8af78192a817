"""Records and their lines of JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.record import (
    GradientRow,
    Measurement,
    RecordError,
    RowKey,
    RowRecord,
    Status,
    append_row,
    from_line,
    read_rows,
    to_line,
)
from tests.benchmarks.samples import prediction, record, step_row


def test_a_step_row_comes_back_as_it_went() -> None:
    row = record("ours:policy=sqrt", step_row(predictions=(prediction(),), fallbacks=("none compiled",)))
    assert from_line(to_line(row)) == row


def test_a_gradient_row_comes_back_as_it_went() -> None:
    key = RowKey(Measurement.GRADIENTS, "gpt2:dtype=fp64", "ours:policy=smallest", "abc")
    row = RowRecord(key, Status.OK, "", None, gradients=GradientRow(1e-12, None, 2e-7, 7.5, 7.5, (prediction(),)))
    assert from_line(to_line(row)) == row


def test_a_line_is_one_line() -> None:
    assert "\n" not in to_line(RowRecord(record("compile").key, Status.ERROR, "first\nsecond"))


def test_a_line_with_other_fields_is_refused_by_name() -> None:
    line = to_line(record("compile")).replace('"peak_bytes"', '"peak"')
    with pytest.raises(RecordError, match=r"row\.step: wanted the fields .*peak_bytes.* got .*'peak'"):
        from_line(line)


def test_a_line_that_is_no_json_is_refused() -> None:
    with pytest.raises(RecordError, match="wanted one line of JSON"):
        from_line("peak 195.4 MB")


def test_a_later_line_replaces_an_earlier_of_the_same_key(tmp_path: Path) -> None:
    path = tmp_path / "rows" / "peers.jsonl"
    first = RowRecord(record("compile").key, Status.TIMEOUT, "no record after 900 s")
    for row in (first, record("hf_ckpt"), record("compile")):
        append_row(path, row)
    assert read_rows(path) == [record("compile"), record("hf_ckpt")]


@pytest.mark.parametrize(("peaks_bytes", "largest"), [((), None), ((90,), 90), ((90, 120, 70), 120)])
def test_the_predicted_peak_is_the_largest_of_all_graphs(peaks_bytes: tuple[int, ...], largest: int | None) -> None:
    assert step_row(predictions=tuple(map(prediction, peaks_bytes))).predicted_peak_bytes == largest


def test_a_missing_file_holds_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "none.jsonl") == []
