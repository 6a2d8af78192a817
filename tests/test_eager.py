"""inner="eager": no compiler, so the peak is that of node-by-node execution, and plans are checked without C++."""

from itertools import accumulate

import pytest
import torch
from torch import nn

import graphckpt
from graphckpt.compat.fake import memory_changes


def _stack(dropout: float) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Dropout(dropout)) for _ in range(6)]
    return nn.Sequential(*layers)


def _gradients(policy: str, dropout: float) -> tuple[list[torch.Tensor], int]:
    """Gradients of one step under a fixed seed, and the peak that the profiler saw."""
    torch.compiler.reset()
    model, x = _stack(dropout), torch.rand(512, 64)
    compiled = torch.compile(model, backend="graphckpt", options={"inner": "eager", "policy": policy})

    def step() -> None:
        compiled(x).sum().backward()

    step()
    model.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as watched:
        step()
    torch.compiler.reset()
    return [parameter.grad for parameter in model.parameters()], max(accumulate(memory_changes(watched)))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputing_keeps_gradients_to_the_bit(dropout: float) -> None:
    """x -> (linear, tanh, dropout) six times -> sum: random masks are saved here, everything else is recomputed."""
    stock, _ = _gradients("stock", dropout)
    full, _ = _gradients("full", dropout)
    assert all(torch.equal(a, b) for a, b in zip(stock, full, strict=True))


@pytest.mark.parametrize("policy", ["stock", "full"])
def test_the_peak_is_the_measured_one(policy: str) -> None:
    """Nothing of this stack needs a workspace of more than a few KB."""
    _, measured_bytes = _gradients(policy, 0.0)
    predicted_bytes = graphckpt.reports()[-1].predicted_peak_bytes
    assert abs(measured_bytes - predicted_bytes) <= 0.01 * measured_bytes
    assert graphckpt.reports()[-1].dry_lowerings == 0


def test_a_pass_without_a_call_is_handed_through() -> None:
    """x + w -> y: backward only hands the tangent on, and there is nothing to lower."""
    torch.compiler.reset()
    weight = torch.ones(4, requires_grad=True)
    compiled = torch.compile(lambda x: x + weight, backend="graphckpt")
    compiled(torch.rand(4)).sum().backward()
    torch.compiler.reset()
    assert torch.equal(weight.grad, torch.ones(4))
