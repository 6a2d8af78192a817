"""The generated parts of the README are the ones that are there."""

import re
from pathlib import Path

import pytest

from benchmarks.readme import NO_ROWS, ROOT, extra_times, figures, filled
from benchmarks.record import append_row
from tests.benchmarks.samples import record, step_row


def test_the_readme_is_in_step() -> None:
    """Run `python -m benchmarks.readme` if this fails."""
    text = (ROOT / "README.md").read_text()
    assert text == filled(text)


def test_missing_markers_are_an_error() -> None:
    with pytest.raises(ValueError, match="no markers <!-- options -->"):
        filled("# a readme without markers\n")


def test_what_stood_between_the_markers_goes() -> None:
    names = ("options", "figures", "extra", "attention", "solver", "refining")
    text = "".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\n" for name in names)
    assert "old" not in filled(text)


def test_extra_times_stand_there_once_ours_is_measured_at_a_peer_s_peak(tmp_path: Path) -> None:
    rows = tmp_path / "house.jsonl"
    append_row(rows, record("compile", step_row(200_000_000)))
    append_row(rows, record("hf_ckpt", step_row(70_000_000, scaled_time_us=600)))
    assert extra_times(tmp_path) == NO_ROWS
    assert "gpt2" in figures(tmp_path)
    append_row(rows, record("ours:activation_budget=70000000", step_row(70_000_000, scaled_time_us=550)))
    assert extra_times(tmp_path).startswith("`house`:\n\n| model |")


def test_every_picture_is_there() -> None:
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert pictures
    assert [name for name in pictures if not (ROOT / name).is_file()] == []
