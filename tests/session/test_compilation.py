"""What a compilation leaves behind, and what becomes of a graph that cannot be planned.

    x -> linear -> tanh -> linear -> tanh -> sum of squares,    loss.backward()
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from typing import NoReturn

import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

from graphckpt import reports
from graphckpt.session import pipeline

WIDTH = 16

pytestmark = pytest.mark.usefixtures("compiled_anew")


class _Squares(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return (y * y).sum()


def _model() -> _Squares:
    torch.manual_seed(0)
    return _Squares(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())


def _batch() -> torch.Tensor:
    return torch.rand(256, WIDTH, generator=torch.Generator().manual_seed(1))


def _compiled(model: nn.Module, **options: object) -> Callable[..., torch.Tensor]:
    return torch.compile(model, backend="graphckpt", options=options or None)


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


@pytest.mark.parametrize("options", [{}, {"policy": "full"}, {"policy": "full", "inner": "eager"}])
def test_the_first_batch_does_not_live_on(options: dict[str, object]) -> None:
    """It would be live in every later step, and in no prediction."""
    compiled, x = _compiled(_model(), **options), _batch()
    compiled(x).backward()
    batch = weakref.ref(x)
    del x
    gc.collect()
    assert batch() is None


def _failing(*_: object) -> NoReturn:
    raise RuntimeError("a case nobody thought of")


@pytest.mark.parametrize("options", [{}, {"activation_budget": "1GiB", "on_infeasible": "warn"}])
def test_an_error_of_ours_leaves_training_to_inductor(
    options: dict[str, object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a budget, or where a warning was asked for, the model trains, and the warning says what went wrong."""
    monkeypatch.setattr(pipeline, "lower_joint", _failing)
    torch.compiler.reset()
    with caplog.at_level(logging.WARNING, "graphckpt"):
        model, before = _model(), reports()
        _compiled(model, **options)(_batch()).backward()
    (warning,) = {message for message in caplog.messages if "NOT bound" in message}
    assert "RuntimeError: a case nobody thought of" in warning
    assert reports() == before
    plain = _model()
    torch.compile(plain, backend="inductor")(_batch()).backward()
    for ours, stock in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(_gradient(ours), _gradient(stock))


def test_an_error_of_ours_under_a_budget_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "lower_joint", _failing)
    with pytest.raises(BackendCompilerFailed, match="a case nobody thought of"):
        _compiled(_model(), activation_budget="1GiB")(_batch())
