"""Which rows count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.judge import gradient_problems, monotone_problems, problems
from benchmarks.record import GradientRow, RowRecord, Status
from benchmarks.ways import Way, ours
from tests.benchmarks.samples import record, step_row

COMPILE = record("compile", step_row(200_000_000, flops=1_000))
START_BYTES = 30_000_000


def judged(row: RowRecord) -> list[str]:
    return problems(row, [COMPILE, row])


def test_a_peer_with_equal_graphs_and_flops_counts() -> None:
    assert judged(record("hf_ckpt", step_row(flops=1_200))) == []


def test_a_peer_that_computes_less_ran_outside_the_graphs() -> None:
    (problem,) = judged(record("hf_ckpt", step_row(flops=900)))
    assert "fewer than torch.compile" in problem


def test_a_peer_with_other_graphs_does_not_count() -> None:
    assert judged(record("hf_ckpt", step_row(graphs=3))) == ["3 graphs where torch.compile has 1"]


def test_a_peer_without_its_compile_row_does_not_count() -> None:
    row = record("knob:0.4")
    assert problems(row, [row, record("compile", config="bert")]) == ["no compile row of this config to compare with"]


def test_a_row_that_failed_says_why() -> None:
    row = RowRecord(record("hf_ckpt").key, Status.UNSUPPORTED, "ResNet has no checkpointing")
    assert judged(row) == ["unsupported: ResNet has no checkpointing"]


def test_a_fallback_fails_the_row() -> None:
    assert judged(record("ours", step_row(fallbacks=("planned by stock",)))) == ["planned by stock"]


def test_ours_may_spend_fewer_flops() -> None:
    assert judged(record("ours", step_row(flops=900))) == []


@pytest.mark.parametrize(
    ("way", "kept"),
    [
        (ours(activation_budget=100_000_000), True),
        (ours(activation_budget=99_999_999), False),
        (ours(budget=START_BYTES + 100_000_000, optimizer=0), True),
        (ours(budget=START_BYTES + 99_999_999, optimizer=0), False),
    ],
)
def test_a_budget_is_kept_to_the_byte(way: Way, kept: bool) -> None:
    found = judged(record(way.text(), step_row(100_000_000)))
    assert (found == []) is kept


def test_a_report_that_changes_after_backward_is_no_prediction() -> None:
    row = record("ours", step_row(predicted_before_backward=False))
    assert judged(row) == ["the report changed after the first backward"]


def budgeted(allowed: int, peak_bytes: int, time_us: float) -> RowRecord:
    return record(ours(activation_budget=allowed).text(), step_row(peak_bytes, scaled_time_us=time_us))


def test_less_budget_with_less_peak_and_more_time_is_monotone() -> None:
    assert monotone_problems([budgeted(100, 100, 1.0), budgeted(50, 50, 2.0), budgeted(75, 50, 2.0)]) == []


def test_a_peak_that_rises_under_less_budget_is_named() -> None:
    (problem,) = monotone_problems([budgeted(100_000_000, 80_000_000, 1.0), budgeted(90_000_000, 85_000_000, 1.0)])
    assert problem == "gpt2: from 100.0 down to 90.0 MB the peak rises by 5.000 MB"


def test_a_time_that_falls_under_less_budget_is_named() -> None:
    (problem,) = monotone_problems([budgeted(100, 100, 3.0), budgeted(90, 90, 2.0)])
    assert "the modelled time falls by 2.0 us" in problem


def test_configs_are_not_compared_with_each_other() -> None:
    other = record(ours(activation_budget=90).text(), step_row(90, scaled_time_us=1.0), config="bert")
    assert monotone_problems([budgeted(100, 100, 3.0), other]) == []


EXACT = GradientRow(1e-10, 1e-6, 1e-6, 7.5, 7.5, ())


def test_exact_gradients_pass() -> None:
    assert gradient_problems(EXACT, "fp64") == []


@pytest.mark.parametrize(
    ("row", "dtype"),
    [
        (replace(EXACT, difference_ratio=2e-9), "fp64"),
        (replace(EXACT, difference_ratio=2e-5), "fp32"),
        (replace(EXACT, difference_ratio=float("nan")), "fp32"),
        (replace(EXACT, directional_error=2e-3), "fp64"),
        (replace(EXACT, directional_error=float("nan")), "fp64"),
    ],
)
def test_gradients_past_a_bar_fail(row: GradientRow, dtype: str) -> None:
    assert len(gradient_problems(row, dtype)) == 1
