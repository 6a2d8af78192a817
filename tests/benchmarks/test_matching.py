"""Which rows are held against each other."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.matching import NO_LOWER, Pair, model_rows, newest_commit, pairs, peers_of, smallest_pair
from benchmarks.record import RowRecord, Status
from benchmarks.ways import HF_CKPT, KNOBS, SMALLEST
from tests.benchmarks.samples import HOST, record, step_row

STOCK = record("compile", step_row(200_000_000))
CHECKPOINTED = record("hf_ckpt", step_row(70_000_000))
AT_ITS_PEAK = "ours:activation_budget=70000000"


def checkpointing(*rows: RowRecord) -> Pair:
    """HF checkpointing, beside what these rows hold of ours."""
    return pairs([STOCK, CHECKPOINTED, *rows])[0]


def test_every_peer_has_a_pair_measured_or_not() -> None:
    found = pairs([STOCK])
    assert [pair.peer.way for pair in found] == [HF_CKPT, *KNOBS]
    assert all(pair.unmeasured and pair.steps is None for pair in found)


def test_ours_at_the_same_peak_makes_the_pair() -> None:
    ours = record(AT_ITS_PEAK, step_row(69_000_000))
    pair = checkpointing(record("ours:activation_budget=70000001"), ours)
    assert (pair.ours, pair.failure, pair.unmeasured) == (ours, "", False)
    assert pair.steps == (CHECKPOINTED.step, ours.step)


def test_ours_over_its_budget_is_kept_and_named() -> None:
    over = record(AT_ITS_PEAK, step_row(70_001_000))
    pair = checkpointing(over)
    assert (pair.ours, pair.failure, pair.steps) == (over, "over budget by 0.001 MB", None)
    assert not pair.unmeasured


def test_a_refusal_is_named_without_its_page() -> None:
    refused = RowRecord(record(AT_ITS_PEAK).key, Status.REFUSED, "BudgetInfeasible: smallest is 71 MB", HOST)
    pair = checkpointing(refused)
    assert (pair.failure, pair.steps, pair.unmeasured) == ("refused", None, False)


def test_only_the_newest_commit_with_such_rows_is_read() -> None:
    """The newer one has a row at a knob's peak, and none at HF checkpointing's; what it has elsewhere is beside the point."""
    rows = [
        STOCK,
        CHECKPOINTED,
        record("knob:0.8", step_row(90_000_000)),
        record(AT_ITS_PEAK, step_row(70_000_000), commit="old"),
        record("ours:activation_budget=90000000", step_row(90_000_000), commit="new"),
        record("ours", commit="newest"),
    ]
    hf, first_knob, *_ = pairs(rows)
    assert hf.unmeasured
    assert first_knob.ours == rows[4]
    assert pairs([*rows[:4], rows[5]])[0].ours == rows[3]


def test_peers_that_cannot_be_compared_say_why() -> None:
    rows = [
        STOCK,
        RowRecord(CHECKPOINTED.key, Status.UNSUPPORTED, "no layers", HOST),
        record("knob:0.8", step_row(200_000_000)),
        record("knob:0.6", step_row(graphs=4)),
    ]
    hf, high, low, *rest = peers_of(rows)
    assert hf.excluded == "unsupported: no layers"
    assert high.excluded == NO_LOWER
    assert low.excluded == "4 graphs where torch.compile has 1"
    assert [peer.compared for peer in (hf, high, low)] == [None] * 3
    assert not any(pair.unmeasured for pair in pairs(rows)[:3])
    assert {peer.excluded for peer in rest} == {""}


def test_a_peer_that_broke_is_unmeasured_and_an_earlier_row_of_it_answers() -> None:
    broken = RowRecord(record("hf_ckpt", commit="new").key, Status.ERROR, "it broke", HOST)
    assert peers_of([STOCK, broken])[0].step is None
    assert pairs([STOCK, broken])[0].unmeasured
    assert peers_of([STOCK, CHECKPOINTED, broken])[0].compared == CHECKPOINTED.step


def test_without_torch_compile_nothing_is_compared() -> None:
    assert all(pair.unmeasured for pair in pairs([CHECKPOINTED, record(AT_ITS_PEAK)]))


def test_rows_of_a_model_are_those_of_the_host_ours_ran_on_last() -> None:
    elsewhere = replace(HOST, threads=16)
    there = [replace(row, host=elsewhere) for row in (STOCK, record("ours"), CHECKPOINTED)]
    here = [record("compile", commit="here"), record("ours", commit="here")]
    silent = RowRecord(record(AT_ITS_PEAK).key, Status.TIMEOUT, "no record after 900 s")
    assert model_rows([*there, *here, silent, record("compile", config="bert")], "gpt2") == [*here, silent]
    assert model_rows([*here, *there], "gpt2") == there
    assert model_rows([here[0], there[0]], "gpt2") == [there[0]]


def test_the_smallest_plan_is_the_latest_and_stands_beside_hf_checkpointing() -> None:
    old, new = (record(SMALLEST.text(), step_row(peak), commit=name) for peak, name in ((60_000_000, "old"), (50_000_000, "new")))
    pair = smallest_pair([STOCK, CHECKPOINTED, old, new, record("ours", commit="newest")])
    assert pair.steps == (CHECKPOINTED.step, new.step)
    assert smallest_pair([STOCK, CHECKPOINTED]).unmeasured


def test_the_smallest_plan_is_of_the_commit_that_is_read_at_the_peaks() -> None:
    at_peak = record(AT_ITS_PEAK, commit="measured")
    same, later = (record(SMALLEST.text(), step_row(60_000_000), commit=name) for name in ("measured", "later"))
    assert smallest_pair([STOCK, CHECKPOINTED, at_peak, same, later]).ours == same
    assert smallest_pair([STOCK, CHECKPOINTED, later, at_peak]).ours == later


def test_no_rows_have_no_newest_commit() -> None:
    assert newest_commit([]) == []
