"""Running suites: what is skipped, what is run again, what a process that dies leaves behind."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import rig
from benchmarks.configs import Family, ModelConfig
from benchmarks.record import Host, RowRecord, Status, append_row, read_rows, to_line
from benchmarks.rig import process_runner, progress, run_suite
from benchmarks.row import RowSpec
from benchmarks.suites import Scope, compile_time
from benchmarks.ways import COMPILE, HF_CKPT, UNBUDGETED
from tests.benchmarks.samples import HOST, record, step_row

CONFIG = ModelConfig(Family.GPT2)
SCOPE = Scope()


class Runner:
    """Writes down what it was asked to run; measures nothing."""

    def __init__(self, status: Status = Status.OK) -> None:
        self.ways: list[str] = []
        self.status = status

    def __call__(self, spec: RowSpec, commit: str) -> RowRecord:
        self.ways.append(spec.way.text())
        step = step_row() if self.status is Status.OK else None
        return RowRecord(spec.key(commit), self.status, "", step=step)


def two_rows(scope: Scope, rows: Sequence[RowRecord]) -> list[RowSpec]:
    return [RowSpec(CONFIG, COMPILE), RowSpec(CONFIG, HF_CKPT)]


def staged(scope: Scope, rows: Sequence[RowRecord]) -> list[RowSpec]:
    """A second row that is only named when the first has been measured."""
    return two_rows(scope, rows)[: 2 if rows else 1]


def test_rows_that_are_there_are_not_run_again(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    append_row(out, record("compile"))
    runner = Runner()
    assert run_suite(two_rows, SCOPE, out, "abc", runner) == 1
    assert runner.ways == ["hf_ckpt"]
    assert run_suite(two_rows, SCOPE, out, "abc", runner) == 0
    assert [row.key.way for row in read_rows(out)] == ["compile", "hf_ckpt"]


def here(config: ModelConfig) -> Host:
    return HOST


def ours_and_a_peer(scope: Scope, rows: Sequence[RowRecord]) -> list[RowSpec]:
    return [RowSpec(CONFIG, UNBUDGETED), RowSpec(CONFIG, HF_CKPT)]


def test_ours_of_another_commit_is_run_and_its_peers_are_not(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    for way in ("ours", "hf_ckpt"):
        append_row(out, record(way, commit="old"))
    runner = Runner()
    run_suite(ours_and_a_peer, SCOPE, out, "abc", runner, host_of=here)
    assert runner.ways == ["ours"]


@pytest.mark.parametrize("status", [Status.ERROR, Status.OK])
def test_a_peer_that_failed_or_ran_elsewhere_is_run(tmp_path: Path, status: Status) -> None:
    out = tmp_path / "rows.jsonl"
    host = HOST if status is Status.ERROR else replace(HOST, threads=16)
    append_row(out, replace(record("hf_ckpt", commit="old"), status=status, host=host))
    runner = Runner()
    run_suite(two_rows, SCOPE, out, "abc", runner, host_of=here)
    assert runner.ways == ["compile", "hf_ckpt"]


def test_a_suite_is_shown_the_peers_that_stand_in(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    for row in (record("compile", commit="old"), record("ours", commit="old"), record("compile", commit="older")):
        append_row(out, row)
    shown: list[list[str]] = []

    def suite(scope: Scope, rows: Sequence[RowRecord]) -> list[RowSpec]:
        shown.append([f"{row.key.way} {row.key.commit}" for row in rows])
        return []

    run_suite(suite, SCOPE, out, "abc", Runner(), host_of=here)
    assert shown == [["compile older"]]


def test_seconds_are_measured_at_one_commit(tmp_path: Path) -> None:
    """Modelled time of another commit's peer will do, its seconds do not."""
    out = tmp_path / "rows.jsonl"
    append_row(out, record("compile", commit="old"))
    runner = Runner()
    run_suite(compile_time, Scope((Family.GPT2,), ("eager",)), out, "abc", runner, host_of=here)
    assert runner.ways == ["compile", "ours", "ours:policy=smallest", "ours:attention=auto,policy=smallest"]


def test_a_suite_is_asked_again_after_each_row(tmp_path: Path) -> None:
    runner = Runner()
    assert run_suite(staged, SCOPE, tmp_path / "rows.jsonl", "abc", runner) == 2
    assert runner.ways == ["compile", "hf_ckpt"]


def test_failed_rows_are_run_again_only_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    run_suite(two_rows, SCOPE, out, "abc", Runner(Status.ERROR))
    kept, again = Runner(), Runner()
    run_suite(two_rows, SCOPE, out, "abc", kept)
    run_suite(two_rows, SCOPE, out, "abc", again, retry_failed=True)
    assert kept.ways == []
    assert again.ways == ["compile", "hf_ckpt"]
    assert {row.status for row in read_rows(out)} == {Status.OK}


def test_rows_that_keep_failing_are_tried_once_a_run(tmp_path: Path) -> None:
    runner = Runner(Status.TIMEOUT)
    assert run_suite(two_rows, SCOPE, tmp_path / "rows.jsonl", "abc", runner, retry_failed=True) == 2


def shell(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let the runner start this script in place of the row."""
    real = subprocess.Popen

    def start(command: list[str], **settings: object) -> subprocess.Popen[str]:
        return real(["sh", "-c", script], **settings)  # type: ignore[call-overload]

    monkeypatch.setattr(rig.subprocess, "Popen", start)


def test_a_row_is_read_past_what_else_the_process_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    shell(monkeypatch, f"echo profiler_start; echo '{to_line(record('compile'))}'; echo profiler_stop")
    assert process_runner(30)(RowSpec(CONFIG, COMPILE), "abc") == record("compile")


def test_a_process_that_dies_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    shell(monkeypatch, "echo out of memory >&2; exit 9")
    row = process_runner(30)(RowSpec(CONFIG, COMPILE), "abc")
    assert (row.status, row.reason) == (Status.ERROR, "exit status 9: out of memory")


def test_a_process_that_hangs_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    shell(monkeypatch, "sleep 60 & wait")
    row = process_runner(0.2)(RowSpec(CONFIG, COMPILE), "abc")
    assert row.status is Status.TIMEOUT


def test_progress_names_the_row_and_its_figures() -> None:
    assert progress(record("compile")) == "gpt2 compile ok: peak 100.0 MB, 1.000 ms"
    failed = RowRecord(record("compile").key, Status.ERROR, "exit status 9")
    assert progress(failed) == "gpt2 compile error: exit status 9"
