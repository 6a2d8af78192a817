"""Models of the coverage table with the kernels in place of their attentions: the loss and gradients of eager, to rounding.

All of them: TRITON_INTERPRET=1 python -m benchmarks.coverage --implementation triton --dtypes fp32
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import fx

from benchmarks.zoo import MODELS, Built, build_small
from graphckpt.rewrite.attention.replace import replace_attentions

# Heads shared, masks in the graph, softcap and windows, a bias that learns, sinks that learn.
CHOSEN = ("gpt2", "llama", "gemma2", "t5", "gpt_oss")


def _trained(built: Built, rewritten: bool) -> tuple[float, list[torch.Tensor], int]:
    """The loss, all gradients and how many attentions were replaced."""
    fused = 0

    def backend(module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> Any:
        nonlocal fused
        replaced = replace_attentions(module, lambda _: "triton")
        assert not replaced.kept
        fused += replaced.fused
        return module

    torch._dynamo.reset()
    model = torch.compile(built.model, backend=backend) if rewritten else built.model
    loss = model(**built.batch).loss
    loss.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.double() for p in built.model.parameters()]
    return loss.item(), gradients, fused


def _error(mine: list[torch.Tensor], true: list[torch.Tensor]) -> float:
    difference = sum(float((a - b).square().sum()) for a, b in zip(mine, true, strict=True))
    return (difference / sum(float(b.square().sum()) for b in true)) ** 0.5


@pytest.mark.parametrize("name", CHOSEN)
def test_loss_and_gradients_are_those_of_eager(name: str) -> None:
    padded = name in ("llama", "t5")
    exact = _trained(build_small(name, torch.float64, dropout=0.0, padded=padded), rewritten=False)
    eager = _trained(build_small(name, torch.float32, dropout=0.0, padded=padded), rewritten=False)
    loss, gradients, fused = _trained(build_small(name, torch.float32, dropout=0.0, padded=padded), rewritten=True)
    assert fused == MODELS[name].attentions
    assert abs(loss - exact[0]) <= 2 * abs(eager[0] - exact[0]) + 4 * torch.finfo(torch.float32).eps * abs(exact[0])
    assert _error(gradients, exact[1]) <= 2 * _error(eager[1], exact[1])
