"""Effects that a plan must not move: what is read before a write to it.

    scale -> exp, read by backward          scale * 0.5 -> copy_ into scale, once all layers have read it
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

ROWS, WIDTH, LAYERS = 256, 16, 6


class _Scaled(torch.autograd.Function):
    """Backward reads a buffer that forward writes to once all layers have read it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.scale = scale
        return torch.tanh(x) * 2

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] * torch.exp(ctx.scale), None


class _Written(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
        self.register_buffer("scale", torch.rand(ROWS, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(_Scaled.apply(x, self.scale)))
        self.scale.mul_(0.5)
        return torch.tanh(x).sum()


# Dynamo makes an instance as it traces one.
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("inner", ["inductor", "eager"])
def test_what_reads_a_buffer_before_it_is_written_to_does_so_in_the_smallest_plan_too(inner: str) -> None:
    torch.manual_seed(0)
    reference = _Written()
    compiled = copy.deepcopy(reference)
    options = {"policy": "smallest", "inner": inner}
    wanted = _gradients_of(reference, reference)
    given = _gradients_of(torch.compile(compiled, backend="graphckpt", options=options), compiled)
    for ours, eager in zip(given, wanted, strict=True):
        torch.testing.assert_close(ours, eager)


def _gradients_of(run: Callable[..., torch.Tensor], model: nn.Module) -> list[torch.Tensor]:
    run(torch.rand(ROWS, WIDTH, generator=torch.Generator().manual_seed(1))).backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


_LOGGED: list[float] = []


@torch.library.custom_op("graphckpt_tests::log", mutates_args=())
def _log(x: torch.Tensor) -> None:
    _LOGGED.append(float(x.sum()))


@_log.register_fake
def _(x: torch.Tensor) -> None:
    return None


torch.fx.node.has_side_effect(torch.ops.graphckpt_tests.log.default)


class _Logging(nn.Module):
    """Each layer logs what it gave: nobody reads the result of that, and it must happen once a step."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
            torch.ops.graphckpt_tests.log(x.detach())
        return x.sum()


@pytest.mark.parametrize("options", [{}, {"policy": "full"}, {"policy": "every_2"}, {"policy": "smallest"}], ids=str)
@pytest.mark.parametrize("inner", ["inductor", "eager"])
def test_what_nobody_reads_runs_exactly_once_in_order(options: dict[str, str], inner: str) -> None:
    torch.manual_seed(0)
    model, x = _Logging(), torch.rand(ROWS, WIDTH)
    run = torch.compile(model, backend="graphckpt", options={**options, "inner": inner})
    run(x).backward()
    _LOGGED.clear()
    run(x).backward()
    found = list(_LOGGED)
    _LOGGED.clear()
    model(x)
    assert found == pytest.approx(_LOGGED, rel=1e-5)
