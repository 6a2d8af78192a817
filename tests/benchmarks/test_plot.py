"""Which points a picture holds, and that the picture is the same each time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.plot import Point, caption, choose, draw, main
from benchmarks.record import RowRecord, append_row
from benchmarks.ways import SMALLEST
from tests.benchmarks.samples import record, step_row


def row(way: str, peak_mb: int, time_us: float = 1000, commit: str = "abc", graphs: int = 1) -> RowRecord:
    return record(way, step_row(peak_mb * 1_000_000, scaled_time_us=time_us / 2, graphs=graphs), commit=commit)


ROWS = [
    row("compile", 200),
    row("hf_ckpt", 80, 1200),
    row("knob:0.4", 150, 1100, commit="old"),
    row("knob:0.2", 100, 1300, commit="old"),
    row("ours", 200),
    row("ours:budget=150000000,optimizer=0", 120, 1050),
    row("ours:activation_budget=90000000", 90, 1100),
    row(SMALLEST.text(), 60, 1300),
    row("ours:policy=sqrt", 70, 1400),
]


def test_each_series_is_sorted_by_peak() -> None:
    panel = choose(ROWS, "gpt2")
    assert panel.stock == (Point(200.0, 1.0),)
    assert panel.checkpointing == (Point(80.0, 1.2),)
    assert panel.knobs == (Point(100.0, 1.3), Point(150.0, 1.1))
    assert panel.left_out == 0


def test_ours_is_what_has_a_budget_and_the_smallest_plan() -> None:
    assert choose(ROWS, "gpt2").ours == (Point(60.0, 1.3), Point(90.0, 1.1), Point(120.0, 1.05))


def test_ours_is_of_the_newest_commit_alone() -> None:
    panel = choose([*ROWS, row(SMALLEST.text(), 50, commit="new"), row("ours", 200, commit="newest")], "gpt2")
    assert panel.ours == (Point(50.0, 1.0),)
    assert panel.commits == ("new",)


def test_rows_that_do_not_count_are_left_out_and_counted() -> None:
    panel = choose([*ROWS, row("knob:0.8", 110, graphs=3), row("ours:activation_budget=65000000", 66)], "gpt2")
    assert len(panel.knobs) == 2
    assert len(panel.ours) == 3
    assert panel.left_out == 2
    assert caption([panel]).endswith("; 2 rows that do not count left out")


def test_the_caption_names_each_commit_once() -> None:
    panel = choose(ROWS, "gpt2")
    assert caption([panel, panel]) == "commits: ours abc; others abc, old"


def test_a_model_without_rows_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append_row(tmp_path / "rows.jsonl", ROWS[0])
    with pytest.raises(SystemExit):
        main([str(tmp_path / "rows.jsonl"), str(tmp_path / "picture.svg"), "--configs", "bert"])
    assert "no figures of bert" in capsys.readouterr().err


def test_without_matplotlib_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_row(tmp_path / "rows.jsonl", ROWS[0])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match=r"pip install -e '\.\[plot\]'"):
        main([str(tmp_path / "rows.jsonl"), str(tmp_path / "picture.svg"), "--configs", "gpt2"])
    assert not (tmp_path / "picture.svg").exists()


def test_a_picture_is_the_same_each_time_and_names_no_place(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is an extra: pip install -e '.[plot]'")
    panels = [choose(ROWS, "gpt2"), choose(ROWS[:1], "gpt2")]
    paths = [tmp_path / name for name in ("first.svg", "second.svg")]
    for path in paths:
        draw(panels, path)
    first, second = (path.read_text() for path in paths)
    assert first == second
    assert "torch's knob" in first
    assert caption(panels) in first
    assert "<dc:date>" not in first
    assert [place for place in (str(tmp_path), str(Path.cwd()), sys.prefix) if place in first] == []
