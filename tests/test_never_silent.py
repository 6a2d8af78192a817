"""A budget that binds no graph is never silent: one warning names the frame or module, the reason and the remedy.

Whatever keeps a training frame out of our graphs is a member of the kind: Dynamo falls back to eager mode, skips the frame, stops
recompiling, leaves a disabled part out, or hands over a graph that holds its own backward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from graphckpt import reports
from graphckpt.errors import BudgetUnbound

WIDTH = 8
BUDGET = {"activation_budget": "1MiB"}

pytestmark = [
    pytest.mark.usefixtures("compiled_anew"),
    # Dynamo asks for the gradient of an input that is no leaf: the output of a graph before.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


class _Said(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The warnings of graphckpt."""
    logger, handler = logging.getLogger("graphckpt"), _Said()
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)


def _x(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, WIDTH, generator=torch.Generator().manual_seed(0))


class _Layer(nn.Module):
    def __init__(self, factor: int = 1) -> None:
        super().__init__()
        self.linear, self.factor = nn.Linear(WIDTH, WIDTH), factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(x)) * self.factor


class _Recurrent(nn.Module):
    """The call of the LSTM is a graph break that Dynamo cannot resume from."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rnn = _Layer(), nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(self.first(x))[0].sum()


class _Guarded(nn.Module):
    """A graph break inside ``try``: Dynamo gives the whole frame up."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = _Layer()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        try:
            x = self.layer(x) * 2.0
            torch._dynamo.graph_break()
            return (x * x).sum()
        finally:
            pass


class _DisabledMethod(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.middle = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    @torch.compiler.disable
    def kept_out(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.middle(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.kept_out(self.linear(x)).sum()


class _DisabledChild(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.child = nn.Linear(WIDTH, WIDTH), torch.compiler.disable(_Layer())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.child(self.linear(x)).sum()


class _Counting(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def _step(model: Callable[..., Any], *inputs: torch.Tensor, options: dict[str, object] = BUDGET, steps: int = 3) -> None:
    """Train for some steps. A frame is named once with a budget, so tests that share a model have budgets of their own."""
    compiled = torch.compile(model, backend="graphckpt", options=options or None)
    for _ in range(steps):
        out = compiled(*inputs)
        (out[0] if isinstance(out, tuple) else out).sum().backward()


def _only(said: list[str], *words: str) -> None:
    """One warning was given, and it has all the words."""
    assert len(said) == 1, "\n".join(said)
    missing = [word for word in words if word not in said[0]]
    assert not missing, f"{missing} not in: {said[0]}"


# Autograd's anomaly mode, which AOTAutograd traces under, reports the operation it fails at.
@pytest.mark.filterwarnings("ignore:Error detected in IndexPutBackward0")
def test_masked_assignment_names_frame_reason_and_remedy(said: list[str]) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.token = nn.ModuleList(_Layer() for _ in range(2)), nn.Parameter(torch.rand(WIDTH))

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            x = x * 1.0
            x[mask] = self.token
            for layer in self.layers:
                x = layer(x)
            return x.sum()

    _step(Masked(), _x(4, 3), torch.tensor([[True, False, True]] * 4))
    _only(said, "activation budget of 1.00 MiB", "Masked.forward", "test_never_silent.py:", "aten.nonzero", "torch.where")


def test_a_recurrent_module_names_its_option_and_leaves_the_next_module_bound(said: list[str]) -> None:
    """Modules of torch.nn share one wrapper of torch's; giving it up for one is not to give it up for all."""
    _step(nn.LSTM(WIDTH, WIDTH, batch_first=True), _x(2, 4))
    _only(said, "LSTM", "activation budget", "torch._dynamo.config.allow_rnn=True")
    before = len(reports())
    _step(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()), _x(2))
    _step(nn.LSTM(WIDTH, WIDTH, batch_first=True), _x(2, 4))
    assert len(reports()) == before + 1
    assert len(said) == 1


def test_a_recurrent_part_names_the_frame_around_it(said: list[str]) -> None:
    _step(_Recurrent(), _x(2, 4), options={"activation_budget": "7MiB"})
    # torch 2.15 breaks the graph around the call; before, Dynamo gave the whole frame up.
    _only(said, ".forward (", "torch._dynamo.config.allow_rnn=True")
    assert "_Recurrent" in said[0] or "LSTM" in said[0]


def test_a_frame_given_up_for_a_graph_break_is_named(said: list[str]) -> None:
    _step(_Guarded(), _x(2))
    _only(said, "_Guarded.forward", "graph_break()", "TORCH_LOGS=graph_breaks", "fullgraph=True")


def test_a_function_that_trains_a_model_of_its_closure_is_named(said: list[str]) -> None:
    layer = _Layer()

    def step(x: torch.Tensor) -> torch.Tensor:
        try:
            torch._dynamo.graph_break()
            return layer(x).sum()
        finally:
            pass

    _step(step, _x(2))
    _only(said, "step (", "test_never_silent.py:")


def test_a_frame_that_passes_its_arguments_on_is_silent(said: list[str]) -> None:
    """What it calls is compiled and bound."""

    class Passing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = _Layer()

        def forward(self, *args: torch.Tensor, **others: object) -> torch.Tensor:
            try:
                count = len(args) - 1
                torch._dynamo.graph_break()
                return self.layer(args[count], **{name: value for name, value in others.items() if name})
            finally:
                pass

    before = len(reports())
    _step(Passing(), _x(2))
    assert len(reports()) == before + 1
    assert not said


def test_the_limit_of_recompilations_is_named(said: list[str]) -> None:
    layers = [torch.compile(_Layer(factor), backend="graphckpt", options=BUDGET) for factor in range(4)]
    with torch._dynamo.config.patch(recompile_limit=2):
        for _ in range(2):
            x = _x(2)
            for layer in layers:
                x = layer(x)
            x.sum().backward()
    _only(said, "_Layer.forward", "torch._dynamo.config.recompile_limit is 2", "Raise torch._dynamo.config.recompile_limit")


def test_a_frame_skipped_under_a_dispatch_mode_is_named(said: list[str]) -> None:
    with _Counting():
        _step(_Layer(), _x(2), options={"activation_budget": "5MiB"})
    _only(said, "_Layer.forward", "skipped", "dispatch mode")


@pytest.mark.parametrize(("model", "part"), [(_DisabledMethod, "_DisabledMethod"), (_DisabledChild, "_Layer")])
@pytest.mark.parametrize("options", [BUDGET, {**BUDGET, "on_infeasible": "error"}])
def test_a_disabled_part_is_named_and_no_error(
    said: list[str], model: type[nn.Module], part: str, options: dict[str, object]
) -> None:
    # One sentence a frame and budget in a process: every parameter set has a budget of its own.
    options = {**options, "activation_budget": f"{len(options) + 1}MiB"}
    _step(model(), _x(2), options=options)
    _only(said, f"{model.__name__}.forward", f"keeps {part} out", "torch.compiler.disable")


def test_gradients_inside_a_graph_are_named(said: list[str]) -> None:
    """torch.func over detached parameters: no input requires a gradient, yet the graph holds forward and backward."""
    layer, x = _Layer(), _x(2)
    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def loss(given: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(layer, given, (x,)).sum()

    def attempt(options: dict[str, object]) -> None:
        torch.compiler.reset()
        torch.compile(torch.func.grad_and_value(loss), backend="graphckpt", options=options)(parameters)

    attempt(BUDGET)
    _only(said, "test_never_silent.py:", "torch.func", "activation budget of 1.00 MiB")
    attempt({**BUDGET, "on_infeasible": "warn"})
    assert len(said) == 1
    with torch.no_grad():
        attempt({"activation_budget": "2MiB"})
    assert "activation budget of 2.00 MiB" in said[1]
    with pytest.raises(Exception, match=r"does not bind the graph of .*torch.func") as caught:
        attempt({**BUDGET, "on_infeasible": "error"})
    assert isinstance(getattr(caught.value, "inner_exception", caught.value), BudgetUnbound)


@pytest.mark.parametrize("where", ["options", "environment"])
def test_an_error_that_was_asked_for_is_raised(monkeypatch: pytest.MonkeyPatch, said: list[str], where: str) -> None:
    options = BUDGET
    if where == "options":
        options = {**BUDGET, "on_infeasible": "error"}
    else:
        monkeypatch.setenv("GRAPHCKPT_ON_INFEASIBLE", "error")
    compiled, x = torch.compile(_Guarded(), backend="graphckpt", options=options), _x(2)
    for _ in range(2):
        with pytest.raises(BudgetUnbound, match="_Guarded") as caught:
            compiled(x)
    assert "fullgraph=True" in caught.value.remedy
    assert not said


def test_a_policy_and_a_budget_of_the_environment_are_named(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    _step(_Guarded(), _x(2), options={"policy": "smallest"})
    _only(said, "policy 'smallest' does not bind _Guarded.forward")
    torch.compiler.reset()
    monkeypatch.setenv("GRAPHCKPT_BUDGET", "60%")
    _step(_Guarded(), _x(2), options={})
    assert "budget of 60% does not bind _Guarded.forward" in said[1]


def test_a_frame_that_first_runs_without_gradients_is_named_when_it_trains(said: list[str]) -> None:
    model = _Guarded()
    compiled, x = torch.compile(model, backend="graphckpt", options={"activation_budget": "3MiB"}), _x(2)
    with torch.no_grad():
        compiled(x)
    model.eval()
    compiled(x)
    # One more than the frame's own call: its inner frames come from the cache, and it is not traced again.
    traced = torch._dynamo.utils.counters["frames"]["total"]
    with torch.no_grad():
        compiled(x)
    assert torch._dynamo.utils.counters["frames"]["total"] == traced
    assert not said
    model.train()
    for _ in range(2):
        compiled(x).backward()
    _only(said, "_Guarded.forward")


def test_a_frame_given_up_without_a_budget_is_named_where_there_is_one(said: list[str]) -> None:
    _step(_Guarded(), _x(2), options={})
    assert not said
    _step(_Guarded(), _x(2), options={"activation_budget": "4MiB"})
    _only(said, "activation budget of 4.00 MiB does not bind _Guarded.forward")


def test_what_is_bound_and_what_does_not_train_is_silent(said: list[str]) -> None:
    budget = {"activation_budget": "8MiB"}
    _step(_Layer(), _x(2))
    _step(_Recurrent(), _x(2, 4), options={})
    _step(_Guarded(), _x(2), options={**budget, "disable": True})
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.compile(_Recurrent(), backend="graphckpt", options=budget)(_x(2, 4))
    torch.compile(_Recurrent().eval(), backend="graphckpt", options=budget)(_x(2, 4))
    torch.compile(_Recurrent().requires_grad_(False), backend="graphckpt", options=budget)(_x(2, 4))
    assert not said


def test_a_disabled_function_without_parameters_is_silent(said: list[str]) -> None:
    heard = []

    class Logging(_Layer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = super().forward(x)
            torch.compiler.disable(heard.append)(1)
            return (x * x).sum()

    _step(Logging(), _x(2))
    assert heard
    assert not said


def test_other_backends_are_left_alone(said: list[str]) -> None:
    torch.compile(_Recurrent(), backend="eager", options=None)(_x(2, 4)).backward()
    torch.compile(_Guarded(), backend="inductor")(_x(2)).backward()
    assert not said


def test_a_frame_that_is_disabled_without_what_it_calls_stays_so() -> None:
    """Dynamo finds out from the frames above its own, of which one is ours."""
    layer, seen = _Layer(), []

    @torch.compiler.disable(recursive=False)
    def kept_out(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.compiler.is_compiling())
        return layer(x * 2.0).sum()

    def outer(x: torch.Tensor) -> torch.Tensor:
        return kept_out(x * 1.5)

    _step(outer, _x(2))
    assert seen == [False] * 3


def test_a_recurrent_module_that_first_runs_without_gradients_is_named_when_it_trains(said: list[str]) -> None:
    compiled = torch.compile(_Recurrent(), backend="graphckpt", options={"activation_budget": "6MiB"})
    with torch.no_grad():
        compiled(_x(2, 4))
    assert not said
    compiled(_x(2, 4)).backward()
    _only(said, "allow_rnn", "6.00 MiB")
