"""Functions of tensors lowered dry: which kernels are made of them, in which order, and what they take."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from graphckpt.compat.dry import DryLowering, lower_dry
from graphckpt.compat.takeover import Lowerings
from graphckpt.ir.program import Program, replay_step

_NO_BACKWARD = Program((), (), ())


def traced(function: Callable[..., object], *shapes: tuple[int, ...]) -> fx.GraphModule:
    """The graph of a function of tensors of these shapes; one result is a tuple of one, as in a forward pass."""

    def results(*inputs: torch.Tensor) -> tuple[object, ...]:
        made = function(*inputs)
        return made if isinstance(made, tuple) else (made,)

    return make_fx(results, tracing_mode="fake")(*(torch.rand(shape) for shape in shapes))


def lowered(function: Callable[..., object], *shapes: tuple[int, ...], hold_order: bool) -> DryLowering:
    """A function lowered dry by itself."""
    return lowered_module(traced(function, *shapes), Lowerings(), hold_order=hold_order)


def lowered_module(module: fx.GraphModule, lowerings: Lowerings, *, hold_order: bool = False) -> DryLowering:
    """A module lowered dry, as a forward pass whose first result goes to the caller."""
    return lower_dry(
        module,
        lowerings,
        is_backward=False,
        num_user_outputs=1,
        static_inputs=(),
        input_strides={},
        measure=lambda *_: 0,
        hold_order=hold_order,
    )


def kernels(lowering: DryLowering, *names: str) -> list[list[str]]:
    """Of each kernel, in their order, which of these traced nodes it computes; kernels of none are left out."""
    made = ([name for name in names if name in kernel.origins] for kernel in lowering.kernels)
    return [of_kernel for of_kernel in made if of_kernel]


def peak_bytes(lowering: DryLowering) -> int:
    """The most that is allocated at once; inputs do not count."""
    return replay_step(lowering.program, _NO_BACKWARD, tangents={}, saved_from=0).forward_bytes
