"""Train a small GPT-2 on the English of Python's own manual, without a budget and inside three.

    python -m examples.train_gpt2
    python -m examples.train_gpt2 --layers 3 --steps 8

Leaves one table: eager, torch.compile, torch.compile with checkpointing of every block, and graphckpt at three budgets; in
each the peak of a step as it was measured and as graphckpt predicted it, modelled and measured time, and the loss. Each row
trains in a process of its own, on the CPU, from the same weights and with the same batches; rows share the machine code of
equal kernels and nothing else. Exits with 1 if a budget was not kept or the compiled rows do not learn the same.

The peak is what forward and backward of one step allocate above what is there at its start (weights, optimizer state, batch):
what `activation_budget` bounds. Not guaranteed: step times on a machine that does something else too.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
import transformers
from torch.profiler import ProfilerActivity, profile

import graphckpt
from graphckpt.report.record import Record

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = 256  # bytes
WIDTH, HEADS, BATCH, SEQUENCE = 256, 4, 4, 256
LEARNING_RATE = 1e-3
BUDGET_SHARES = (0.85, 0.65)
LOSS_TOLERANCE_RATIO = 1e-4
# Steps before it compile and warm up, steps after it are timed.
MEASURED_STEP = 2

Batch = dict[str, torch.Tensor]
Runnable = Callable[..., Any]


class Way(StrEnum):
    """How the model is run; `SURVEY` trains nothing, it asks graphckpt what the step would need."""

    SURVEY = "survey"
    EAGER = "eager"
    COMPILE = "compile"
    CHECKPOINTED = "checkpointed"
    GRAPHCKPT = "graphckpt"


@dataclass(frozen=True, slots=True)
class Setting:
    """What all rows have in common."""

    layers: int
    steps: int


@dataclass(frozen=True, slots=True)
class Survey:
    """What one step needs without a budget, the least it can be given, and its modelled time without a budget."""

    unbudgeted_peak_bytes: int
    smallest_peak_bytes: int
    unbudgeted_time_us: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What one row measured; predictions are graphckpt's alone."""

    peak_bytes: int
    step_seconds: float
    loss: float
    predicted_peak_bytes: int | None = None
    modelled_time_us: float | None = None


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


# ---- one row, in its own process


def manual_text() -> bytes:
    """The topics of Python's manual, as they come with every Python."""
    return "\n".join(text for _, text in sorted(topics.items())).encode()


def draw_batch(text: bytes, step: int) -> Batch:
    """Windows of the text, the same for every row. The labels are the inputs: GPT-2 shifts them to the next byte itself."""
    generator = torch.Generator().manual_seed(step)
    starts = torch.randint(len(text) - SEQUENCE + 1, (BATCH,), generator=generator).tolist()
    tokens = torch.tensor([list(text[start : start + SEQUENCE]) for start in starts])
    return {"input_ids": tokens, "labels": tokens}


def build_model(layers: int) -> Any:
    """A GPT-2 over bytes with the same random weights each time."""
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    # The config classes do not declare all they take.
    undeclared: dict[str, Any] = {"attn_implementation": "eager", "use_cache": False}
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=SEQUENCE,
        n_embd=WIDTH,
        n_head=HEADS,
        n_layer=layers,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **undeclared,
    )
    model: Any = transformers.GPT2LMHeadModel(config)
    # Without it the loss function logs a warning inside forward, and the log call breaks the graph.
    model.loss_type = "ForCausalLM"
    model.train()
    return model


def runnable(model: Any, way: Way, budget_bytes: int | None) -> Runnable:
    """The callable that runs the model this way; it compiles on its first call."""
    if way is Way.EAGER:
        return model
    if way is Way.SURVEY:
        return torch.compile(model, backend="graphckpt", options={"policy": "smallest"})
    if way is Way.GRAPHCKPT:
        return torch.compile(model, backend="graphckpt", options={"activation_budget": budget_bytes})
    if way is Way.CHECKPOINTED:
        model.activation_checkpointing_enable()
    return torch.compile(model)


def survey(setting: Setting) -> Survey:
    """Plan the step for the least memory and read its record."""
    runnable(build_model(setting.layers), Way.SURVEY, None)(**draw_batch(manual_text(), 0))
    record = only_record()
    smallest_bytes = record.smallest_peak_bytes or record.predicted_peak_bytes
    return Survey(record.unbudgeted_peak_bytes, smallest_bytes, record.unbudgeted_time_us)


def train(setting: Setting, way: Way, budget_bytes: int | None) -> Figures:
    """Train with AdamW for the steps of the setting; the last loss is the row's."""
    text = manual_text()
    model = build_model(setting.layers)
    run = runnable(model, way, budget_bytes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    peak_bytes, loss, seconds = 0, 0.0, []
    for step in range(setting.steps):
        batch = draw_batch(text, step)
        started = time.perf_counter()
        if step == MEASURED_STEP:
            peak_bytes, loss = measured_peak(partial(forward_backward, run, batch))
        else:
            loss = forward_backward(run, batch)
        optimizer.step()
        optimizer.zero_grad()
        if step > MEASURED_STEP:
            seconds.append(time.perf_counter() - started)
    median_seconds = statistics.median(seconds)
    if way is not Way.GRAPHCKPT:
        return Figures(peak_bytes, median_seconds, loss)
    record = only_record()
    return Figures(peak_bytes, median_seconds, loss, record.predicted_peak_bytes, record.modelled_time_us)


def forward_backward(run: Runnable, batch: Batch) -> float:
    """One step without its optimizer. The output object is dropped before backward, and the logits with it."""
    loss = run(**batch).loss
    loss.backward()
    return float(loss.item())


def measured_peak(one_step: Callable[[], float]) -> tuple[int, float]:
    """The most a step allocates above its start, to the byte: the running sum of the allocator's events; and its loss."""
    gc.collect()
    with profile(profile_memory=True, activities=[ProfilerActivity.CPU]) as profiler:
        loss = one_step()
    recorded: Any = profiler.profiler
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    if not events:
        raise RuntimeError("the profiler recorded no memory events: the peak of the step is unknown")
    return highest_sum(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())), loss


def highest_sum(sizes_bytes: Iterable[int]) -> int:
    """The most a running sum reaches, from zero."""
    running = highest = 0
    for size_bytes in sizes_bytes:
        running += size_bytes
        highest = max(highest, running)
    return highest


def only_record() -> Record:
    """The record of the one graph that the model is."""
    records = graphckpt.reports()
    if len(records) != 1:
        raise RuntimeError(f"wanted the model as one training graph, got {len(records)}: no record speaks for the whole step")
    return records[0]


# ---- all rows, and what they show


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
    """The environment of a row: no network, none of our options from outside, compiled kernels shared and graphs not."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRAPHCKPT_")}
    return {
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
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))])
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
        f"Its peaks were known before the first step ran, to {miss:.2%}, and all compiled rows end at the same loss "
        f"(within {max(differences):.0e} of it).",
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
    parser.add_argument("--steps", type=_at_least(MEASURED_STEP + 2), default=12, help="training steps a row (default: 12)")
    parser.add_argument("--layers", type=_at_least(1), default=4, help="layers of the GPT-2 (default: 4)")
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
