"""A percentage of the activations is of the step, not of each of its graphs.

    embedding (small) | graph break | layers (large) | graph break | loss (small)

A graph that is small against the largest is not refused for its share, whichever comes first; a graph alone still is.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

from graphckpt import reports
from graphckpt.errors import BudgetInfeasible

WIDTH, ROWS = 16, 64

pytestmark = [
    pytest.mark.usefixtures("compiled_anew"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


class _Step(nn.Module):
    """``first`` and ``last``: whether a small graph comes before and after the large one; both need all that they take."""

    def __init__(self, *, first: bool = False, last: bool = False, layers: int = 8) -> None:
        super().__init__()
        self.layers, self.first, self.last = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(layers)), first, last
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.first:
            x = torch.sin(x * self.scale)
            torch._dynamo.graph_break()
        for layer in self.layers:
            x = torch.tanh(layer(x))
        if self.last:
            torch._dynamo.graph_break()
            x = x * self.scale
        return x.square().sum()


def _train(model: nn.Module, **options: object) -> tuple[Any, ...]:
    """The records of a step."""
    before = len(reports())
    compiled = torch.compile(model, backend="graphckpt", options=options)
    compiled(torch.rand(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))).backward()
    return reports()[before:]


def test_a_small_graph_after_the_large_one_is_not_refused() -> None:
    large, small = _train(_Step(last=True), activation_budget="60%")
    assert small.unbudgeted_peak_bytes < large.budget.allowance_bytes < large.unbudgeted_peak_bytes
    assert large.predicted_peak_bytes <= large.budget.allowance_bytes
    assert small.budget.allowance_bytes == large.budget.allowance_bytes
    assert any("the percentage is of" in note for note in small.notes)
    assert not any("the percentage is of" in note for note in large.notes)


def test_a_small_graph_before_the_large_one_is_warned_of_and_not_refused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "graphckpt"):
        small, large = _train(_Step(first=True), activation_budget="60%")
    assert small.predicted_peak_bytes > small.budget.allowance_bytes
    assert small.predicted_peak_bytes <= large.budget.allowance_bytes
    (line,) = [line for line in caplog.messages if line.startswith("graphckpt")]
    assert "planned at its smallest peak" in line
    assert "60%" in line


def test_a_first_graph_that_is_above_the_share_of_the_largest_is_refused_by_the_last() -> None:
    """Both graphs are about as large, and neither can be smaller."""
    with pytest.raises(BackendCompilerFailed, match="cannot be kept") as caught:
        _train(_Step(first=True, layers=0), activation_budget="40%")
    assert isinstance(caught.value.inner_exception, BudgetInfeasible)
    _train(_Step(first=True, layers=0), activation_budget="40%", on_infeasible="warn")


def test_a_graph_alone_is_refused_for_its_share() -> None:
    with pytest.raises(BackendCompilerFailed, match="cannot be kept"):
        _train(_Step(), activation_budget="2%")


@pytest.mark.parametrize("source", ["environment", "one object"])
def test_a_model_of_another_call_has_a_percentage_of_its_own(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large model that was compiled before with the very same options loosens nothing."""
    options = {"activation_budget": "90%"}
    if source == "environment":
        monkeypatch.setenv("GRAPHCKPT_ACTIVATION_BUDGET", "90%")
        options = None
    before = len(reports())
    for layers in (8, 4):
        compiled = torch.compile(_Step(layers=layers), backend="graphckpt", options=options)
        compiled(torch.rand(ROWS, WIDTH)).backward()
    large, small = reports()[before:]
    assert small.unbudgeted_peak_bytes < large.unbudgeted_peak_bytes
    assert small.budget.allowance_bytes == small.unbudgeted_peak_bytes * 9 // 10


def test_an_eager_frame_of_another_call_lets_nothing_through() -> None:
    """A frame that Dynamo runs eagerly leaves graphs of its own call undecided, and of no other one."""
    options = {"activation_budget": "2%"}

    def in_pieces(x: torch.Tensor, layers: nn.ModuleList) -> torch.Tensor:
        for layer in layers:
            x = torch.tanh(layer(x))
            torch._dynamo.graph_break()
        return x.square().sum()

    torch.compile(in_pieces, backend="graphckpt", options=options)(torch.rand(ROWS, WIDTH), _Step().layers).backward()
    with pytest.raises(BackendCompilerFailed, match="cannot be kept"):
        torch.compile(_Step(), backend="graphckpt", options=options)(torch.rand(ROWS, WIDTH))


def test_bytes_stay_what_they_are_for_every_graph() -> None:
    records = _train(_Step(first=True, last=True), activation_budget="1MiB")
    assert {record.budget.allowance_bytes for record in records} == {2**20}
    assert len(records) == 3
