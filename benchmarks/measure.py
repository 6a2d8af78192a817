"""What a step costs: from a callable and its batches to peak bytes, bytes held at the start, seconds and the loss.

Enters: a runnable (what `ways.prepare` gives), the model that owns the parameters, a function from a seed to a batch.
Leaves: a `StepFigures`. A step is `loss = model(**batch).loss; loss.backward()` with `.grad` None at its start; the
output object is dropped at once unless the logits are asked for. Steps one and two warm up; step three is measured on
a batch no step before it has seen.

On the CPU the peak is exact: the running sum of the profiler's allocation events, from zero at the start of the step.
What was allocated before and is freed within counts as negative, as it does for a real allocator.
On CUDA it is `max_memory_allocated` above what was allocated at the start.
Not guaranteed: memory taken outside torch's allocator (scratch space inside oneDNN, cuDNN's own handles), and steady
wall-clock times on a shared machine.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.configs import Batch

MEMORY_EVENT = "[memory]"
WARM_UP_STEPS = 2
TIMED_STEPS = 5
MEASURED_SEED = 1000

Runnable = Callable[..., Any]


@dataclass(frozen=True)
class MemoryEvent:
    """One allocation (positive) or release (negative) and when it happened."""

    time_ns: int
    size_bytes: int


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one step: held when it starts, the most above that, and what of it is left at the end."""

    start_bytes: int
    peak_bytes: int
    left_bytes: int


@dataclass(frozen=True)
class StepFigures:
    """All figures of one run."""

    memory: StepMemory
    compile_seconds: float
    step_seconds: float
    loss: float


def measure(
    run: Runnable,
    model: nn.Module,
    draw: Callable[[int], Batch],
    *,
    keep_logits: bool = False,
    after_first_forward: Callable[[], None] | None = None,
) -> StepFigures:
    """Warm up, measure the memory of step three, then time a few steps more.

    `after_first_forward` is called once, when forward has run for the first time and backward never.
    """
    device = next(model.parameters()).device
    started = time.perf_counter()
    step(run, draw(0), 0, keep_logits=keep_logits, after_forward=after_first_forward)
    synchronize(device)
    compile_seconds = time.perf_counter() - started
    memory, loss = unseen_step_memory(run, model, draw, keep_logits=keep_logits)
    batch = draw(MEASURED_SEED)
    seconds = [_timed_step(run, model, batch, keep_logits) for _ in range(TIMED_STEPS)]
    return StepFigures(memory, compile_seconds, statistics.median(seconds), loss)


def step(
    run: Runnable,
    batch: Batch,
    seed: int,
    *,
    keep_logits: bool = False,
    after_forward: Callable[[], None] | None = None,
) -> torch.Tensor:
    """One training step without an optimizer; the seed fixes its dropout masks."""
    torch.manual_seed(seed)
    output = run(**batch)
    loss = output.loss
    if not keep_logits:
        del output
    if after_forward is not None:
        after_forward()
    loss.backward()
    detached: torch.Tensor = loss.detach()
    return detached


def unseen_step_memory(
    run: Runnable, model: nn.Module, draw: Callable[[int], Batch], *, keep_logits: bool = False
) -> tuple[StepMemory, float]:
    """The memory and the loss of a step on a batch never seen; step one was made already, the rest of the warm-up is made first."""
    for seed in range(1, WARM_UP_STEPS):
        model.zero_grad(set_to_none=True)
        step(run, draw(seed), seed, keep_logits=keep_logits)
    model.zero_grad(set_to_none=True)
    batch = draw(MEASURED_SEED)
    device = next(model.parameters()).device
    return step_memory(lambda: step(run, batch, MEASURED_SEED, keep_logits=keep_logits), device)


def step_memory(one_step: Callable[[], torch.Tensor], device: torch.device) -> tuple[StepMemory, float]:
    """The memory of one step and its loss."""
    gc.collect()
    if device.type == "cuda":
        return _cuda_step_memory(one_step)
    start_bytes = live_storage_bytes(device)
    with profile(profile_memory=True, activities=[ProfilerActivity.CPU]) as profiler:
        loss = one_step()
    peak_bytes, left_bytes = running_peak(memory_events(profiler))
    return StepMemory(start_bytes, peak_bytes, left_bytes), loss.item()


def memory_events(profiler: profile) -> list[MemoryEvent]:
    """The allocator's events on the CPU, in the order of time."""
    results = profiler.profiler
    if results is None or results.kineto_results is None:
        raise RuntimeError("profiler: wanted its recorded events, got none; read them after the profiler has ended")
    # torch's own type of these events leaves out what they carry.
    recorded: list[Any] = results.kineto_results.events()
    events = [
        MemoryEvent(event.start_ns(), event.nbytes())
        for event in recorded
        if event.name() == MEMORY_EVENT and event.device_type() == DeviceType.CPU
    ]
    if not events:
        raise RuntimeError("profiler: wanted memory events, got none; run it with profile_memory=True")
    return sorted(events, key=lambda event: event.time_ns)


def running_peak(events: Iterable[MemoryEvent]) -> tuple[int, int]:
    """The most the running sum reaches (zero where it never rises above its start), and where it ends."""
    running = peak = 0
    for event in events:
        running += event.size_bytes
        peak = max(peak, running)
    return peak, running


def live_storage_bytes(device: torch.device) -> int:
    """Bytes of all tensor storages on the device, each once, that Python can reach.

    Tensors of other types than torch's own two are wrappers or fakes of the compiler, and hold nothing themselves.
    """
    sizes = {}
    for candidate in gc.get_objects():
        if type(candidate) in (torch.Tensor, nn.Parameter) and candidate.device.type == device.type:
            storage = candidate.untyped_storage()
            sizes[storage._cdata] = storage.nbytes()
    return sum(sizes.values())


def synchronize(device: torch.device) -> None:
    """Wait for the device where work runs beside Python."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cuda_step_memory(one_step: Callable[[], torch.Tensor]) -> tuple[StepMemory, float]:
    torch.cuda.synchronize()
    start_bytes = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loss = one_step()
    torch.cuda.synchronize()
    peak_bytes = torch.cuda.max_memory_allocated() - start_bytes
    return StepMemory(start_bytes, peak_bytes, torch.cuda.memory_allocated() - start_bytes), loss.item()


def _timed_step(run: Runnable, model: nn.Module, batch: Batch, keep_logits: bool) -> float:
    model.zero_grad(set_to_none=True)
    device = next(model.parameters()).device
    if device.type == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        step(run, batch, MEASURED_SEED, keep_logits=keep_logits)
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / 1e3
    started = time.perf_counter()
    step(run, batch, MEASURED_SEED, keep_logits=keep_logits)
    return time.perf_counter() - started
