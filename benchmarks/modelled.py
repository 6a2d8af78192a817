"""Modelled time: from the kernels Inductor schedules to seconds on a device that need not be here.

Enters: every compilation between `record_kernels()` and its end. Leaves: one `Kernel` for every node of Inductor's
schedule after fusion, and the roofline time of a list of them: the sum of max(flops / F, bytes / B).

The definition, which reproduces the published rows: flops are Inductor's `estimate_flops` (matmuls, convolutions and
attention; none for pointwise kernels), bytes its `get_read_write_buffers_sizes`: each buffer a kernel reads or writes,
once, at most its whole size. Nodes that launch nothing (views that are joined, results of a multi-output kernel) carry
zero of both and so weigh nothing; they are left out of the count of kernels.

Not guaranteed: kernels outside compiled graphs (after a graph break, in eager mode) are not seen, and workspaces
inside aten kernels are not priced. A graph that is compiled twice is counted twice; rows compare the count of
compilations with that of graphs. Settings of torch are bound to a thread, so a backward that autograd's own thread
compiles is not seen either, and the row fails for want of it. Dry lowerings must turn the hook off around themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
import torch._inductor.config
from torch._inductor.virtualized import V


class Phase(StrEnum):
    """Which of a graph's two halves a kernel belongs to. A graph that needs no backward is all forward."""

    FORWARD = "forward"
    BACKWARD = "backward"


@dataclass(frozen=True)
class Kernel:
    """One launch: floating point operations and bytes moved to and from memory."""

    phase: Phase
    flops: int
    moved_bytes: int


@dataclass(frozen=True)
class DeviceSpec:
    """The two ceilings of a roofline."""

    name: str
    flops_per_second: float
    bytes_per_second: float


H100 = DeviceSpec("H100", flops_per_second=600e12, bytes_per_second=3e12)
# Models this small are all bytes on an H100; a twentieth of its flops brings matmuls back into the comparison.
SCALED = DeviceSpec("scaled", flops_per_second=30e12, bytes_per_second=3e12)


@dataclass
class KernelLog:
    """The kernels of every graph compiled while it listens."""

    kernels: list[Kernel] = field(default_factory=list)
    compilations: list[Phase] = field(default_factory=list)

    def add_schedule(self, nodes: Sequence[Any]) -> Sequence[Any]:
        """Inductor's hook: log the schedule, hand it back as it was."""
        phase = Phase.BACKWARD if V.graph.is_backward else Phase.FORWARD
        self.compilations.append(phase)
        for node in nodes:
            flops, moved_bytes = node.estimate_flops() or 0, node.get_read_write_buffers_sizes()
            if flops or moved_bytes:
                self.kernels.append(Kernel(phase, flops, moved_bytes))
        return nodes

    def of(self, phase: Phase) -> list[Kernel]:
        """The kernels of one half."""
        return [kernel for kernel in self.kernels if kernel.phase is phase]


@contextmanager
def record_kernels() -> Iterator[KernelLog]:
    """Log every real compilation. Turns Inductor's and AOTAutograd's caches off: a cache hit schedules nothing."""
    log = KernelLog()
    with torch._inductor.config.patch(_post_fusion_custom_pass=log.add_schedule, force_disable_caches=True):
        yield log


def modelled_time_us(kernels: Iterable[Kernel], spec: DeviceSpec) -> float:
    """The roofline time of these kernels, one after the other, in microseconds."""
    return 1e6 * sum(
        max(kernel.flops / spec.flops_per_second, kernel.moved_bytes / spec.bytes_per_second) for kernel in kernels
    )
