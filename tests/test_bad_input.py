"""Bad input: budgets that are none, empty batches, and modules that change, are copied or change process after compilation.

What is right happens, or an error of ours says what to do. Gradients are compared with eager mode.
"""

from __future__ import annotations

import copy
import faulthandler
import multiprocessing
import pickle
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.async_compile import AsyncCompile, get_compile_threads

from graphckpt import reports
from graphckpt.errors import BudgetError

WIDTH, ROWS = 16, 256

pytestmark = pytest.mark.usefixtures("compiled_anew")


class _Model(nn.Module):
    def __init__(self, layers: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x.square().sum()


def _model() -> _Model:
    torch.manual_seed(0)
    return _Model()


def _batch(rows: int = ROWS, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(rows, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype)


def _gradients(model: nn.Module, call: Callable[..., torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    call(x).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad(set_to_none=True)
    return gradients


def _assert_trains_as_eager(
    model: nn.Module, call: Callable[..., torch.Tensor], x: torch.Tensor, tolerance: float = 1e-5
) -> None:
    ours, wanted = _gradients(model, call, x), _gradients(model, model.forward, x)
    assert len(ours) == len(wanted) > 0
    for one, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["budget", "activation_budget"])
@pytest.mark.parametrize(
    "size",
    [
        *(float("nan"), float("inf"), -1.0, 0.5, "nan", "NaN%", "inf", "-inf%", "1e3GiB", "", " ", "0", 0, "0%", "0.0GiB"),
        *(-1, "-1GiB", "-5%", "101%", "100.0001%", "1000%", "GiB", "5 GiB GiB", "٣GiB", True, b"1GiB", [1], Decimal("NaN")),
    ],
)
def test_a_budget_that_is_none_is_refused_with_the_forms(name: str, size: object) -> None:
    compiled = torch.compile(_model(), backend="graphckpt", options={name: size})
    with pytest.raises(BackendCompilerFailed, match="Give one of: 8GiB") as caught:
        compiled(_batch())
    assert isinstance(caught.value.inner_exception, BudgetError)
    assert name in str(caught.value)


@pytest.mark.parametrize("size", ["nan", "-1", "101%", "-5%"])
def test_a_budget_of_the_environment_that_is_none_names_its_variable(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    monkeypatch.setenv("GRAPHCKPT_BUDGET", size)
    with pytest.raises(BackendCompilerFailed, match=r"GRAPHCKPT_BUDGET.*Give one of"):
        torch.compile(_model(), backend="graphckpt")(_batch())


@pytest.mark.parametrize("options", [{"activation_budget": "100%"}, {"activation_budget": "1MiB"}, {"policy": "smallest"}])
def test_an_empty_batch_trains(options: dict[str, object]) -> None:
    model = _model()
    compiled = torch.compile(model, backend="graphckpt", options=options)
    _assert_trains_as_eager(model, compiled, _batch(0))
    _assert_trains_as_eager(model, compiled, _batch())


def test_a_share_of_an_empty_batch_is_of_the_batches_before_it() -> None:
    """Alone it needs its gradients, of which nothing can be dropped: that is an error with the bytes that it takes."""
    model, options = _model(), {"activation_budget": "95%"}
    compiled = torch.compile(model, backend="graphckpt", options=options, dynamic=False)
    for rows in (4 * ROWS, 0):
        _assert_trains_as_eager(model, compiled, _batch(rows))
    with pytest.raises(BackendCompilerFailed, match="Raise the budget to at least"):
        torch.compile(_model(), backend="graphckpt", options={"activation_budget": "60%"})(_batch(0))


def test_an_empty_last_batch_trains() -> None:
    """Dynamo makes the size of the batch symbolic on the way, where zero is a case of its own."""
    model = _model()
    compiled = torch.compile(model, backend="graphckpt", options={"activation_budget": "1MiB"})
    for rows in (ROWS, ROWS // 2, 0, 1):
        _assert_trains_as_eager(model, compiled, _batch(rows))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_dtype_after_compilation_is_planned_anew(dtype: torch.dtype) -> None:
    model = _model()
    compiled = torch.compile(model, backend="graphckpt", options={"activation_budget": "95%"})
    _assert_trains_as_eager(model, compiled, _batch())
    before = len(reports())
    model.to(dtype)
    _assert_trains_as_eager(model, compiled, _batch(dtype=dtype), 1e-5 if dtype == torch.float64 else 5e-2)
    first, second = reports()[before - 1 :]
    assert second.predicted_peak_bytes <= second.budget.allowance_bytes
    assert second.unbudgeted_peak_bytes != first.unbudgeted_peak_bytes


@pytest.mark.parametrize("in_place", [False, True])
def test_a_deep_copy_after_compilation_trains_its_own_weights(in_place: bool) -> None:
    model = _model()
    options = {"activation_budget": "95%"}
    if in_place:
        model.compile(backend="graphckpt", options=options)
        compiled: Any = model
    else:
        compiled = torch.compile(model, backend="graphckpt", options=options)
    compiled(_batch()).backward()
    model.zero_grad(set_to_none=True)
    copied = copy.deepcopy(compiled)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(0.5)
    plain = copied if in_place else copied._orig_mod
    _assert_trains_as_eager(plain, copied, _batch())
    assert all(parameter.grad is None for parameter in model.parameters())
    _assert_trains_as_eager(model, compiled, _batch())


@pytest.mark.parametrize("in_place", [False, True])
def test_a_pickled_module_trains_after_compilation(in_place: bool) -> None:
    model = _model()
    options = {"activation_budget": "95%"}
    if in_place:
        model.compile(backend="graphckpt", options=options)
        compiled: Any = model
    else:
        compiled = torch.compile(model, backend="graphckpt", options=options)
    compiled(_batch()).backward()
    model.zero_grad(set_to_none=True)
    again = pickle.loads(pickle.dumps(compiled))
    before = len(reports())
    _assert_trains_as_eager(getattr(again, "_orig_mod", again), again, _batch())
    assert all(record.predicted_peak_bytes <= record.budget.allowance_bytes for record in reports()[before:])


def _in_child(compiled: Callable[..., torch.Tensor], model: nn.Module, queue: Any) -> None:
    faulthandler.dump_traceback_later(240, exit=True)
    try:
        torch.set_num_threads(1)
        known = len(reports())
        gradients = _gradients(model, compiled, _batch())
        other = _gradients(model, compiled, _batch(ROWS // 2))
        queue.put((sum(float(g.abs().sum()) for g in gradients), sum(float(g.abs().sum()) for g in other), len(reports()) - known))
    except BaseException as error:  # the parent is to see it
        queue.put(repr(error))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
def test_a_forked_process_trains_and_plans_on() -> None:
    """Both the compiled graph and a new one, of another size, work in the child; Inductor's threads have worked before the fork."""
    model = _model()
    torch.set_num_threads(1)
    if get_compile_threads() > 1:
        for task in [AsyncCompile.pool().submit(time.sleep, 0.1) for _ in range(get_compile_threads())]:
            task.result()
    compiled = torch.compile(model, backend="graphckpt", options={"activation_budget": "95%"}, dynamic=False)
    wanted = [sum(float(g.abs().sum()) for g in _gradients(model, model.forward, _batch(rows))) for rows in (ROWS, ROWS // 2)]
    _gradients(model, compiled, _batch())
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(compiled, model, queue))
    child.start()
    got = queue.get(timeout=260)
    child.join(timeout=30)
    assert not isinstance(got, str), got
    assert got[:2] == pytest.approx(wanted, rel=1e-4)
    assert got[2] == 1


def test_two_modules_of_one_step_keep_their_own_budgets() -> None:
    """One class, two budgets: the second does not get the code of the first."""
    torch.manual_seed(0)
    first, second, plain = _Model(), _Model(), _model()
    del plain
    before = len(reports())
    tight = torch.compile(first, backend="graphckpt", options={"activation_budget": "70%"})
    loose = torch.compile(second, backend="graphckpt", options={"activation_budget": "1GiB"})
    for _ in range(2):
        (tight(_batch()) + loose(_batch())).backward()
    got = [parameter.grad for model in (first, second) for parameter in model.parameters()]
    for model in (first, second):
        model.zero_grad(set_to_none=True)
    for _ in range(2):
        (first(_batch()) + second(_batch())).backward()
    for one, parameter in zip(got, [p for model in (first, second) for p in model.parameters()], strict=True):
        torch.testing.assert_close(one, parameter.grad)
    small, large = reports()[before:]
    assert small.predicted_peak_bytes <= small.budget.allowance_bytes < small.unbudgeted_peak_bytes
    assert large.budget.allowance_bytes == 2**30
    assert large.predicted_peak_bytes == large.unbudgeted_peak_bytes
