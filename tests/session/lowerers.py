"""A lowerer that compiles nothing: the peak of a pair of modules is the bytes that cross between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from graphckpt.compat.dry import DryLowering
from graphckpt.compat.fake import tensor_bytes
from graphckpt.cost.roofline import SCALED, DeviceSpec
from graphckpt.inductor import DryStep
from graphckpt.ir.program import Program, StepPeak
from graphckpt.report.record import Budget
from graphckpt.session.pipeline import JointGraph
from tests.joint import raw_joint
from tests.rewrite.models import MODELS

_NOTHING = Program((), (), ())


@dataclass
class FakeLowerer:
    """Every computed value has a buffer; ``runs`` counts the pairs that were lowered."""

    num_outputs: int
    spec: DeviceSpec = SCALED
    runs: int = 0
    seconds: float = 0.0

    def lower(self, forward: fx.GraphModule, backward: fx.GraphModule, *, hold_order: bool) -> DryStep:
        """The step of both modules, whose peak is what they save."""
        self.runs += 1
        (results,) = forward.graph.find_nodes(op="output")[0].args
        crossing = {node.name: tensor_bytes(node.meta["val"]) for node in _computed(results[self.num_outputs :])}
        saved_bytes = sum(crossing.values())
        peak = StepPeak(0, saved_bytes, saved_bytes, (*crossing.items(), ("buf7", 1)))
        passes = (
            DryLowering(_NOTHING, (), frozenset(node.name for node in module.graph.nodes), {}, f"# {what}")
            for what, module in (("forward", forward), ("backward", backward))
        )
        return DryStep(*passes, peak, peak, 100.0)


def _computed(results: list[fx.Node]) -> list[fx.Node]:
    tensors = (node for node in results if isinstance(node.meta["val"], torch.Tensor))
    return [node for node in tensors if node.op == "call_function"]


def joint_graph(name: str) -> tuple[JointGraph, FakeLowerer]:
    """One of the small models as it comes from Inductor, and a lowerer for it."""
    model, inputs, patches = MODELS[name]()
    raw = raw_joint(model, *inputs, **patches)
    return JointGraph(raw.module, raw.inputs, raw.num_outputs, raw.static), FakeLowerer(raw.num_outputs)


def limit(allowance_bytes: int) -> Budget:
    """A budget that leaves this much."""
    return Budget("activation_budget", "options", "x", allowance_bytes, 0, 0, allowance_bytes)
