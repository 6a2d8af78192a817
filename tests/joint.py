"""Joint graphs of small modules, as Inductor hands them to a partitioner, and a way to run what was made of them.

Nothing is compiled: the capture stops inside the partition step, and `run_joint` and `run_split` interpret nodes one by one, with
Inductor's random numbers a function of their seed, as its kernels make them.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import torch
from torch import fx

from graphckpt.compat import aot, inductor
from graphckpt.compat.takeover import Lowerings
from graphckpt.ir.plan import Plan
from graphckpt.solve.policies import Situation, survey
from graphckpt.trace.lower import Lowered, lower_joint
from tests.rewrite.models import MODELS

Tensors = tuple[torch.Tensor | None, ...]


@dataclass(frozen=True)
class Joint:
    """A captured joint graph, prepared and lowered, with stock's cut of it."""

    module: fx.GraphModule
    num_outputs: int
    lowered: Lowered
    stock_modules: aot.Partition
    situation: Situation


class Results(NamedTuple):
    """What a step leaves behind: outputs, gradients, and the inputs as they are after it (some are written to)."""

    outputs: Tensors
    gradients: Tensors
    inputs: Tensors


class _Captured(BaseException):
    """Ends a compilation with its joint graph; no `Exception`, so that nothing on the way wraps it."""

    def __init__(
        self, module: fx.GraphModule, inputs: Sequence[object], num_outputs: int, static: Sequence[int]
    ) -> None:
        super().__init__()
        self.module = module
        self.inputs = inputs
        self.num_outputs = num_outputs
        self.static = static


def raw_joint(module: Callable[..., object], *inputs: object, **patches: object) -> _Captured:
    """The joint graph of ``module(*inputs)`` as a custom partitioner receives it. ``patches``: options of Inductor."""

    def partition(
        gm: fx.GraphModule,
        joint_inputs: Sequence[object],
        *,
        num_fwd_outputs: int,
        static_lifetime_input_indices: Sequence[int] | None = None,
        **_: object,
    ) -> NoReturn:
        raise _Captured(gm, joint_inputs, num_fwd_outputs, static_lifetime_input_indices or ())

    def backend(gm: fx.GraphModule, example: Sequence[object]) -> Any:
        options = {"force_disable_caches": True, **patches}
        return inductor.compile_with(gm, example, partition, "capture", options, Lowerings())

    torch.compiler.reset()
    try:
        with warnings.catch_warnings():
            # torch's own tracer makes an instance of each `autograd.Function` it meets, of which torch warns.
            warnings.filterwarnings("ignore", ".*should not be instantiated", DeprecationWarning)
            torch.compile(module, backend=backend)(*inputs)
    except _Captured as captured:
        return captured
    finally:
        torch.compiler.reset()
    raise AssertionError("the module has no backward, or its graph was broken")


def capture(module: Callable[..., object], *inputs: object, **patches: object) -> Joint:
    """`raw_joint`, prepared, lowered and cut by stock."""
    raw = raw_joint(module, *inputs, **patches)
    prepared = aot.prepare_joint(raw.module, drop_checkpoint_tags=False)
    forward, backward = aot.stock_partition(prepared, raw.inputs, raw.num_outputs, raw.static, is_prepared=True)
    lowered = lower_joint(prepared, raw.num_outputs)
    stock = Plan("stock", _steps(lowered, forward), _steps(lowered, backward))
    return Joint(prepared, raw.num_outputs, lowered, (forward, backward), survey(lowered.graph, stock))


@functools.cache
def captured(name: str) -> Joint:
    """The joint graph of one of the small models, captured once a session."""
    module, inputs, patches = MODELS[name]()
    return capture(module, *inputs, **patches)


def _steps(lowered: Lowered, module: fx.GraphModule) -> tuple[int, ...]:
    return tuple(lowered.index[node.name] for node in module.graph.nodes if node.op == "call_function")


def make_inputs(joint: Joint) -> dict[str, torch.Tensor]:
    """Data for every placeholder by its name: positive numbers, and 0 or 1 for integers, which are valid indices."""
    generator = torch.Generator().manual_seed(0)
    return {node.name: _data(node.meta["val"], generator) for node in joint.module.graph.find_nodes(op="placeholder")}


def _data(fake: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    real = torch.empty_strided(fake.shape, fake.stride(), dtype=fake.dtype)
    if fake.dtype.is_floating_point:
        return real.copy_(torch.rand(fake.shape, generator=generator) + 0.1)
    return real.copy_(torch.randint(0, 2, fake.shape, generator=generator))


def run_joint(joint: Joint) -> Results:
    """The oracle: the joint graph run from its first node to its last, as it was traced."""
    data = make_inputs(joint)
    results = _run(joint.module, list(data.values()))
    return Results(results[: joint.num_outputs], results[joint.num_outputs :], _primals(data))


def run_split(joint: Joint, forward: fx.GraphModule, backward: fx.GraphModule) -> Results:
    """Both modules run in AOTAutograd's conventions: forward's results after its outputs are backward's first inputs."""
    data = make_inputs(joint)
    results = _run(forward, [data[node.name] for node in forward.graph.find_nodes(op="placeholder")])
    saved = results[joint.num_outputs :]
    tangents = [node.name for node in backward.graph.find_nodes(op="placeholder")][len(saved) :]
    gradients = _run(backward, [*saved, *(data[name] for name in tangents)])
    return Results(results[: joint.num_outputs], gradients, _primals(data))


def _primals(data: dict[str, torch.Tensor]) -> Tensors:
    return tuple(value for name, value in data.items() if not name.startswith("tangents"))


def _run(module: fx.GraphModule, inputs: Sequence[object]) -> Tensors:
    torch.manual_seed(7)
    with torch.no_grad():
        return tuple(_Interpreter(module).run(*inputs))


class _Interpreter(fx.Interpreter):
    """Runs nodes as they are, but draws Inductor's random numbers from their seed, which its eager definitions ignore."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if "inductor_random" in str(target):
            size, seed, mode = args
            generator = torch.Generator().manual_seed(int(seed))
            return getattr(torch, mode)(size, generator=generator)
        return super().call_function(target, args, kwargs)


def assert_same(found: Results, wanted: Results) -> None:
    """Bit for bit."""
    for part, have, want in zip(Results._fields, found, wanted, strict=True):
        assert len(have) == len(want), part
        for number, (one, other) in enumerate(zip(have, want, strict=True)):
            assert (one is None) == (other is None), f"{part} {number}"
            assert one is None or other is None or torch.equal(one, other), f"{part} {number} differs"
