"""Run a suite: one process a row, resumable, one line of JSON a row.

    python -m benchmarks.rig --suite peers --out benchmarks/rows/peers.jsonl --families gpt2 llama --attentions eager

Enters: a suite's name and the file of rows. Leaves: the file with the rows it lacked. A row that is there already,
of the same config, way, measurement and commit, is not run again; failed ones are with `--retry-failed`. Nor is a
peer's row that stands in from another commit (`judge` says when), unless the suite is after its seconds.
Every row compiles into an empty cache folder of its own, so that compile seconds are those of a first compilation.
Not guaranteed: rows of one commit when the working tree changes while a suite runs; the commit is read at its start.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.commit import ROOT, current_commit
from benchmarks.configs import FAMILIES, Family, ModelConfig
from benchmarks.judge import scaled_time_us, standing
from benchmarks.record import Host, RowRecord, Status, append_row, from_line, read_rows
from benchmarks.row import RowSpec, describe_host
from benchmarks.suites import SUITES, Scope, Suite
from benchmarks.table import failing, render

ROW_TIMEOUT_SECONDS = 900.0
FAILED = (Status.ERROR, Status.TIMEOUT)

RunRow = Callable[[RowSpec, str], RowRecord]
HostOf = Callable[[ModelConfig], Host]


def run_suite(
    suite: Suite,
    scope: Scope,
    out: Path,
    commit: str,
    run: RunRow,
    *,
    retry_failed: bool = False,
    host_of: HostOf = describe_host,
) -> int:
    """Run the rows the file lacks, asking the suite again after each. Returns how many were run."""
    # Rows that failed in this very run are not tried again in it.
    found = [row for row in read_rows(out) if not (retry_failed and row.key.commit == commit and row.status in FAILED)]
    rows = known_rows(found, scope, commit, host_of)
    count = 0
    while True:
        specs = suite(scope, rows)
        own = {row.key for row in rows if row.key.commit == commit}
        known = {replace(row.key, commit=commit) for row in rows}
        missing = [spec for spec in specs if spec.key(commit) not in (own if spec.own_commit else known)]
        if not missing:
            return count
        started = time.perf_counter()
        record = run(missing[0], commit)
        append_row(out, record)
        rows.append(record)
        count += 1
        position = f"[{len(specs) - len(missing) + 1}/{len(specs)}]"
        print(position, progress(record), f"({time.perf_counter() - started:.0f} s)", flush=True)


def known_rows(rows: Sequence[RowRecord], scope: Scope, commit: str, host_of: HostOf) -> list[RowRecord]:
    """The rows of this commit, and those of peers in scope that stand in at it."""
    configs = {config.text(): config for config in scope.configs()}

    def stands(row: RowRecord) -> bool:
        if row.key.commit == commit:
            return True
        config = configs.get(row.key.config)
        return config is not None and standing(replace(row.key, commit=commit), host_of(config), rows) is row

    return [row for row in rows if stands(row)]


def progress(record: RowRecord) -> str:
    """One line on one row."""
    head = f"{record.key.config} {record.key.way} {record.status}"
    if record.step is not None:
        return f"{head}: peak {record.step.peak_bytes / 1e6:.1f} MB, {scaled_time_us(record.step) / 1e3:.3f} ms"
    if record.gradients is not None:
        return f"{head}: gradients differ by {record.gradients.difference_ratio:.1e}"
    if record.spot is not None:
        spot = record.spot
        peak = f"peak {spot.peak_bytes / 1e6:.1f} of {spot.budget_bytes / 1e6:.1f} MB"
        return f"{head}: {peak}, gradients differ by {spot.difference_ratio:.1e}"
    return f"{head}: {record.reason}"


def process_runner(timeout_seconds: float) -> RunRow:
    """Runs a row in a process of its own; a process that dies or hangs becomes a record too."""

    def run(spec: RowSpec, commit: str) -> RowRecord:
        with tempfile.TemporaryDirectory(prefix="benchmarks-cache-") as cache:
            return _run_process(spec, commit, timeout_seconds, Path(cache))

    return run


def _run_process(spec: RowSpec, commit: str, timeout_seconds: float, cache: Path) -> RowRecord:
    key = spec.key(commit)
    command = [sys.executable, "-m", "benchmarks.row", "--config", key.config, "--way", key.way]
    command += ["--measurement", key.measurement, "--commit", commit, "--json"]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Its own group: Inductor's compile workers must go with it.
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return RowRecord(key, Status.TIMEOUT, f"no record after {timeout_seconds:.0f} s")
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if process.returncode or not lines:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        return RowRecord(key, Status.ERROR, f"exit status {process.returncode}: {last}")
    return from_line(lines[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a suite and print its table; exits with 1 when a row of it does not count."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rig", description=__doc__.splitlines()[0])
    parser.add_argument("--suite", required=True, choices=sorted(SUITES))
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--families", nargs="+", type=Family, default=list(FAMILIES), choices=list(Family))
    parser.add_argument("--attentions", nargs="+", default=["eager", "sdpa"], choices=["eager", "sdpa"])
    parser.add_argument("--layers", type=int, default=None, help="default: the family's own count")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--row-timeout", type=float, default=ROW_TIMEOUT_SECONDS, help="seconds a row may take")
    parser.add_argument("--commit", default=None, help="the commit to write down (default: asked of git)")
    parser.add_argument("--retry-failed", action="store_true", help="run rows again that ended in error or timeout")
    chosen = parser.parse_args(arguments)
    scope = Scope(tuple(chosen.families), tuple(chosen.attentions), chosen.layers, chosen.device)
    commit = chosen.commit or current_commit()
    runner = process_runner(chosen.row_timeout)
    run_suite(SUITES[chosen.suite], scope, chosen.out, commit, runner, retry_failed=chosen.retry_failed)
    rows = read_rows(chosen.out)
    shown = [row for row in rows if row.key.commit == commit]
    print(render(shown, rows))
    return 1 if failing(shown, rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
