"""The CUDA graph modes of torch.compile on a CPU, where nothing is captured: what they do without us they do with us.

    x -> linear -> tanh -> ... -> linear -> tanh -> sum of squares,    loss.backward()
"""

from itertools import accumulate
from typing import NamedTuple

import pytest
import torch
from torch import nn

from graphckpt import reports
from graphckpt.compat.fake import memory_changes
from graphckpt.report.record import Record

WIDTH, ROWS, LAYERS = 16, 256, 6
MODES = ("reduce-overhead", "max-autotune")

pytestmark = [
    pytest.mark.usefixtures("compiled_anew"),
    # torch 2.11's own use of it when it tries kernels out.
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning"),
]


class _Trained(NamedTuple):
    """Gradients of one step, the peak of a later one, and the records of its graphs."""

    gradients: list[torch.Tensor]
    peak_bytes: int
    records: tuple[Record, ...]


def _train(backend: str, mode: str) -> _Trained:
    torch.manual_seed(0)
    before = len(reports())
    model = nn.Sequential(*(layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.Tanh())))
    x = torch.rand(ROWS, WIDTH)

    def loss() -> torch.Tensor:
        return (model(x) ** 2).sum()

    compiled = torch.compile(loss, backend=backend, mode=mode)
    compiled().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad(set_to_none=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        compiled().backward()
    return _Trained(gradients, max(accumulate(memory_changes(profile))), reports()[before:])


@pytest.mark.parametrize("mode", MODES)
def test_without_a_budget_a_mode_is_inductors(mode: str) -> None:
    """The same gradients to the bit, and Inductor's own peak, which is exactly predicted."""
    plain, ours = _train("inductor", mode), _train("graphckpt", mode)
    (record,) = ours.records
    assert abs(plain.peak_bytes - ours.peak_bytes) <= 64
    assert abs(record.predicted_peak_bytes - ours.peak_bytes) <= 64
    assert all(map(torch.equal, ours.gradients, plain.gradients))


@pytest.mark.parametrize("mode", MODES)
def test_a_budget_is_kept_in_a_mode(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor moves the kernels of these modes after it has ordered them; a plan's order stays."""
    plain = _train("inductor", mode)
    monkeypatch.setenv("GRAPHCKPT_ACTIVATION_BUDGET", "80%")
    torch.compiler.reset()
    ours = _train("graphckpt", mode)
    (record,) = ours.records
    assert record.recomputed_bytes > 0
    assert ours.peak_bytes <= record.budget.allowance_bytes < plain.peak_bytes
    assert abs(record.predicted_peak_bytes - ours.peak_bytes) <= 64
    assert all(map(torch.allclose, ours.gradients, plain.gradients))
