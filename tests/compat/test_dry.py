"""A dry lowering against the real one: the peak it foretells is the one that the profiler measures.

    x -> l0 -> l1 -> (sum of squares) -> loss,    loss.backward()

The bytes of each pass are checked once by running compiled code; everything else here stops before a compiler is called.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import fx, nn

from graphckpt.compat import aot, dry, inductor
from graphckpt.compat.fake import memory_changes, tensor_bytes
from graphckpt.compat.takeover import Lowerings
from graphckpt.ir.plan import Plan
from graphckpt.ir.program import StepPeak, replay_step
from graphckpt.rewrite.schedule import split_by_plan
from graphckpt.solve.policies import named_plan, survey
from graphckpt.trace.lower import lower_joint
from tests.rewrite.models import Convolution, Linear, Stack

WORKSPACE_BYTES = 1_000_000


def _workspace_bytes(target: object, *_: object) -> int:
    """Convolutions need one."""
    return WORKSPACE_BYTES if "convolution" in str(target) else 0


def _lower_both(
    modules: aot.Partition, num_outputs: int, static_inputs: Sequence[int], lowerings: Lowerings
) -> tuple[dry.DryLowering, dry.DryLowering]:
    first = dry.lower_dry(
        modules[0],
        lowerings,
        is_backward=False,
        num_user_outputs=num_outputs,
        static_inputs=static_inputs,
        input_strides={},
        measure=_workspace_bytes,
        hold_order=False,
    )
    second = dry.lower_dry(
        modules[1],
        lowerings,
        is_backward=True,
        num_user_outputs=0,
        static_inputs=(),
        input_strides=first.output_strides,
        measure=_workspace_bytes,
        hold_order=False,
    )
    return first, second


def _replay(backward: fx.GraphModule, lowered: tuple[dry.DryLowering, dry.DryLowering], num_outputs: int) -> StepPeak:
    inputs = backward.graph.find_nodes(op="placeholder")
    tangents = {node.name: tensor_bytes(node.meta["val"]) for node in inputs if aot.is_tangent(node)}
    return replay_step(lowered[0].program, lowered[1].program, tangents=tangents, saved_from=num_outputs)


class _Planner:
    """A partition function that cuts by one policy, and notes what its dry lowering foretells."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.lowerings = Lowerings()
        self.foretold: list[StepPeak] = []
        self.lowered: list[tuple[dry.DryLowering, dry.DryLowering]] = []

    def compile(self, module: fx.GraphModule, example: Sequence[object]) -> Any:
        patches = {"force_disable_caches": True}
        return inductor.compile_with(module, example, self.partition, self.policy, patches, self.lowerings)

    def partition(
        self,
        joint: fx.GraphModule,
        inputs: Sequence[object],
        *,
        num_fwd_outputs: int,
        static_lifetime_input_indices: Sequence[int] | None = None,
        **_: object,
    ) -> aot.Partition:
        prepared = aot.prepare_joint(joint, drop_checkpoint_tags=False)
        modules = aot.stock_partition(prepared, inputs, num_fwd_outputs, static_lifetime_input_indices)
        lowered = lower_joint(prepared, num_fwd_outputs)
        calls = [[n.name for n in module.graph.nodes if n.op == "call_function"] for module in modules]
        stock = Plan("stock", *(tuple(lowered.index[name] for name in names) for names in calls))
        plan = named_plan(survey(lowered.graph, stock), self.policy)
        if plan is not stock:
            modules = split_by_plan(prepared, lowered, plan, num_fwd_outputs)
        static = static_lifetime_input_indices or ()
        self.lowered.append(_lower_both(modules, num_fwd_outputs, static, self.lowerings))
        self.foretold.append(_replay(modules[1], self.lowered[-1], num_fwd_outputs))
        return modules


def _measured_peak(step: Callable[[], None]) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    return max(accumulate(memory_changes(profile)))


def test_the_peak_is_the_measured_one() -> None:
    """Two layers, all of it recomputed: forward and backward together, within 64 bytes."""
    model, x, planner = Stack(Linear(), Linear()), torch.rand(64, 8), _Planner("full")
    compiled = torch.compile(model, backend=planner.compile)

    def step() -> None:
        compiled(x).backward()

    step()
    model.zero_grad(set_to_none=True)
    measured_bytes = _measured_peak(step)
    torch.compiler.reset()
    assert planner.lowerings.taken == 2, "the real compilation did not take over what was lowered dry"
    (foretold,) = planner.foretold
    assert foretold.peak_bytes > 64 * 8 * 4
    assert abs(measured_bytes - foretold.peak_bytes) <= 64


class _Stop(BaseException):
    """Ends a compilation after its dry lowering."""


class _Stopping(_Planner):
    def partition(self, joint: fx.GraphModule, inputs: Sequence[object], **kwargs: Any) -> aot.Partition:
        super().partition(joint, inputs, **kwargs)
        raise _Stop


def _foretell(policy: str, model: nn.Module, x: torch.Tensor) -> _Planner:
    planner = _Stopping(policy)
    torch.compiler.reset()
    with pytest.raises(_Stop):
        torch.compile(model, backend=planner.compile)(x)
    torch.compiler.reset()
    return planner


def test_recomputing_saves_fewer_bytes() -> None:
    """Four layers: `full` saves what enters each, stock what each computes besides."""
    model, x = Stack(*(Linear() for _ in range(4))), torch.rand(256, 8)
    stock, full = (_foretell(policy, model, x).foretold[0] for policy in ("stock", "full"))
    assert full.saved_bytes < stock.saved_bytes
    assert full.peak_bytes < stock.peak_bytes


def test_kernels_and_buffers_of_a_lowering() -> None:
    """One layer: its product is a kernel with 2 * 256 * 8 * 8 flops and a buffer of its own; the erf is inside of another."""
    planner = _foretell("stock", Stack(Linear()), torch.rand(256, 8))
    forward, backward = planner.lowered[0]
    assert 2 * 256 * 8 * 8 in {kernel.flops for kernel in forward.kernels}
    assert all(kernel.moved_bytes > 0 for kernel in forward.kernels + backward.kernels)
    assert any("erf" in kernel.origins for kernel in forward.kernels)
    assert "addmm" in forward.materialised
    assert "erf" not in forward.materialised
    assert "def call" in forward.source
    assert [name for name, _ in forward.program.outputs][1:] == [name for name, _ in backward.program.inputs][:-1]


def test_a_workspace_is_told_by_the_name_of_its_node() -> None:
    """A convolution, whose kernel gives one tensor, and its backward pass, whose kernel gives three, named apart."""
    planner = _foretell("stock", Stack(Convolution()), torch.rand(2, 2, 8, 8))
    forward, backward = (
        [event.name for event in low.program.events if event.scratch_bytes] for low in planner.lowered[0]
    )
    assert (forward, backward) == (["convolution"], ["convolution_backward"])
