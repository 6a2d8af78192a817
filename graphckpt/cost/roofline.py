"""Time by a roofline: the larger of arithmetic over peak rate and bytes over bandwidth, kernel by kernel.

Prices are per kernel, not per operation: an operation that the compiler folds into its reader (not *materialised*) moves no bytes
of its own; its reader pays for reading what it reads.

Not guaranteed: real time. Launches, caches and occupancy are not modelled; the figures order plans, they do not time them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphckpt.ir.graph import Graph, OpKind


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """Peak arithmetic and bandwidth of a device."""

    name: str
    flops_per_s: float
    bytes_per_s: float

    def time_us(self, flops: float, moved_bytes: float) -> float:
        """Time of one kernel."""
        return 1e6 * max(flops / self.flops_per_s, moved_bytes / self.bytes_per_s)


H100 = DeviceSpec("H100", 600e12, 3e12)
SCALED = DeviceSpec("scaled H100", 30e12, 3e12)


def spec_for(device_type: str) -> DeviceSpec:
    """The spec plans are ordered by: an H100 for CUDA; elsewhere the scaled one, which keeps small models from being all bytes."""
    return H100 if device_type == "cuda" else SCALED


def recompute_times_us(graph: Graph, materialised: Sequence[bool], spec: DeviceSpec) -> tuple[float, ...]:
    """For each operation what computing it once more costs; 0 for inputs, views and operations that are folded into others."""
    roots: list[frozenset[int]] = []
    times = []
    for index, op in enumerate(graph.ops):
        read = frozenset().union(*(roots[source] for source in op.inputs)) if op.inputs else frozenset()
        real = op.kind is OpKind.COMPUTE and materialised[index]
        view = op.kind is OpKind.ALIAS and bool(op.storages) and read.issuperset(op.storages)
        own = real or view or op.kind in (OpKind.INPUT, OpKind.TANGENT)
        roots.append(frozenset(op.storages) if own else read)
        moved_bytes = sum(graph.storages[s].size_bytes for s in read | frozenset(op.storages))
        times.append(spec.time_us(op.flops, moved_bytes) if real else 0.0)
    return tuple(times)


def saving_times_us(graph: Graph, materialised: Sequence[bool], spec: DeviceSpec) -> tuple[float, ...]:
    """For each operation what writing its value costs where no kernel writes it yet; 0 where it is written anyway."""
    return tuple(0.0 if is_real else spec.time_us(0, graph.own_bytes(index)) for index, is_real in enumerate(materialised))
