"""One row of the benchmark of attention: time, arithmetic a second, memory and error of one way on one shape in one direction.

Flops by the usual convention: 4 * B * H * S^2 * D forward, half if causal, 2.5 times as many backward. Time: median of runs between
CUDA events, with the L2 cache overwritten before each; None without a GPU, where there is none to tell. Memory: the peak of
allocated bytes above what is there when a direction begins. Error: relative, in the L2 norm, of out (forward) and of the gradient
of q (backward), against fp64, on one batch and two heads.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.attention_ways import Function, function_of, why_not
from graphckpt.kernels.attention import reference
from graphckpt.kernels.attention.meaning import Attention, Band

RUNS = 20
CACHE_BYTES = 256 * 2**20
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
FORWARD, BACKWARD = "forward", "backward"


@dataclass(frozen=True)
class Shape:
    """A call: B batches, H heads, S queries and keys, heads of D."""

    dtype: str
    batch: int
    heads: int
    length: int
    width: int
    causal: bool

    @property
    def text(self) -> str:
        """As tables show it."""
        return f"{self.dtype} B{self.batch} H{self.heads} S{self.length} D{self.width} {'causal' if self.causal else 'full'}"


@dataclass(frozen=True)
class Row:
    """One measurement. What was not measured is None; ``reason`` says why a way did not run."""

    commit: str
    device: str
    torch: str
    way: str
    direction: str
    shape: Shape
    time_ms: float | None = None
    tflops: float | None = None
    share_of_matmul: float | None = None
    peak_bytes: int | None = None
    error: float | None = None
    reason: str = ""


def flops(shape: Shape, direction: str) -> float:
    """Of one call, by the convention above."""
    forward = 4 * shape.batch * shape.heads * shape.length**2 * shape.width * (0.5 if shape.causal else 1.0)
    return forward * (2.5 if direction == BACKWARD else 1.0)


def device_name(device: torch.device) -> str:
    """The GPU's name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def matmul_tflops(device: torch.device, dtype: torch.dtype, size: int = 8192) -> float | None:
    """What this machine's own product of two matrices reaches; None without a GPU."""
    if device.type != "cuda":
        return None
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / median_ms(lambda: a @ b) / 1e9


def measure(commit: str, way: str, shape: Shape, device: torch.device, matmul: float | None) -> list[Row]:
    """Both directions of one way."""
    here = (commit, device_name(device), torch.__version__, way)
    lacking = why_not(way, device)
    if lacking:
        return [Row(*here, direction, shape, reason=lacking) for direction in (FORWARD, BACKWARD)]
    try:
        function = function_of(way, shape.causal)
        errors = _errors(function, shape, device)
        peaks, times = _peaks(function, shape, device), _times(function, shape, device)
    except (RuntimeError, ValueError, torch.OutOfMemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        return [Row(*here, direction, shape, reason=reason) for direction in (FORWARD, BACKWARD)]
    rows = []
    for place, direction in enumerate((FORWARD, BACKWARD)):
        time = None if times is None else times[place]
        rate = None if time is None else flops(shape, direction) / time / 1e9
        share = None if rate is None or matmul is None else rate / matmul
        rows.append(Row(*here, direction, shape, time, rate, share, peaks[place], errors[place]))
    return rows


def _inputs(shape: Shape, device: torch.device, batch: int, heads: int) -> tuple[list[Tensor], Tensor]:
    drawn = torch.Generator(device).manual_seed(0)
    # Heads last in memory, as projections write them.
    size = (batch, shape.length, heads, shape.width)
    made = [torch.randn(size, generator=drawn, device=device).to(DTYPES[shape.dtype]).transpose(1, 2) for _ in range(4)]
    return [tensor.requires_grad_() for tensor in made[:3]], made[3]


def _errors(function: Function, shape: Shape, device: torch.device) -> tuple[float, float]:
    leaves, grad = _inputs(shape, device, 1, 2)
    out = function(*leaves)
    mine = (out, torch.autograd.grad(out, leaves, grad)[0])
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    call = Attention(
        doubles[0], doubles[1], doubles[2], shape.width**-0.5, band=Band(right=0) if shape.causal else Band()
    )
    exact = reference.attend(call)[0]
    true = (exact, torch.autograd.grad(exact, doubles, grad.double())[0])
    found = [((a.double() - b).norm() / b.norm()).item() for a, b in zip(mine, true, strict=True)]
    return found[0], found[1]


def _peaks(function: Function, shape: Shape, device: torch.device) -> tuple[int, int]:
    leaves, grad = _inputs(shape, device, shape.batch, shape.heads)
    if device.type != "cuda":
        return _peaks_by_events(function, leaves, grad)
    peaks = []
    out = None
    for backward in (False, True):
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        if backward:
            assert out is not None
            torch.autograd.grad(out, leaves, grad)
        else:
            out = function(*leaves)
        torch.cuda.synchronize(device)
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    return peaks[0], peaks[1]


def _peaks_by_events(function: Function, leaves: list[Tensor], grad: Tensor) -> tuple[int, int]:
    peaks = []
    out = None
    for backward in (False, True):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as watched:
            if backward:
                assert out is not None
                torch.autograd.grad(out, leaves, grad)
            else:
                out = function(*leaves)
        live = most = 0
        for event in watched.profiler.kineto_results.events():
            if event.name() == "[memory]":
                live += event.nbytes()
                most = max(most, live)
        peaks.append(most)
    return peaks[0], peaks[1]


def _times(function: Function, shape: Shape, device: torch.device) -> tuple[float, float] | None:
    if device.type != "cuda":
        return None
    leaves, grad = _inputs(shape, device, shape.batch, shape.heads)
    out = function(*leaves)
    forward = median_ms(lambda: function(*leaves))
    return forward, median_ms(lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True))


def median_ms(work: Callable[[], object]) -> float:
    """Median milliseconds of some work on the GPU, each time with a cold L2 cache."""
    flushed = torch.empty(CACHE_BYTES, dtype=torch.int8, device="cuda")
    for _ in range(3):
        work()
    times = []
    for _ in range(RUNS):
        flushed.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)
