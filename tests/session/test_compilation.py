"""What a compilation leaves behind, and what becomes of a graph that cannot be planned.

    x -> linear -> tanh -> linear -> tanh -> sum of squares,    loss.backward()
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._functorch import config as functorch_config
from torch._inductor import config as inductor_config
from torch._inductor.utils import fresh_cache

from graphckpt import reports
from graphckpt.session import compilation, journal, pipeline

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


def test_a_graph_left_to_inductor_is_planned_anew_where_torch_caches_graphs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Out of the cache it would come without the warning. What is planned at last is found there."""
    options = {"activation_budget": "1GiB", "on_infeasible": "warn"}
    notes = []
    with (
        fresh_cache(),
        inductor_config.patch(fx_graph_cache=True),
        functorch_config.patch(enable_autograd_cache=True),
        caplog.at_level(logging.WARNING, "graphckpt"),
    ):
        for fails in (True, True, False, True):
            torch.compiler.reset()
            caplog.clear()
            before = len(reports())
            with monkeypatch.context() as patch:
                if fails:
                    patch.setattr(pipeline, "lower_joint", _failing)
                _compiled(_model(), **options)(_batch()).backward()
            unplanned = any("NOT bound" in message for message in caplog.messages)
            notes.append((unplanned, [record.notes[-1] for record in reports()[before:]]))
    planned = "the budget binds this graph alone"
    assert notes == [(True, []), (True, []), (False, [planned]), (False, ["from the compile cache"])]


def test_the_record_says_that_the_planner_ran_out_of_time() -> None:
    for seconds, notes in ((1e-9, ("plans were left out for solver_seconds=1e-09",)), (1e9, ())):
        torch.compiler.reset()
        _compiled(_model(), policy="smallest", inner="eager", solver_seconds=seconds)(_batch()).backward()
        assert reports()[-1].notes == notes


def test_a_failed_plan_leaves_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is verified as one that came out of the cache: its gradients alone."""
    monkeypatch.setattr(compilation, "describe", _failing)
    before, model = reports(), _model()
    _compiled(model, activation_budget="1GiB", on_infeasible="warn", verify=True)(_batch()).backward()
    assert reports() == before
    assert _gradient(model[0].weight).isfinite().all()


def test_an_error_behind_the_plan_is_none_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that cannot be told: the graph would have a record, and not be what the record says."""
    monkeypatch.setattr(journal, "emit_artifact", _failing)
    with pytest.raises(BackendCompilerFailed, match="a case nobody thought of"):
        _compiled(_model(), activation_budget="1GiB", on_infeasible="warn")(_batch())


@pytest.mark.parametrize("late", [False, True])
def test_a_dump_that_cannot_be_written_is_an_error(late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the graph is planned, and behind it; whatever is to become of a graph that cannot be planned."""
    target = tmp_path / "dump"
    target.write_text("a file")
    if late:
        monkeypatch.setattr(compilation, "dump_graph", lambda *_: None)
    before = reports()
    with pytest.raises(BackendCompilerFailed, match="option 'dump': a directory that can be written to was wanted") as raised:
        _compiled(_model(), activation_budget="1GiB", on_infeasible="warn", dump=str(target))(_batch())
    assert str(target) in str(raised.value)
    assert reports() == before


def test_an_error_of_ours_under_a_budget_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "lower_joint", _failing)
    with pytest.raises(BackendCompilerFailed, match="a case nobody thought of"):
        _compiled(_model(), activation_budget="1GiB")(_batch())
