"""Train a small GPT-2 on the English of Python's own manual, without a budget and inside three.

    python -m examples.train_gpt2
    python -m examples.train_gpt2 --layers 4 --steps 20

Leaves one table: eager, torch.compile, torch.compile with checkpointing of every block, and graphckpt at three budgets; in
each the peak of a step as it was measured and as graphckpt predicted it, modelled and measured time, and the loss. Each row
trains in a process of its own, on the CPU, from the same weights and with the same batches; rows share the machine code of
equal kernels and nothing else. Exits with 1 if a budget was not kept or the compiled rows do not learn the same.
Not guaranteed: step times on a machine that does something else too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from examples.gpt2 import BATCH, MEASURED_STEP, SEQUENCE, Figures, Setting, Survey, Way, survey, train

ROOT = Path(__file__).resolve().parents[1]
BUDGET_SHARES = (0.85, 0.65)
LOSS_TOLERANCE_RATIO = 1e-4


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    way: Way
    figures: Figures
    budget_bytes: int | None = None

    @property
    def name(self) -> str:
        """What stands at its left."""
        return row_name(self.way, self.budget_bytes)


class RowFailed(RuntimeError):
    """A row's process ended without figures; what it said comes along."""


def row_name(way: Way, budget_bytes: int | None) -> str:
    """A row in words."""
    names = {
        Way.SURVEY: "what the step would need",
        Way.COMPILE: "torch.compile",
        Way.CHECKPOINTED: "torch.compile + HF checkpointing",
    }
    return f"graphckpt, budget {megabytes(budget_bytes)} MB" if budget_bytes is not None else names.get(way, str(way))


def megabytes(size_bytes: int) -> str:
    """Bytes in units of 1e6, without the unit."""
    return f"{size_bytes / 1e6:.1f}"


def run_row(setting: Setting, way: Way, budget_bytes: int | None, environment: Mapping[str, str]) -> dict[str, Any]:
    """One row in a process of its own, so that it sees neither the memory nor the compilations of the others."""
    command = [sys.executable, "-m", "examples.train_gpt2", "--row", way]
    command += ["--layers", str(setting.layers), "--steps", str(setting.steps)]
    if budget_bytes is not None:
        command += ["--budget-bytes", str(budget_bytes)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RowFailed(f"{done.stderr}row {row_name(way, budget_bytes)!r} failed with exit status {done.returncode}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def row_environment(cache_folder: str) -> dict[str, str]:
    """The environment of a row: no network, none of our options from outside; compiled kernels are shared, graphs are not."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRAPHCKPT_")}
    return {
        # Threads that wait spinning would take the cores from whoever else works, and this row from itself.
        "OMP_WAIT_POLICY": "PASSIVE",
        **kept,
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": cache_folder,
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",
        "TORCHINDUCTOR_AUTOGRAD_CACHE": "0",
    }


def budgets_bytes(found: Survey) -> tuple[int, ...]:
    """The budgets to train in, largest first: shares of what the step would need, and the least it can be given."""
    shares = (int(share * found.unbudgeted_peak_bytes) for share in BUDGET_SHARES)
    return tuple(sorted({max(share, found.smallest_peak_bytes) for share in (*shares, 0)}, reverse=True))


def run_all(setting: Setting) -> tuple[Survey, list[Row]]:
    """The survey and every row, with a line of progress for each on the standard error."""
    last = 4 + len(BUDGET_SHARES) + 1

    with tempfile.TemporaryDirectory(prefix="train-gpt2-") as cache_folder:
        environment = row_environment(cache_folder)

        def run(number: int, way: Way, budget_bytes: int | None = None) -> dict[str, Any]:
            print(f"[{number}/{last}] {row_name(way, budget_bytes)} ...", end="", file=sys.stderr, flush=True)
            started = time.perf_counter()
            figures = run_row(setting, way, budget_bytes, environment)
            print(f" {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
            return figures

        found = Survey(**run(1, Way.SURVEY))
        ways = (Way.EAGER, Way.COMPILE, Way.CHECKPOINTED)
        rows = [Row(way, Figures(**run(number, way))) for number, way in enumerate(ways, start=2)]
        for number, budget_bytes in enumerate(budgets_bytes(found), start=5):
            rows.append(Row(Way.GRAPHCKPT, Figures(**run(number, Way.GRAPHCKPT, budget_bytes)), budget_bytes))
    return found, rows


def failures(rows: Sequence[Row]) -> list[str]:
    """A sentence for every claim that did not hold."""
    reference = next(row.figures.loss for row in rows if row.way is Way.COMPILE)
    sentences = []
    for row in rows:
        difference_ratio = loss_difference_ratio(row, reference)
        if row.way is not Way.EAGER and not difference_ratio <= LOSS_TOLERANCE_RATIO:
            sentences.append(
                f"{row.name}: ends at loss {row.figures.loss:.6f} and torch.compile at {reference:.6f}; "
                f"wanted a relative difference of at most {LOSS_TOLERANCE_RATIO:.0e}, got {difference_ratio:.1e}"
            )
        if row.budget_bytes is not None and row.figures.peak_bytes > row.budget_bytes:
            over_bytes = row.figures.peak_bytes - row.budget_bytes
            sentences.append(
                f"{row.name}: the step took {row.figures.peak_bytes} bytes of {row.budget_bytes}, {over_bytes} too many"
            )
    return sentences


def loss_difference_ratio(row: Row, reference: float) -> float:
    """How far the row's last loss is from the reference, relative to it."""
    return abs(row.figures.loss - reference) / abs(reference)


def render(setting: Setting, found: Survey, rows: Sequence[Row]) -> str:
    """The table below what it was measured on, and two lines of what it shows."""
    head = ("", "measured peak", "predicted peak", "modelled time", "median step", f"loss at step {setting.steps}")
    lines = [head, *(_cells(row, found) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    table = [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
    table.insert(1, "-" * len(table[0]))
    setup = (
        f"GPT-2 of {setting.layers} layers on bytes of Python's manual, batch {BATCH} x {SEQUENCE}, AdamW, "
        f"{setting.steps} steps, {torch.get_num_threads()} threads.\n"
        f"A step needs {megabytes(found.unbudgeted_peak_bytes)} MB above weights, optimizer state and batch; "
        f"the smallest plan {megabytes(found.smallest_peak_bytes)} MB. MB: 1e6 bytes.\n"
        "Modelled time compares plans by arithmetic and bytes on a reference device; it is not this machine's clock.\n"
    )
    return "\n".join([setup, *table, "", *_conclusion(found, rows)])


def _cells(row: Row, found: Survey) -> tuple[str, ...]:
    figures = row.figures
    predicted = "—" if figures.predicted_peak_bytes is None else f"{megabytes(figures.predicted_peak_bytes)} MB"
    time_us = found.unbudgeted_time_us if row.way is Way.COMPILE else figures.modelled_time_us
    modelled = "—" if time_us is None else f"{time_us:.0f} us ({_percent(time_us / found.unbudgeted_time_us - 1)})"
    measured = f"{megabytes(figures.peak_bytes)} MB"
    return (row.name, measured, predicted, modelled, f"{figures.step_seconds * 1e3:.0f} ms", f"{figures.loss:.5f}")


def _conclusion(found: Survey, rows: Sequence[Row]) -> tuple[str, str]:
    of_way = {row.way: row for row in rows}
    compiled, smallest = of_way[Way.COMPILE].figures, of_way[Way.GRAPHCKPT].figures
    time_us = smallest.modelled_time_us or 0.0
    budgeted = [row.figures for row in rows if row.way is Way.GRAPHCKPT]
    miss = max(abs((figures.predicted_peak_bytes or 0) / figures.peak_bytes - 1) for figures in budgeted)
    differences = [loss_difference_ratio(row, compiled.loss) for row in rows if row.way is not Way.EAGER]
    return (
        f"graphckpt trains in {megabytes(smallest.peak_bytes)} MB what takes torch.compile {megabytes(compiled.peak_bytes)} MB "
        f"({_percent(smallest.peak_bytes / compiled.peak_bytes - 1)}) and HF checkpointing "
        f"{megabytes(of_way[Way.CHECKPOINTED].figures.peak_bytes)} MB, for {_percent(time_us / found.unbudgeted_time_us - 1)} "
        "modelled time.",
        f"Peaks predicted before the first step are within {100 * miss:.2f} % of the measured ones, the last losses of the "
        f"compiled rows within {max(differences):.0e} of torch.compile's, relative.",
    )


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %"


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"wanted a whole number of at least {least}, got {text!r}")
        return int(text)

    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all rows and print the table, or with --row one row as JSON. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.train_gpt2", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--steps", type=_at_least(MEASURED_STEP + 2), default=12, help="training steps a row (default: 12)"
    )
    parser.add_argument("--layers", type=_at_least(1), default=3, help="layers of the GPT-2 (default: 3)")
    parser.add_argument("--row", type=Way, choices=list(Way), help="run this row alone and print its figures as JSON")
    parser.add_argument("--budget-bytes", type=_at_least(1), help="activation budget of --row graphckpt")
    chosen = parser.parse_args(arguments)
    if (chosen.row is Way.GRAPHCKPT) != (chosen.budget_bytes is not None):
        parser.error("--row graphckpt and --budget-bytes go together")
    setting = Setting(chosen.layers, chosen.steps)
    if chosen.row is not None:
        alone = survey(setting) if chosen.row is Way.SURVEY else train(setting, chosen.row, chosen.budget_bytes)
        print(json.dumps(asdict(alone)))
        return 0
    try:
        found, rows = run_all(setting)
    except RowFailed as failed:
        print(f"\n{failed}", file=sys.stderr)
        return 1
    print(render(setting, found, rows))
    broken = failures(rows)
    for sentence in broken:
        print(f"train_gpt2: {sentence}.", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
