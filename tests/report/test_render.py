"""The line, the text and the JSON of a record."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphckpt.errors import GraphckptError
from graphckpt.report.record import Budget, Record, TensorEntry
from graphckpt.report.render import ReportError, from_json, full_text, summary_line, to_json
from tests.report.records import MIB, RECORDS, SMALL, entry

LINE = (
    "graphckpt: graph 0 · activation budget 64.0 MiB (options) · would need 186 MiB · "
    "planned 61.8 MiB (keep 60 % / recompute 40 %) · +18.2 % modelled time · plan every_2:first_3 · "
    "solved in 0.4 s, no bound"
)

TIMES = "\N{MULTIPLICATION SIGN}"
GOLDEN = f"""{LINE}

sizes, peaks above the start of the step
                                                     size      bytes
  activation budget                              64.0 MiB   67108864
  live before the step                           10.0 MiB   10485760
  reserved for the optimizer                          0 B          0
  the step may allocate                          64.0 MiB   67108864
  predicted peak                                 61.8 MiB   64749568
  predicted peak, outputs kept through backward  63.5 MiB   66584576
  unbudgeted peak                                 186 MiB  195297280
  smallest peak of any plan                             —          —
  saved for backward                             12.0 MiB   12582912
  of it random                                      512 B        512
  recomputed                                     8.00 MiB    8388608

modelled time 1.18 ms, unbudgeted 1.00 ms (+18.2 %)
planned in 0.4 s, no bound; 2 dry lowerings in 5.5 s

frontier, * is the plan in force
     plan             estimated peak  predicted peak  modelled time
     stock                   186 MiB         186 MiB        1.00 ms
  *  every_2:first_3        60.0 MiB        61.8 MiB        1.18 ms
     full                   40.0 MiB               —        1.30 ms

alive at the peak
      size  tensor
  32.0 MiB  lm_head addmm 4x1024
  2.93 KiB  buf7

saved tensors: 5, 12.0 MiB in all
     total  module               each  dtype    shape      source     tensor   reason
  8.00 MiB  h.{{0-3}}.attn {TIMES}4  2.00 MiB  float32  [4, 512]   gpt.py:20  addmm …  cut by Inductor
  4.00 MiB  wte              4.00 MiB  float32  [4, 1024]  gpt.py:10  embed    entry of a segment

recomputed tensors: 2, 8.00 MiB in all
     total  module              each  dtype     shape      source     tensor  reason
  8.00 MiB  h.{{0-1}}.mlp {TIMES}2  4.00 MiB  bfloat16  [4, 1024]  gpt.py:30  gelu …  dropped
"""

NOTHING = "nothing is recomputed beyond what Inductor does of its own accord"
ROOMY = replace(SMALL.budget, asked_bytes=200 * MIB, allowance_bytes=200 * MIB)
UNBUDGETED = replace(
    SMALL,
    plan="stock",
    predicted_peak_bytes=SMALL.unbudgeted_peak_bytes,
    predicted_held_peak_bytes=SMALL.unbudgeted_peak_bytes,
    recomputed_bytes=0,
    tensors=SMALL.saved,
    modelled_time_us=1000.0,
)


def modules(*entries: TensorEntry) -> list[str]:
    """The module column of the table of saved tensors, with the count of each row as ``x4``."""
    text = full_text(replace(SMALL, tensors=entries)).replace(TIMES, "x")
    _, head, *rows = text.partition("\nsaved tensors: ")[2].partition("\n\n")[0].splitlines()
    return [row[head.index("module") :].split("  ")[0] for row in rows]


def test_the_line() -> None:
    assert summary_line(SMALL) == LINE


def test_the_full_text() -> None:
    assert full_text(SMALL) == GOLDEN


def test_a_graph_that_fits_is_said_to_fit() -> None:
    assert summary_line(replace(UNBUDGETED, budget=ROOMY)) == (
        "graphckpt: graph 0 · activation budget 200 MiB (options) · "
        f"the unbudgeted graph fits: it needs 186 MiB, {NOTHING} · plan stock · solved in 0.4 s"
    )


def test_what_fits_not_is_not_said_to_fit() -> None:
    line = summary_line(UNBUDGETED)
    assert "fits" not in line
    assert f"would need 186 MiB · planned 186 MiB · {NOTHING} · OVER the budget by 122 MiB · plan stock" in line


def test_the_recomputation_of_inductor_itself_is_not_ours() -> None:
    line = summary_line(replace(UNBUDGETED, budget=ROOMY, recomputed_bytes=MIB, tensors=SMALL.tensors))
    assert f"the unbudgeted graph fits: it needs 186 MiB, {NOTHING} · plan stock" in line


def test_a_forced_plan_without_a_budget() -> None:
    free = Budget("none", "default", "", 0, 10 * MIB, 0, 0)
    line = summary_line(replace(SMALL, budget=free))
    assert "no budget · would need 186 MiB · planned 61.8 MiB (keep 60 % / recompute 40 %)" in line
    assert "OVER" not in line
    assert f"no budget · needs 186 MiB · {NOTHING} · plan stock" in summary_line(replace(UNBUDGETED, budget=free))
    assert "reserved" not in full_text(replace(SMALL, budget=free))


def test_a_device_budget_counts_what_is_there_before_the_step() -> None:
    whole = Budget("budget", "environment", "60%", 100 * MIB, 20 * MIB, 16 * MIB, 64 * MIB)
    line = summary_line(replace(SMALL, budget=whole))
    assert "budget 60% = 100 MiB (environment; 36.0 MiB live or reserved)" in line
    assert "would need 222 MiB · planned 97.8 MiB" in line
    # More is taken than the whole budget: an allowance is never negative, what is missing counts all the same.
    tiny = replace(whole, asked="30MiB", asked_bytes=30 * MIB, allowance_bytes=0)
    assert "· OVER the budget by 67.8 MiB ·" in summary_line(replace(SMALL, budget=tiny))


@pytest.mark.parametrize(
    ("peak_bytes", "held_bytes", "warning"),
    [
        (64 * MIB, 64 * MIB, ""),
        (64 * MIB + 5, 80 * MIB, " · OVER the budget by 5 B · "),
        (64 * MIB, 66 * MIB, " · OVER the budget by 2.00 MiB if the outputs are kept through backward · "),
    ],
)
def test_a_peak_above_the_budget_is_said_loudly(peak_bytes: int, held_bytes: int, warning: str) -> None:
    line = summary_line(replace(SMALL, predicted_peak_bytes=peak_bytes, predicted_held_peak_bytes=held_bytes))
    assert warning in line
    assert ("OVER" in line) == bool(warning)


@pytest.mark.parametrize(
    ("saved_bytes", "recomputed_bytes", "shares"),
    [
        (999, 1, "keep 99 % / recompute 1 %"),
        (1, 999, "keep 1 % / recompute 99 %"),
        (0, 7, "keep 0 % / recompute 100 %"),
        (2, 1, "keep 67 % / recompute 33 %"),
    ],
)
def test_shares_add_up_and_hide_nothing(saved_bytes: int, recomputed_bytes: int, shares: str) -> None:
    assert shares in summary_line(replace(SMALL, saved_bytes=saved_bytes, recomputed_bytes=recomputed_bytes))


def test_gap_notes_and_unknown_time() -> None:
    line = summary_line(replace(SMALL, gap="3.1 %", unbudgeted_time_us=0.0, notes=("this graph\nonly", "second")))
    assert "unknown modelled time" in line
    assert line.endswith("solved in 0.4 s, gap 3.1 % · this graph only · second")


def test_layers_fold_in_runs_and_steps() -> None:
    assert modules(*(entry(f"h.{i}.mlp") for i in (0, 1, 2, 5))) == ["h.{0-2,5}.mlp x4"]
    assert modules(*(entry(f"h.{i}") for i in range(0, 12, 2))) == ["h.{0,2,…,10} x6"]
    assert modules(*(entry(f"h[{i}].mlp") for i in (10, 9, 8))) == ["h[{8-10}].mlp x3"]
    assert modules(entry("0.net", name="a"), entry("1.net", name="b")) == ["{0-1}.net x2"]


@pytest.mark.parametrize(
    "other",
    [
        {"reason": "another"},
        {"shape": (4, 2)},
        {"dtype": "int32"},
        {"size_bytes": 2},
        {"source": "m.py:2"},
        {"module": "h.1.attn"},
        {"module": "g.1.mlp"},
        {"module": "h.1.mlp.1"},
        {"module": "h1.mlp"},
        {"module": "h.01.mlp"},
        {"module": "h.0.mlp"},
    ],
)
def test_near_misses_do_not_fold(other: dict[str, Any]) -> None:
    rows = modules(entry("h.0.mlp"), entry(**{"module": "h.1.mlp", **other}))
    assert len(rows) == 2
    assert not any("{" in row for row in rows)


def test_saved_and_recomputed_do_not_fold() -> None:
    text = full_text(replace(SMALL, tensors=(entry("h.0.mlp"), entry("h.1.mlp", action="recomputed"))))
    assert "saved tensors: 1, 1.00 MiB in all" in text
    assert "recomputed tensors: 1, 1.00 MiB in all" in text
    assert "{" not in text


def test_names_with_a_number_inside_are_not_layers() -> None:
    for pair in (("layer1.conv", "layer2.conv"), ("h.1st", "h.2nd"), ("h.1-a", "h.2-a")):
        assert modules(*map(entry, pair)) == list(pair)


def test_whole_rectangles_fold_twice_and_others_do_not() -> None:
    grid = [entry(f"layers.{i}.experts.{j}.w") for i in range(4) for j in range(8)]
    assert modules(*grid) == ["layers.{0-3}.experts.{0-7}.w x32"]
    rows = modules(*grid[1:])
    assert sorted(rows) == ["layers.{0-3}.experts.{1-7}.w x28", "layers.{1-3}.experts.0.w x3"]
    assert len(modules(entry("a.0.b.1"), entry("a.1.b.0"))) == 2


def test_a_tensor_recomputed_twice_in_one_layer_has_two_rows() -> None:
    rows = modules(entry("h.0"), entry("h.1"), entry("h.1"), entry("h.2"))
    assert rows == ["h.{0-2} x3", "h.1"]


def paths(row: str) -> list[str]:
    """The module paths that a row with its ranges stands for."""
    text, _, count = row.partition(" x")
    parts = re.split(r"\{([^}]*)\}", text)
    choices = [[part] if at % 2 == 0 else numbers(part) for at, part in enumerate(parts)]
    found = ["".join(path) for path in itertools.product(*choices)]
    assert len(found) == int(count or 1)
    return found


def numbers(ranges: str) -> list[str]:
    ends = [span.split("-") for span in ranges.split(",")]
    return [str(number) for span in ends for number in range(int(span[0]), int(span[-1]) + 1)]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(1, 2)), min_size=1, max_size=20))
def test_folded_rows_stand_for_the_very_tensors(places: list[tuple[int, int, int]]) -> None:
    rows = modules(*(entry(f"a.{i}.b.{j}", size_bytes=size_bytes) for i, j, size_bytes in places))
    assert Counter(path for row in rows for path in paths(row)) == Counter(f"a.{i}.b.{j}" for i, j, _ in places)


def test_the_largest_rows_stand_first() -> None:
    rows = modules(entry("a", size_bytes=3), entry("h.0", size_bytes=2), entry("h.1", size_bytes=2))
    assert rows == ["h.{0-1} x2", "a"]


def test_an_empty_record_has_a_text() -> None:
    text = full_text(replace(SMALL, tensors=(), frontier=(), holders=()))
    assert "saved tensors: 0, 0 B in all\n  none\n" in text
    assert "frontier, * is the plan in force\n  none\n" in text


@given(RECORDS)
def test_json_there_and_back(record: Record) -> None:
    text = to_json(record)
    assert text.isascii()
    assert from_json(text) == record


@given(RECORDS)
def test_no_record_breaks_a_text(record: Record) -> None:
    assert len(summary_line(record).splitlines()) == 1
    assert full_text(record).startswith("graphckpt: graph ")


def test_json_is_read_in_the_types_of_the_record() -> None:
    again = from_json(to_json(SMALL))
    assert type(again.tensors[0]) is TensorEntry
    assert again.tensors[0].shape == (4, 1024)
    assert again.holders[1] == ("buf7", 3000)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda document: document.update(version=2), "wanted a report of version 1, came version 2"),
        (lambda document: document.update(version=True), "came version True"),
        (lambda document: document.pop("version"), "came version None"),
        (lambda document: document.pop("record"), "record: wanted the fields of Record"),
        (lambda document: document["record"].pop("plan"), "['plan']"),
        (lambda document: document["record"].update(colour=1), "['colour']"),
        (lambda document: document["record"].update(plan=3), "record.plan: wanted str, came 3"),
        (lambda document: document["record"].update(graph_id=True), "record.graph_id: wanted int, came True"),
        (lambda document: document["record"].update(modelled_time_us="1"), "modelled_time_us: wanted float"),
        (lambda document: document["record"].update(notes="abc"), "record.notes: wanted a list"),
        (lambda document: document["record"]["holders"].append(["x"]), "record.holders[2]: wanted a list"),
        (lambda document: document["record"]["tensors"][1].update(shape=[1, None]), "record.tensors[1].shape[1]"),
    ],
)
def test_other_json_is_refused_with_its_place(change: Callable[[dict[str, Any]], object], words: str) -> None:
    document = json.loads(to_json(SMALL))
    change(document)
    with pytest.raises(ReportError) as caught:
        from_json(json.dumps(document))
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "[" * 100_000])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(GraphckptError, match="wanted"):
        from_json(text)
