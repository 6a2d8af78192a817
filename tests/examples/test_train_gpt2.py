"""The table of the demo, its budgets, and the claims it refuses to make; nothing is compiled."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from typing import Any

import pytest

from examples import train_gpt2
from examples.gpt2 import Figures, Setting, Survey, Way
from examples.train_gpt2 import Row, RowFailed, budgets_bytes, failures, main, render, row_environment, run_row

SETTING = Setting(layers=2, steps=8)
FOUND = Survey(unbudgeted_peak_bytes=100_000_000, smallest_peak_bytes=40_000_000, unbudgeted_time_us=900.0)
PLAIN = Figures(peak_bytes=100_000_000, step_seconds=0.25, loss=3.5)
BUDGETED = Figures(39_000_000, 0.3, 3.5, predicted_peak_bytes=39_000_000, modelled_time_us=1080.0)
ROWS = [
    Row(Way.EAGER, replace(PLAIN, peak_bytes=150_000_000, loss=3.6)),
    Row(Way.COMPILE, PLAIN),
    Row(Way.CHECKPOINTED, replace(PLAIN, peak_bytes=50_000_000)),
    Row(Way.GRAPHCKPT, BUDGETED, budget_bytes=40_000_000),
]


def with_last(**changes: Any) -> list[Row]:
    return [*ROWS[:-1], replace(ROWS[-1], figures=replace(BUDGETED, **changes))]


def test_the_table_has_a_row_a_way_and_one_width() -> None:
    lines = render(SETTING, FOUND, ROWS).splitlines()
    rule = next(number for number, line in enumerate(lines) if set(line) == {"-"})
    table = lines[rule - 1 : rule + 1 + len(ROWS)]
    assert len({len(line) for line in table}) == 1
    assert table[0].split("  ")[-1] == "loss at step 8"
    assert " ".join(table[3].split()) == "torch.compile 100.0 MB — 900 us (+0.0 %) 250 ms 3.50000"
    assert " ".join(table[5].split()).removeprefix("graphckpt, budget 40.0 MB ") == (
        "39.0 MB 39.0 MB 1080 us (+20.0 %) 300 ms 3.50000"
    )


def test_the_table_ends_with_what_it_shows() -> None:
    memory, trust = render(SETTING, FOUND, ROWS).splitlines()[-2:]
    assert "in 39.0 MB what takes torch.compile 100.0 MB (-61.0 %)" in memory
    assert "HF checkpointing 50.0 MB, for +20.0 % modelled time." in memory
    assert "within 0.00 % of the measured ones" in trust


def test_rows_that_keep_their_promises_fail_nothing() -> None:
    assert failures(ROWS) == []
    assert failures(with_last(peak_bytes=40_000_000, loss=3.5 * (1 + 9e-5))) == []


def test_a_peak_above_its_budget_fails() -> None:
    (sentence,) = failures(with_last(peak_bytes=40_000_001))
    assert sentence == "graphckpt, budget 40.0 MB: the step took 40000001 bytes of 40000000, 1 too many"


@pytest.mark.parametrize("loss", [3.501, 3.499, float("nan")])
def test_another_loss_fails(loss: float) -> None:
    (sentence,) = failures(with_last(loss=loss))
    assert "wanted a relative difference of at most 1e-04" in sentence
    assert sentence.startswith("graphckpt, budget 40.0 MB: ends at loss")


def test_a_reference_that_is_no_number_fails_every_compiled_row() -> None:
    rows = [replace(row, figures=replace(row.figures, loss=float("nan"))) for row in ROWS]
    assert len(failures(rows)) == 3


def test_the_budgets_are_two_shares_and_the_smallest() -> None:
    assert budgets_bytes(FOUND) == (85_000_000, 65_000_000, 40_000_000)


def test_no_budget_is_below_the_smallest() -> None:
    assert budgets_bytes(replace(FOUND, smallest_peak_bytes=70_000_000)) == (85_000_000, 70_000_000)
    assert budgets_bytes(replace(FOUND, smallest_peak_bytes=100_000_000)) == (100_000_000,)


def test_rows_see_no_option_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHCKPT_POLICY", "sqrt")
    environment = row_environment("folder")
    assert "GRAPHCKPT_POLICY" not in environment
    assert environment["TORCHINDUCTOR_CACHE_DIR"] == "folder"


def test_a_row_that_dies_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(RowFailed, match=r"row 'torch.compile' failed with exit status 1"):
        run_row(SETTING, Way.COMPILE, None, {})


@pytest.fixture
def rows_run(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Way, int | None]]:
    """The rows the demo asks for, answered without a process."""
    asked: list[tuple[Way, int | None]] = []

    def answer(_: Setting, way: Way, budget_bytes: int | None, __: object) -> dict[str, Any]:
        asked.append((way, budget_bytes))
        if way is Way.SURVEY:
            return asdict(FOUND)
        return asdict(PLAIN if budget_bytes is None else BUDGETED)

    monkeypatch.setattr(train_gpt2, "run_row", answer)
    return asked


def test_the_demo_runs_every_row_and_passes(
    rows_run: list[tuple[Way, int | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([]) == 0
    ours = [(Way.GRAPHCKPT, budget_bytes) for budget_bytes in budgets_bytes(FOUND)]
    assert rows_run == [(Way.SURVEY, None), (Way.EAGER, None), (Way.COMPILE, None), (Way.CHECKPOINTED, None), *ours]
    shown = capsys.readouterr()
    assert "loss at step 12" in shown.out
    assert "[7/7] graphckpt, budget 40.0 MB" in shown.err


@pytest.mark.usefixtures("rows_run")
def test_the_demo_exits_with_1_when_a_claim_does_not_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_gpt2, "failures", lambda rows: ["a claim did not hold"])
    assert main([]) == 1
    assert capsys.readouterr().err.endswith("train_gpt2: a claim did not hold.\n")


def test_one_row_is_printed_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(train_gpt2, "train", lambda setting, way, budget_bytes: BUDGETED)
    assert main(["--row", "graphckpt", "--budget-bytes", "40000000"]) == 0
    assert Figures(**json.loads(capsys.readouterr().out)) == BUDGETED


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--steps", "3"], "at least 4"),
        (["--layers", "0"], "at least 1"),
        (["--row", "graphckpt"], "go together"),
        (["--budget-bytes", "5"], "go together"),
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err
