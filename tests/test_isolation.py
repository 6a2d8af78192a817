"""Compiling leaves no trace: what runs while a graph is compiled is seen by nothing of the user's.

Each test compiles a training step of attention, dropout and products with something of the user's around it, and compares what that
has seen with what it sees when the step was compiled before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

pytestmark = pytest.mark.usefixtures("compiled_anew")
WIDTH = 16


class Attention(nn.Module):
    """What is rewritten, planned and measured when it is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return F.dropout((q @ k.mT * 0.2).softmax(-1), 0.3, self.training) @ v


OPTIONS: list[dict[str, Any]] = [{}, {"activation_budget": "90%", "on_infeasible": "warn"}, {"policy": "smallest", "verify": True}]


def _step(options: dict[str, Any]) -> Callable[[], None]:
    torch.manual_seed(0)
    model = Attention().train()
    run = torch.compile(model, backend="graphckpt", options=options)
    x = torch.randn(2, 80, WIDTH, generator=torch.Generator().manual_seed(1))
    return lambda: run(x).square().sum().backward()


@contextmanager
def _hooks(seen: list[str]) -> Iterator[None]:
    def pack(tensor: Tensor) -> Tensor:
        seen.append(f"pack {tuple(tensor.shape)}")
        return tensor

    def unpack(tensor: Tensor) -> Tensor:
        seen.append(f"unpack {tuple(tensor.shape)}")
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


@contextmanager
def _random_state(seen: list[str]) -> Iterator[None]:
    torch.manual_seed(7)
    yield
    seen.append(str(torch.rand(3).tolist()))


@contextmanager
def _settings(seen: list[str]) -> Iterator[None]:
    yield
    seen += [str(torch.is_grad_enabled()), str(torch.is_autocast_enabled("cpu")), str(torch.is_autocast_cache_enabled())]
    seen += [str(torch.get_default_dtype()), str(torch.are_deterministic_algorithms_enabled()), str(torch.get_num_threads())]
    seen.append(str(torch.is_inference_mode_enabled()))


@contextmanager
def _deterministic(seen: list[str]) -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        seen += [str(warning.message) for warning in caught if "deterministic" in str(warning.message)]
        seen.append(str(torch.are_deterministic_algorithms_enabled()))
    finally:
        torch.use_deterministic_algorithms(False)


class _Listening(TorchFunctionMode):
    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.graphckpt.attention.default, torch.arange, torch.full):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def _function_mode(seen: list[str]) -> Iterator[None]:
    with _Listening(seen):
        yield


AROUND = [_hooks, _random_state, _settings, _deterministic, _function_mode]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("around", AROUND, ids=lambda around: around.__name__.strip("_"))
def test_the_first_step_is_seen_as_the_second_one_is(around: Callable[..., Any], options: dict[str, Any]) -> None:
    step, seen = _step(options), ([], [])
    for heard in seen:
        with around(heard):
            step()
    assert seen[0] == seen[1]


@pytest.mark.parametrize("options", OPTIONS[:2], ids=str)
def test_compiling_under_autocast_measures_what_runs(options: dict[str, Any]) -> None:
    """Autocast stays on, casts nothing of ours, and remembers no cast of a tensor without data."""
    step = _step(options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step()
        assert torch.is_autocast_enabled("cpu")
        weight = torch.randn(4, 4, requires_grad=True)
        assert (weight @ weight).dtype == torch.bfloat16


def test_a_profiler_that_is_on_stays_on() -> None:
    step = _step({"policy": "smallest"})
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watched:
        step()
        torch.ones(3).sinh()
    assert any("sinh" in event.key for event in watched.key_averages())
