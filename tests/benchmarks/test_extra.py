"""Extra time over a peer's, by hand: torch.compile takes 1.000 ms at 200 MB in all of these."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.bars import Verdict
from benchmarks.extra import BAR_HEADINGS, HEADINGS, bars, has_matches, main, models, ratio_of, render
from benchmarks.record import RowRecord, Status, append_row
from benchmarks.suites import Scope
from benchmarks.ways import SMALLEST
from tests.benchmarks.samples import HOST, record, step_row

# The order of the bars.
KNOB_RATIO, KNOB_TIME, HF_MEAN, HF_EACH, GPT2_SMALLEST, SMALLEST_MEAN, SMALLEST_EACH = range(7)
CONFIGS = [config.text() for config in Scope().configs()]


def row(way: str, peak_mb: int, time_us: float, config: str = "gpt2", graphs: int = 1) -> RowRecord:
    return record(way, step_row(peak_mb * 1_000_000, scaled_time_us=time_us / 2, graphs=graphs), config)


def ours(budget_mb: int, time_us: float, peak_mb: int | None = None, config: str = "gpt2") -> RowRecord:
    return row(f"ours:activation_budget={budget_mb}000000", peak_mb or budget_mb, time_us, config)


def stock(config: str = "gpt2") -> RowRecord:
    return row("compile", 200, 1000, config)


PEERS = [stock(), row("hf_ckpt", 80, 1200), row("knob:0.4", 150, 1100), row("knob:0.2", 100, 1300)]
OURS = [ours(80, 1150), ours(150, 1020), ours(100, 1080), row(SMALLEST.text(), 60, 1250)]


def cells(rows: list[RowRecord]) -> list[str]:
    """The first model's line without its name and commits."""
    heading, _, line, *_ = render(rows).splitlines()
    assert heading == f"| {' | '.join(HEADINGS)} |"
    return line.strip("| ").split(" | ")[2:]


def verdicts(rows: list[RowRecord]) -> list[Verdict]:
    return [bar.verdict for bar in bars(models(rows))]


def verdict_texts(rows: list[RowRecord]) -> list[str]:
    return [bar.verdict_text for bar in bars(models(rows))]


def of(config: str, rows: list[RowRecord], commit: str = "abc") -> list[RowRecord]:
    """The same figures, of another model or commit."""
    return [replace(row, key=replace(row.key, config=config, commit=commit)) for row in rows]


def everywhere(rows: list[RowRecord]) -> list[RowRecord]:
    return [row for config in CONFIGS for row in of(config, rows)]


def test_sums_and_ratios_of_a_model_that_is_measured() -> None:
    assert cells(PEERS + OURS) == [
        "2 of 5",
        *("0.400", "0.100", "0.250"),
        "never",
        *("0.200", "0.150", "0.750"),
        "0.750",
    ]


def test_a_sum_waits_for_every_row_of_ours() -> None:
    assert cells([*PEERS, OURS[0], OURS[1]]) == ["2 of 5", "0.400", "-", "-", "never", "0.200", "0.150", "0.750", "-"]


def test_what_is_not_measured_is_counted() -> None:
    assert render(everywhere(PEERS + OURS)).endswith("Not measured: 33 of 77 comparisons.")
    assert render(PEERS + OURS).endswith("Not measured: 73 of 77 comparisons.")
    assert render([stock()]).endswith("Not measured: 77 of 77 comparisons.")
    assert cells([stock()]) == ["0 of 5", *["-"] * 8]


def test_two_knobs_at_one_peak_are_two_rows_and_one_of_ours() -> None:
    rows = [stock(), row("knob:0.2", 100, 1300), row("knob:0.05", 100, 1300), ours(100, 1090)]
    assert cells(rows)[:4] == ["2 of 5", "0.600", "0.180", "0.300"]


def test_a_knob_that_saves_nothing_enters_no_sum() -> None:
    rows = [*PEERS, *OURS, row("knob:0.8", 200, 1400)]
    assert cells(rows)[:4] == ["2 of 5", "0.400", "0.100", "0.250"]


def test_a_peer_that_does_not_count_is_no_gap() -> None:
    rows = [stock(), row("hf_ckpt", 80, 900, graphs=6), row(SMALLEST.text(), 60, 1250)]
    assert cells(rows)[5:] == ["not compared"] * 4
    assert render(rows).endswith("Not measured: 75 of 77 comparisons.")


@pytest.mark.parametrize(
    ("time_us", "shown", "verdict"),
    [(1306, "never", Verdict.SO_FAR), (1307, "0.5 % at 100.0 MB", Verdict.MISSED), (1313, "1.0 % at 100.0 MB", Verdict.MISSED)],
)
def test_slower_than_the_knob_by_more_than_a_tie_is_said(time_us: float, shown: str, verdict: Verdict) -> None:
    rows = [stock(), row("knob:0.2", 100, 1300), ours(100, time_us)]
    assert cells(rows)[4] == shown
    assert verdicts(rows)[KNOB_TIME] is verdict


REFUSED = RowRecord(ours(80, 0).key, Status.REFUSED, "BudgetInfeasible", HOST)


@pytest.mark.parametrize(
    ("failed", "said"), [(REFUSED, "refused at 80.0 MB"), (ours(80, 1010, peak_mb=81), "over budget by 1.000 MB at 80.0 MB")]
)
def test_a_row_of_ours_that_does_not_count_is_said_and_misses(failed: RowRecord, said: str) -> None:
    rows = [*PEERS, failed, *OURS[1:]]
    assert cells(rows)[5:8] == ["0.200", said, "no figure"]
    found = verdicts(rows)
    assert (found[HF_MEAN], found[HF_EACH]) == (Verdict.MISSED, Verdict.MISSED)
    assert f"gpt2: {said}" in render(rows)


def test_a_failed_row_at_a_knob_s_peak_misses_both_of_its_bars() -> None:
    found = verdicts([*PEERS, *OURS[:2], ours(100, 1010, peak_mb=101)])
    assert (found[KNOB_RATIO], found[KNOB_TIME]) == (Verdict.MISSED, Verdict.MISSED)


MEASURED = [*PEERS, *OURS, *(row(f"knob:{value}", 200, 1000) for value in (0.8, 0.6, 0.05))]


def test_bars_are_met_once_all_is_measured() -> None:
    assert verdict_texts(everywhere(MEASURED)) == [f"met over {count} models (abc)" for count in (11, 11, 11, 11, 2, 11, 11)]
    assert verdicts(everywhere(PEERS + OURS)) == [Verdict.SO_FAR] * 2 + [Verdict.MET] * 5
    assert verdicts([stock()]) == [Verdict.UNMEASURED] * 7


def test_models_without_rows_are_not_measured_and_have_no_line() -> None:
    assert verdict_texts(MEASURED) == [f"met so far over 1 of {count} models (abc)" for count in (11, 11, 11, 11, 2, 11, 11)]
    assert verdict_texts(PEERS + OURS)[KNOB_RATIO] == "met so far over 0 of 11 models, 1 in part (abc)"
    assert [model.config for model in models(MEASURED)] == CONFIGS
    assert [model.config for model in models(of("gpt2:layers=2", MEASURED))] == ["gpt2:layers=2", *CONFIGS]
    assert "| bert | " not in render(MEASURED)


def test_a_bar_names_every_commit_it_rests_on() -> None:
    rows = [row for config in CONFIGS for row in of(config, MEASURED, "old" if config == "bert" else "new")]
    assert verdict_texts(rows)[KNOB_RATIO] == "met over 11 models (new, old)"
    assert verdict_texts(rows)[GPT2_SMALLEST] == "met over 2 models (new)"
    assert "| met over 11 models (new, old) |" in render(rows)
    rows = [*of("gpt2", PEERS + OURS[:3], "new"), *of("gpt2", OURS[3:], "old")]
    assert verdict_texts(rows)[HF_EACH].endswith(" (new)")
    assert verdict_texts(rows)[SMALLEST_EACH].endswith(" (old)")


@pytest.mark.parametrize(
    ("bar", "worse"),
    [
        (KNOB_RATIO, ours(100, 1190)),
        (KNOB_TIME, ours(150, 1106)),
        (HF_MEAN, ours(80, 1165)),
        (HF_EACH, ours(80, 1195)),
        (GPT2_SMALLEST, row(SMALLEST.text(), 69, 1250)),
        (SMALLEST_MEAN, row(SMALLEST.text(), 77, 1250)),
        (SMALLEST_EACH, row(SMALLEST.text(), 81, 1250)),
    ],
)
def test_every_bar_can_be_missed(bar: int, worse: RowRecord) -> None:
    rows = [row for row in MEASURED if row.key != worse.key]
    assert verdicts([*rows, worse])[bar] is Verdict.MISSED


def test_means_are_over_models() -> None:
    """HF: ratios 0.75 and 0.25; smallest over HF: 0.75 and 0.48, whose geometric mean is 0.6."""
    bert = [stock("bert"), row("hf_ckpt", 100, 1400, "bert"), ours(100, 1100, config="bert"), row(SMALLEST.text(), 48, 2, "bert")]
    shown = render([*MEASURED, *bert])
    assert f"| {' | '.join(BAR_HEADINGS)} |" in shown
    assert "HF checkpointing, mean | 0.8 | 0.500 over 2 | met so far over 2 of 11 models (abc) |" in shown
    assert "HF checkpointing, each model | 0.95 | at most 0.750 (gpt2) | met so far over 2 of 11 models (abc) |" in shown
    assert "geometric mean | 0.95 | 0.600 over 2 | met so far over 2 of 11 models (abc) |" in shown


def test_the_bar_of_gpt2_is_about_gpt2() -> None:
    bert = [stock("bert"), row("hf_ckpt", 100, 1400, "bert"), row(SMALLEST.text(), 90, 2, "bert")]
    both = [*MEASURED, *of("gpt2:attention=sdpa", MEASURED)]
    assert verdicts([*both, *bert])[GPT2_SMALLEST] is Verdict.MET


@pytest.mark.parametrize(
    ("ours_us", "peer_us", "ratio"),
    [
        *((1, 2, 0.5), (-1, 2, -0.5)),
        *((0, 0, None), (-2, -2, None), (-3, -2, None)),
        *((1, 0, math.inf), (-1, -100, math.inf), (0, -1, math.inf), (math.nan, -1, math.inf)),
    ],
)
def test_a_peer_that_costs_nothing_has_no_ratio_unless_ours_takes_longer(
    ours_us: float, peer_us: float, ratio: float | None
) -> None:
    assert ratio_of(ours_us, peer_us) == ratio


@pytest.mark.parametrize(("time_us", "verdict"), [(999, Verdict.MISSED), (900, Verdict.UNMEASURED)])
def test_slower_than_a_peer_that_is_faster_than_torch_compile_misses(time_us: float, verdict: Verdict) -> None:
    checkpointed = [stock(), row("hf_ckpt", 80, 900), ours(80, time_us)]
    assert (verdicts(checkpointed)[HF_MEAN], verdicts(checkpointed)[HF_EACH]) == (verdict, verdict)
    assert verdicts([stock(), row("knob:0.2", 100, 900), ours(100, time_us)])[KNOB_RATIO] is verdict


def test_matches_are_rows_of_ours_at_a_peer_s_peak() -> None:
    assert has_matches([*PEERS, OURS[0]])
    assert not has_matches([*PEERS, OURS[3], ours(81, 1000)])


def test_the_command_fails_when_a_bar_is_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    for measured in MEASURED:
        append_row(path, measured)
    assert main([str(path)]) == 0
    append_row(path, row(SMALLEST.text(), 81, 1250))
    assert main([str(path)]) == 1
    assert "missed" in capsys.readouterr().out
