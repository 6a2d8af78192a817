"""How Inductor is driven: the exact peak and the kernels of a pair of passes, before anything is compiled.

What enters: forward and backward modules as a partition returns them. What leaves: the peak of a step to the byte, as far as
Inductor's own allocations go, with the workspaces of aten kernels as measured.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from graphckpt.compat import aot
from graphckpt.compat.dry import DryLowering, lower_dry
from graphckpt.compat.fake import size_hint
from graphckpt.compat.takeover import Lowerings
from graphckpt.cost.roofline import DeviceSpec
from graphckpt.cost.workspace import WorkspaceMeter
from graphckpt.ir.program import StepPeak, replay_step


@dataclass(frozen=True, slots=True)
class DryStep:
    """Both passes lowered dry. ``peak``: the caller drops its outputs after forward; ``held_peak``: it keeps them."""

    forward: DryLowering
    backward: DryLowering
    peak: StepPeak
    held_peak: StepPeak
    time_us: float


@dataclass(slots=True)
class DryLowerer:
    """Lowers pairs of modules dry, and counts: ``runs`` and ``seconds`` are what the user waited for."""

    device: torch.device
    spec: DeviceSpec
    num_forward_outputs: int
    static_inputs: Sequence[int]
    meter: WorkspaceMeter
    lowerings: Lowerings
    runs: int = 0
    seconds: float = 0.0

    def lower(self, forward: fx.GraphModule, backward: fx.GraphModule, *, hold_order: bool) -> DryStep:
        """Lower copies of both modules, forward first: its output strides are backward's input strides.

        ``hold_order``: the modules' order is kept as far as Inductor can be told to; otherwise everything is as in stock.
        """
        started = time.perf_counter()
        low_forward = lower_dry(
            forward,
            self.lowerings,
            is_backward=False,
            num_user_outputs=self.num_forward_outputs,
            static_inputs=self.static_inputs,
            input_strides={},
            measure=self.meter.peak_bytes,
            hold_order=hold_order,
        )
        low_backward = lower_dry(
            backward,
            self.lowerings,
            is_backward=True,
            num_user_outputs=0,
            static_inputs=(),
            input_strides=low_forward.output_strides,
            measure=self.meter.peak_bytes,
            hold_order=hold_order,
        )
        step = step_of(low_forward, low_backward, (forward, backward), self.num_forward_outputs, self.spec)
        self.runs += 1
        self.seconds += time.perf_counter() - started
        return step


def step_of(
    low_forward: DryLowering, low_backward: DryLowering, modules: aot.Partition, num_outputs: int, spec: DeviceSpec
) -> DryStep:
    """Both passes played after one another."""
    tangents, copied = tangent_bytes(modules[1]), copied_gradients(modules, low_backward.output_strides)
    peak, held_peak = (
        replay_step(
            low_forward.program,
            low_backward.program,
            tangents=tangents,
            saved_from=num_outputs,
            outputs_held=held,
            copied=copied,
        )
        for held in (False, True)
    )
    kernels = low_forward.kernels + low_backward.kernels
    time_us = sum(spec.time_us(kernel.flops, kernel.moved_bytes) for kernel in kernels)
    return DryStep(low_forward, low_backward, peak, held_peak, time_us)


def tangent_bytes(backward: fx.GraphModule) -> dict[str, int]:
    """Bytes of the gradients that autograd makes before the backward module starts, by placeholder name."""
    sizes = {}
    for node in backward.graph.find_nodes(op="placeholder"):
        value = aot.fake_value(node)
        if aot.is_tangent(node) and isinstance(value, torch.Tensor):
            sizes[node.name] = size_hint(value.untyped_storage().nbytes())
    return sizes


def copied_gradients(modules: aot.Partition, strides: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """Results of backward that autograd copies as it gives them to their parameters, for these are laid out otherwise.

    ``strides``: those that results are given, by name; the traced ones count for the others. What ``AccumulateGrad`` does in torch
    2.13 (``obeys_layout_contract``). Not guaranteed: of a model of several graphs, inputs of one that are no parameters are taken
    to be some, so a gradient between two graphs is counted though nobody copies it.
    """
    forward, backward = modules
    (results,) = backward.graph.find_nodes(op="output")[0].args
    copied = set()
    for source, result in zip(forward.graph.find_nodes(op="placeholder"), results, strict=False):
        parameter, gradient = aot.fake_value(source), aot.fake_value(result) if isinstance(result, fx.Node) else None
        if not isinstance(parameter, torch.Tensor) or not isinstance(gradient, torch.Tensor):
            continue
        if parameter.dim() != gradient.dim():
            continue
        sizes, wanted = ([size_hint(part) for part in parts] for parts in (parameter.size(), parameter.stride()))
        given = strides.get(result.name) or [size_hint(part) for part in gradient.stride()]
        if any(size != 1 and mine != theirs for size, mine, theirs in zip(sizes, given, wanted, strict=True)):
            copied.add(result.name)
    return frozenset(copied)
