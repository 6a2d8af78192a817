"""Which rows count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.judge import baseline, gradient_problems, has_budget, monotone_problems, problems, standing
from benchmarks.record import GradientRow, RowRecord, Status
from benchmarks.ways import SMALLEST, UNBUDGETED, Way, ours, parse_way
from tests.benchmarks.samples import HOST, prediction, record, step_row

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


@pytest.mark.parametrize(("plan", "problems_found"), [("stock", 0), ("full", 1)])
def test_what_is_faster_than_stocks_own_cut_is_no_problem(plan: str, problems_found: int) -> None:
    largest = step_row(100, scaled_time_us=3.0, predictions=(replace(prediction(), plan=plan),))
    rows = [record(ours(activation_budget=100).text(), largest), budgeted(90, 90, 2.0)]
    assert len(monotone_problems(rows)) == problems_found


def test_configs_are_not_compared_with_each_other() -> None:
    other = record(ours(activation_budget=90).text(), step_row(90, scaled_time_us=1.0), config="bert")
    assert monotone_problems([budgeted(100, 100, 3.0), other]) == []


@pytest.mark.parametrize(
    ("way", "limited"),
    [
        (ours(activation_budget=9), True),
        (ours(budget=9, optimizer=0), True),
        (parse_way("ours:activation_budget=60%"), False),
        (SMALLEST, False),
        (UNBUDGETED, False),
    ],
)
def test_a_budget_is_one_in_bytes(way: Way, limited: bool) -> None:
    assert has_budget(way) is limited


ELSEWHERE = replace(HOST, torch="2.12.0")
OLD, NEW = (record("hf_ckpt", commit=commit) for commit in ("old", "new"))


def test_a_peer_of_another_commit_and_an_equal_host_stands_in() -> None:
    assert standing(record("hf_ckpt").key, HOST, [OLD]) == OLD
    assert standing(record("hf_ckpt").key, ELSEWHERE, [OLD]) is None
    assert standing(record("hf_ckpt").key, None, [OLD]) is None


def test_the_own_commit_answers_first_and_then_the_latest() -> None:
    own = record("hf_ckpt")
    assert standing(own.key, HOST, [own, OLD, NEW]) == own
    assert standing(own.key, HOST, [OLD, NEW]) == NEW


def test_other_configs_and_ways_do_not_stand_in() -> None:
    others = [record("hf_ckpt", config="bert", commit="old"), record("compile", commit="old")]
    assert standing(record("hf_ckpt").key, HOST, others) is None


def test_ours_stands_at_its_own_commit_alone() -> None:
    row = record("ours", commit="old")
    assert standing(record("ours").key, HOST, [row]) is None
    assert standing(row.key, None, [row]) == row


@pytest.mark.parametrize(
    ("status", "stands"), [(Status.UNSUPPORTED, True), (Status.ERROR, False), (Status.TIMEOUT, False)]
)
def test_a_peer_that_failed_elsewhere_is_tried_again(status: Status, stands: bool) -> None:
    row = RowRecord(OLD.key, status, "it broke", HOST)
    assert (standing(record("hf_ckpt").key, HOST, [row]) == row) is stands


def test_ours_is_judged_beside_torch_compile_of_another_commit() -> None:
    stock = record("compile", step_row(200_000_000, graphs=2), commit="old")
    row = record("ours")
    assert problems(row, [stock, row]) == ["1 graphs where torch.compile has 2"]
    assert baseline(replace(row, host=ELSEWHERE), [stock, row]) is None


def test_torch_compile_of_another_commit_stands_in_where_the_own_row_failed() -> None:
    failed = RowRecord(record("compile").key, Status.ERROR, "it broke", HOST)
    assert baseline(record("ours"), [replace(COMPILE, key=replace(COMPILE.key, commit="old")), failed]) == COMPILE.step


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
