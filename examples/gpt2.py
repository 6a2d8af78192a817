"""One way of training a small GPT-2 on the English of Python's own manual: its peak, its times and its last loss.

A `Setting` and a way enter, `Figures` leave; `survey` asks graphckpt what a step would need. The same setting gives the same
weights and batches each time. The peak is what forward and backward of one step allocate above what is there at its start
(weights, optimizer state, batch): what `activation_budget` bounds. A process compiles one way: records and compilations are
those of the process.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pydoc_data.topics import topics
from typing import Any

import torch
import transformers
from torch.profiler import ProfilerActivity, profile

import graphckpt
from graphckpt.report.record import Record

VOCABULARY = 256  # bytes
WIDTH, HEADS, BATCH, SEQUENCE = 256, 4, 4, 256
LEARNING_RATE = 1e-3
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
    options: dict[str, Any] = {"policy": "smallest"} if way is Way.SURVEY else {"activation_budget": budget_bytes}
    if way in (Way.SURVEY, Way.GRAPHCKPT):
        return torch.compile(model, backend="graphckpt", options=options)
    if way is Way.CHECKPOINTED:
        model.activation_checkpointing_enable()
    eager: Runnable = model
    return eager if way is Way.EAGER else torch.compile(eager)


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
    """The loss of one step without its optimizer. The output object is dropped before backward, and the logits with it."""
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
        raise RuntimeError(
            f"wanted the model as one training graph, got {len(records)}: no record speaks for the whole step"
        )
    return records[0]
