"""``verify=True`` through torch.compile: it changes nothing that a step reads, and takes every kind of input.

    h @ w -> sin -> * b -> tanh         backward reads b again, in the plan and in the graph that it is compared with
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.testing._internal.two_tensor import TwoTensor

pytestmark = pytest.mark.usefixtures("compiled_anew")
SIZE = 64


def _layer(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.tanh(torch.sin(h @ w) * b)


def _flat_layer(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return _layer(h, w, b).view(-1)


def _profiled() -> AbstractContextManager[Any]:
    return profile(activities=[ProfilerActivity.CPU])


@pytest.mark.parametrize("first_step", [nullcontext, _profiled])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("function", [_layer, _flat_layer])
def test_backward_writes_over_no_input(function: Any, dynamic: bool, first_step: Any) -> None:
    """Two graphs are compiled of one frame; which saved values a backward may write over is known of each by itself."""
    torch.manual_seed(0)
    h, w = torch.randn(SIZE, SIZE, requires_grad=True), torch.randn(SIZE, SIZE, requires_grad=True)
    b = torch.rand(SIZE, SIZE)
    before = b.clone()
    wanted = torch.autograd.grad(function(h, w, b).sum(), (h, w))
    run = torch.compile(function, backend="graphckpt", dynamic=dynamic, options={"policy": "full", "verify": True})
    for step in range(3):
        with first_step() if step == 0 else nullcontext():
            got = torch.autograd.grad(run(h, w, b).sum(), (h, w))
        torch.testing.assert_close(got, wanted)
        assert torch.equal(b, before)


INPUTS = {
    "with gaps": lambda: torch.randn(2 * SIZE, 3 * SIZE)[::2, :SIZE],
    "wrapper subclass": lambda: TwoTensor(torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)),
    "eight bits": lambda: torch.rand(SIZE, SIZE).to(torch.float8_e4m3fn),
    "expanded": lambda: torch.randn(SIZE).expand(SIZE, SIZE),
    "empty": lambda: torch.randn(0, SIZE),
}


@pytest.mark.filterwarnings("ignore:TwoTensor does not implement")
@pytest.mark.parametrize("kind", INPUTS)
def test_any_input_that_trains_is_verified(kind: str) -> None:
    torch.manual_seed(0)
    x, w = INPUTS[kind](), torch.randn(SIZE, SIZE, dtype=torch.float64, requires_grad=True)

    def loss(x: Tensor, w: Tensor) -> Tensor:
        return torch.tanh(torch.sin(x.to(w.dtype) @ w)).sum()

    wanted = torch.autograd.grad(loss(x, w), w)
    run = torch.compile(loss, backend="graphckpt", dynamic=False, options={"policy": "full", "verify": True})
    got = torch.autograd.grad(run(x, w), w)
    parts = [tuple(map(_plain, gradients)) for gradients in (got, wanted)]
    torch.testing.assert_close(*parts)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.a if isinstance(tensor, TwoTensor) else tensor
