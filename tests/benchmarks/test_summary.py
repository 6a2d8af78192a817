"""One line a model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.record import GradientRow, Measurement, RowKey, RowRecord, Status
from benchmarks.summary import HEADINGS, render_models
from benchmarks.ways import ours
from tests.benchmarks.samples import prediction, record, step_row

SMALLEST = ours(policy="smallest").text()


def _lines(rows: list[RowRecord]) -> list[dict[str, str]]:
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in render_models(rows).splitlines()]
    assert lines[0] == list(HEADINGS)
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def _gradients(dtype: str, dropout: float, ratio: float, directional: float | None = None) -> RowRecord:
    config = f"gpt2:dtype={dtype},dropout={dropout}"
    key = RowKey(Measurement.GRADIENTS, config, SMALLEST, "abc")
    return RowRecord(key, Status.OK, "", None, gradients=GradientRow(ratio, directional, directional, 7.5, 7.5, ()))


def test_a_model_shows_each_way_and_dashes_for_the_rest() -> None:
    (line,) = _lines([record("compile", step_row(200_000_000)), record(SMALLEST, step_row(50_000_000, scaled_time_us=700))])
    assert line["model"] == "gpt2"
    assert line["torch.compile"] == "200.0 MB, 1.000 ms"
    assert line["ours, smallest"] == "50.0 MB, 1.400 ms"
    assert line["+ HF checkpointing"] == line["budgets kept"] == line["prediction off by"] == "-"
    assert line["gradients off by: fp32, fp64"] == "-, -"


def test_models_with_different_attentions_have_lines_of_their_own() -> None:
    rows = [record("compile", config=config) for config in ("gpt2", "gpt2:attention=sdpa", "bert")]
    assert [line["model"] for line in _lines(rows)] == ["gpt2", "gpt2:attention=sdpa", "bert"]


def test_a_row_that_does_not_count_says_why() -> None:
    (line,) = _lines([record("compile"), record("hf_ckpt", step_row(graphs=3))])
    assert line["+ HF checkpointing"] == "100.0 MB, 1.000 ms (does not count: 3 graphs where torch.compile has 1)"


def test_budgets_are_counted_with_those_over_them_and_those_refused() -> None:
    kept, over = (record(ours(activation_budget=size).text(), step_row(100_000_000)) for size in (110_000_000, 90_000_000))
    refused = RowRecord(record(ours(budget=70_000_000).text()).key, Status.REFUSED, "BudgetInfeasible")
    assert _lines([kept])[0]["budgets kept"] == "1 of 1"
    assert _lines([kept, over, refused])[0]["budgets kept"] == "1 of 3"


def test_budgets_that_are_not_monotone_are_said_to_be() -> None:
    """At 120 MB more time than at 110 MB."""
    slow = record(ours(activation_budget=120_000_000).text(), step_row(100_000_000, scaled_time_us=900))
    fast = record(ours(activation_budget=110_000_000).text(), step_row(100_000_000))
    assert _lines([slow, fast])[0]["budgets kept"] == "2 of 2, not monotone"


def test_the_worst_prediction_stands_for_all() -> None:
    rows = [
        record(SMALLEST, step_row(100_000_000, predictions=(prediction(99_000_000),))),
        record("ours", step_row(100_000_000, predictions=(prediction(100_500_000),))),
        record("compile", step_row(100_000_000)),
    ]
    assert _lines(rows)[0]["prediction off by"] == "1.00 % (2 plans)"


@pytest.mark.parametrize(
    ("worst", "shown"),
    [(2e-6, "2e-06, 3e-16"), (2e-4, "2e-04 (gradients differ by 2.00e-04, wanted 1e-05), 3e-16")],
)
def test_gradients_are_the_worst_of_their_type_on_the_line_of_their_model(worst: float, shown: str) -> None:
    """Dropout and type do not make another model of it."""
    rows = [
        record("compile"),
        _gradients("fp32", 0.0, 1e-7),
        _gradients("fp32", 0.1, worst),
        _gradients("fp64", 0.1, 3e-16, 1e-5),
    ]
    assert [line["gradients off by: fp32, fp64"] for line in _lines(rows)] == [shown]


def test_a_failed_row_without_figures_leaves_its_dash() -> None:
    failed = replace(record("hf_ckpt"), status=Status.ERROR, reason="it broke", step=None)
    assert _lines([record("compile"), failed])[0]["+ HF checkpointing"] == "-"
