"""The backend by its name, end to end.

    x -> linear -> tanh -> ... -> linear -> tanh -> sum of squares,    loss.backward()

Kernels of the C++ compiler are kept by torch between tests, so models share layers and sizes; everything else is compiled anew.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from graphckpt import reports
from graphckpt.compat.fake import memory_changes
from graphckpt.report.record import Record
from graphckpt.report.render import summary_line

Tensors = list[torch.Tensor]

WIDTH, ROWS, LAYERS = 16, 256, 6

pytestmark = pytest.mark.usefixtures("compiled_anew")


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(x))


class _Dropped(_Layer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(super().forward(x), 0.5)


class _Stack(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return (x * x).sum()


class _Broken(_Stack):
    """Two graphs: the first three layers, and the rest."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:3]:
            x = layer(x)
        torch._dynamo.graph_break()
        for layer in self.layers[3:]:
            x = layer(x)
        return (x * x).sum()


class _Regions(_Stack):
    """The last three layers in a region of the user's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:3]:
            x = layer(x)
        x = checkpoint(self._rest, x, use_reentrant=False)
        return (x * x).sum()

    def _rest(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[3:]:
            x = layer(x)
        return x


class _Trained(NamedTuple):
    """Gradients of one step, the records of its graphs, and the peak of a later step."""

    gradients: Tensors
    records: tuple[Record, ...]
    peak_bytes: int


def _stack(kind: type[_Stack] = _Stack, layer: Callable[[], nn.Module] = _Layer, layers: int = LAYERS) -> _Stack:
    torch.manual_seed(0)
    return kind(*(layer() for _ in range(layers)))


def _batch(seed: int = 1, rows: int = ROWS) -> torch.Tensor:
    return torch.rand(rows, WIDTH, generator=torch.Generator().manual_seed(seed))


def _compiled(model: nn.Module, backend: str = "graphckpt", **options: object) -> Callable[..., torch.Tensor]:
    return torch.compile(model, backend=backend, options=options or None)


def _taken_gradients(model: nn.Module) -> Tensors:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad(set_to_none=True)
    return gradients


def _train(model: nn.Module, backend: str = "graphckpt", **options: object) -> _Trained:
    before = len(reports())
    compiled, x = _compiled(model, backend, **options), _batch()
    torch.manual_seed(2)
    compiled(x).backward()
    gradients = _taken_gradients(model)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        compiled(x).backward()
    _taken_gradients(model)
    return _Trained(gradients, reports()[before:], max(accumulate(memory_changes(profile))))


@functools.cache
def _plain(kind: type[_Stack] = _Stack) -> _Trained:
    """Inductor itself."""
    return _train(_stack(kind), "inductor")


def _assert_same(ours: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], ratio: float = 1e-6) -> None:
    for one, other in zip(ours, wanted, strict=True):
        assert float((one - other).norm()) <= ratio * float(other.norm())


def test_a_budget_that_fits_changes_nothing() -> None:
    """Stock's plan, lowered once; the report says so."""
    trained = _train(_stack(), budget="8GiB")
    (record,) = trained.records
    assert (record.plan, record.recomputed, record.dry_lowerings) == ("stock", (), 1)
    assert record.budget.kind == "budget"
    assert record.budget.allowance_bytes == 2**33 - record.budget.live_bytes - record.budget.reserve_bytes
    assert record.budget.reserve_bytes >= 2 * sum(p.nbytes for p in _stack().parameters())
    assert "the unbudgeted graph fits" in summary_line(record)
    assert abs(trained.peak_bytes - record.predicted_peak_bytes) <= 64
    _assert_same(trained.gradients, _plain().gradients)


def test_a_tight_budget_is_kept_and_the_gradients_are_the_same() -> None:
    """80 % of what a step would take: the measured peak is below, and the predicted one to 64 bytes."""
    trained = _train(_stack(), activation_budget="80%")
    (record,) = trained.records
    assert record.unbudgeted_peak_bytes > record.budget.allowance_bytes >= trained.peak_bytes
    assert abs(_plain().peak_bytes - record.unbudgeted_peak_bytes) <= 64
    assert abs(trained.peak_bytes - record.predicted_peak_bytes) <= 64
    assert record.recomputed_bytes > 0
    assert record.modelled_time_us > record.unbudgeted_time_us
    _assert_same(trained.gradients, _plain().gradients)


def test_two_backwards_and_two_micro_batches() -> None:
    """One forward, backward twice: twice the gradient. Two forwards and backwards: the sum of both gradients."""
    model, x = _stack(), _batch()
    compiled = _compiled(model, activation_budget="80%")
    loss = compiled(x)
    loss.backward(retain_graph=True)
    loss.backward()
    _assert_same(_taken_gradients(model), [2 * gradient for gradient in _plain().gradients])
    for seed in (1, 3):
        compiled(_batch(seed)).backward()
    accumulated = _taken_gradients(model)
    for seed in (1, 3):
        model(_batch(seed)).backward()
    _assert_same(accumulated, _taken_gradients(model), 1e-5)


def test_a_budget_that_no_plan_fits_is_refused(tmp_path: Path) -> None:
    """The message names the smallest feasible budget, and what holds it. A dump has the graph, the plan and the wrappers."""
    before = reports()
    with pytest.raises(BackendCompilerFailed) as raised:
        _compiled(_stack(), activation_budget="1KiB", dump=str(tmp_path))(_batch())
    message = str(raised.value)
    assert "BudgetInfeasible: a budget of 1024 bytes" in message
    assert 'pass on_infeasible="warn"' in message
    assert "16.0 KiB  layers.3.linear aten.mm.default 256x16 test_backend.py:" in message
    assert reports() == before
    assert {"graph.txt", "plan.txt", "backward_wrapper.py"} <= {path.name for path in tmp_path.glob("graph_*/*")}


@pytest.mark.filterwarnings("ignore:NestedTensor does not implement", "ignore:The PyTorch API of nested tensors")
def test_jagged_tensors_are_refused_by_name() -> None:
    ragged = torch.nested.nested_tensor([torch.ones(3, 16), torch.ones(5, 16)], layout=torch.jagged)
    with pytest.raises(BackendCompilerFailed, match="UnsupportedGraph: cannot plan a graph with operation 'nested tensor'"):
        _compiled(nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16)), policy="full")(ragged)


class _Transposed(nn.Module):
    """A parameter whose gradient is laid out otherwise: autograd copies it as backward ends."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH, 64 * WIDTH).t())
        self.register_buffer("scale", torch.rand(64 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weight * self.scale).sum() * x.sum()


def test_the_copy_of_a_gradient_as_backward_ends_is_part_of_the_peak() -> None:
    trained = _train(_Transposed(), policy="smallest")
    (record,) = trained.records
    assert abs(trained.peak_bytes - record.predicted_peak_bytes) <= 64
    assert any("the copy of a gradient" in name for name, _ in record.holders)


@pytest.mark.parametrize("policy", ["full", "index:1"])
def test_a_plan_that_was_asked_for_is_refused_by_its_name(policy: str) -> None:
    """Nothing was looked for that is smaller, so none is promised."""
    with pytest.raises(BackendCompilerFailed, match=f"cannot be kept: policy '{policy}' needs") as raised:
        _compiled(_stack(), activation_budget="1KiB", policy=policy)(_batch())
    assert "the smallest" not in str(raised.value)


def test_a_budget_that_no_plan_fits_is_trained_over_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The budget is of the device: what is live is part of the smallest one that is named, and that one is feasible."""
    torch.compiler.reset()
    with caplog.at_level(logging.WARNING, "graphckpt"):
        trained = _train(_stack(), budget="1KiB", on_infeasible="warn")
    (record,) = trained.records
    fixed_bytes = record.budget.live_bytes + record.budget.reserve_bytes
    (warning,) = (message for message in caplog.messages if "over the budget" in message)
    assert f"the smallest feasible one is {record.predicted_peak_bytes + fixed_bytes} bytes" in warning
    assert "OVER the budget" in summary_line(record)
    assert record.budget.allowance_bytes == 0
    assert abs(trained.peak_bytes - record.predicted_peak_bytes) <= 64
    assert record.predicted_peak_bytes == record.smallest_peak_bytes < record.unbudgeted_peak_bytes
    _assert_same(trained.gradients, _plain().gradients)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation_bugdet": "1GiB"}, "unknown option 'activation_bugdet'. Did you mean 'activation_budget'"),
        ({"max_autotunee": True}, "Did you mean 'max_autotune'"),
        ({"policy": "evry_2"}, "option 'policy': wanted"),
        ({"on_infeasible": "wrn"}, "Did you mean 'warn'"),
        ({"budget": 0}, "option 'budget': wanted a size above zero, came 0"),
        ({"activation_budget": -5}, "wanted a size above zero, came -5"),
        ({"budget": "eight"}, "wanted a size above zero, came 'eight'. Give one of: 8GiB"),
        ({"budget": "1GiB", "activation_budget": "1GiB"}, "both 'budget' and 'activation_budget'"),
        ({"policy": "index:99"}, "'index:99' was wanted, but the frontier of this graph has"),
    ],
)
def test_what_cannot_be_read_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(BackendCompilerFailed) as raised:
        _compiled(_stack(layers=1), **options)(_batch())
    assert message in str(raised.value)
    assert "OptionError" in str(raised.value) or "BudgetError" in str(raised.value)


def test_inference_leaves_no_report() -> None:
    """Under `no_grad`, in evaluation too: the budget of one KiB binds training alone."""
    model, x, before = _stack(), _batch(), reports()
    wanted = model(x).detach()
    compiled = _compiled(model, activation_budget="1KiB")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), wanted)
        model.eval()
        torch.testing.assert_close(compiled(x), wanted)
    assert reports() == before


def test_a_frozen_model_does_not_find_the_report_of_its_training() -> None:
    """The stored reports are asked wherever nothing is planned."""
    model, x = _stack(), _batch()
    _compiled(model, activation_budget="1GiB")(x)
    before = reports()
    torch.compiler.reset()
    model.requires_grad_(False)
    torch.testing.assert_close(_compiled(model, activation_budget="1GiB")(x), model(x))
    assert reports() == before


def test_disabled_it_is_plain_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHCKPT_DISABLE", "1")
    trained = _train(_stack(), activation_budget="1KiB")
    assert trained.records == ()
    assert trained.peak_bytes == _plain().peak_bytes
    _assert_same(trained.gradients, _plain().gradients, 0.0)


def test_a_budget_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mode, which torch.compile does not take beside options; then overruled by options."""
    monkeypatch.setenv("GRAPHCKPT_ACTIVATION_BUDGET", "1GiB")
    before, model = len(reports()), _stack()
    torch.compile(model, backend="graphckpt", mode="reduce-overhead")(_batch()).backward()
    _assert_same(_taken_gradients(model), _plain().gradients)
    torch.compiler.reset()
    _compiled(model, activation_budget="2GiB", max_autotune=False)(_batch()).backward()
    asked = [(record.budget.source, record.budget.asked_bytes) for record in reports()[before:]]
    assert asked == [("environment", 2**30), ("options", 2**31)]


# Of a gradient that torch.compile looks at after a break; torch silences it, but not where warnings are errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_graph_break_gives_two_records() -> None:
    """Three layers and three: each graph by itself, numbered one after the other."""
    trained = _train(_stack(_Broken), policy="smallest")
    first, second = trained.records
    assert second.graph_id == first.graph_id + 1
    assert any("layers.0" in entry.module for entry in first.tensors)
    assert any("layers.5" in entry.module for entry in second.tensors)
    _assert_same(trained.gradients, _plain().gradients)


def test_dropout_draws_the_same_numbers_when_it_is_recomputed() -> None:
    """The same seed with and without recomputation; seeds alone are saved, not masks."""
    kept = _train(_stack(layer=_Dropped, layers=3), policy="stock")
    torch.compiler.reset()
    dropped = _train(_stack(layer=_Dropped, layers=3), policy="full")
    (record,) = dropped.records
    assert any("random" in entry.name for entry in record.recomputed)
    assert record.random_saved_bytes == 3 * 8
    _assert_same(dropped.gradients, kept.gradients)
    assert any(float(gradient.norm()) > 0 for gradient in kept.gradients)


def test_autocast() -> None:
    """Products in bfloat16 under the caller's autocast: as close to Inductor's as half precision is."""
    with torch.autocast("cpu", torch.bfloat16):
        trained, plain = _train(_stack(), policy="full"), _train(_stack(), "inductor")
    (record,) = trained.records
    assert "bfloat16" in {entry.dtype for entry in record.tensors}
    assert record.recomputed_bytes > 0
    _assert_same(trained.gradients, plain.gradients, 2e-2)


def test_regions_of_the_user_planned_anew_or_honoured() -> None:
    """checkpoint() around three of six layers, and room for all: planned anew nothing is dropped; honoured the region is."""
    free, honoured = (
        _train(_stack(_Regions), checkpoints=checkpoints, activation_budget="1GiB")
        for checkpoints in ("replan", "honour")
    )
    (free_record,), (record,) = free.records, honoured.records
    assert record.saved_bytes < free_record.saved_bytes == _layer_bytes(LAYERS)
    assert record.saved_bytes <= _layer_bytes(4)
    for trained in (free, honoured):
        _assert_same(trained.gradients, _plain().gradients)


def _layer_bytes(layers: int) -> int:
    return layers * ROWS * WIDTH * 4


def test_batches_of_any_size() -> None:
    """Marked dynamic: one graph for all. Not marked: a second one, at the second size."""
    model = _stack(layers=3)
    for marked, graphs in ((True, 1), (False, 2)):
        torch.compiler.reset()
        before, compiled = len(reports()), _compiled(model, policy="full")
        for rows in (ROWS, 96, 32):
            x = _batch(rows=rows)
            if marked:
                torch._dynamo.mark_dynamic(x, 0)
            compiled(x).backward()
            ours = _taken_gradients(model)
            model(_batch(rows=rows)).backward()
            _assert_same(ours, _taken_gradients(model), 1e-5)
        assert len(reports()) - before == graphs


_IN_A_PROCESS = """
import json, torch, graphckpt
w, v = (torch.full((8, 8), 0.5, requires_grad=True) for _ in range(2))
out = torch.compile(lambda x: x @ w @ v, backend="graphckpt", options={"activation_budget": "1GiB"})(torch.ones(4, 8))
out.backward(torch.ones_like(out))
print(json.dumps([[r.plan, r.predicted_peak_bytes, r.notes, float(w.grad.sum())] for r in graphckpt.reports()]))
"""


def test_a_hit_in_the_compile_cache_has_its_report(tmp_path: Path) -> None:
    """x @ w @ v in two processes: the second one compiles nothing."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    root = Path(__file__).parents[1]
    runs = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", _IN_A_PROCESS], env=environment, cwd=root, capture_output=True, text=True, check=True
        )
        runs.append(json.loads(done.stdout))
    ((*first, first_notes, first_sum),), ((*second, second_notes, second_sum),) = runs
    assert second == first
    assert second_sum == first_sum == 4 * 8 * 8 * 8 * 0.5
    assert second_notes == [*first_notes, "from the compile cache"]
