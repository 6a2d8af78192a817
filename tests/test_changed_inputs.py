"""What backward reads again is what forward read: buffers and inputs that eager code writes between the two.

    x - center -> up -> gelu -> + scale -> tanh -> down        center and scale are written when forward is over
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from graphckpt.errors import InputChanged

pytestmark = pytest.mark.usefixtures("compiled_anew")
Options = dict[str, Any]
PLANS: list[Options] = [
    {"policy": "full"},
    {"activation_budget": "85%"},
    {"policy": "smallest", "inner": "eager"},
]
ROWS, SMALL, LARGE = 512, 32, 128 * 1024


class Net(nn.Module):
    """``width`` of the hidden layer: of its buffer of as many fp64 numbers, one is small and one is not."""

    def __init__(self, width: int = 4 * SMALL) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(SMALL, width), nn.Linear(width, SMALL)
        self.register_buffer("center", torch.ones(SMALL))
        self.register_buffer("scale", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(F.gelu(self.up(x - self.center)) + self.scale[None])
        return self.down(torch.tanh(hidden * self.scale)).square().mean()


def in_place(net: nn.Module) -> None:
    with torch.no_grad():
        for buffer in net.buffers():
            buffer.mul_(0.5)


def through_data(net: nn.Module) -> None:
    for buffer in net.buffers():
        buffer.data.mul_(0.5)


def _gradients(net: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor, between: Callable[[nn.Module], None]) -> list[Tensor]:
    loss = run(x)
    between(net)
    loss.backward()
    return [parameter.grad for parameter in net.parameters() if parameter.grad is not None]


def _net(width: int = 4 * SMALL) -> nn.Module:
    torch.manual_seed(0)
    return Net(width).double()


def _x(rows: int = ROWS) -> Tensor:
    return torch.randn(rows, SMALL, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("options", PLANS, ids=str)
@pytest.mark.parametrize("between", [in_place, through_data], ids=lambda write: write.__name__)
def test_small_buffers_may_be_written_between_the_passes(options: Options, between: Callable[[nn.Module], None]) -> None:
    """Eager keeps the results of what reads these buffers; a plan computes them again, from copies."""
    torch.manual_seed(0)

    class KeepsResults(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.down(torch.tanh(F.gelu(self.up(x - self.center)) + self.scale[None])).square().mean()

    expected = _gradients(net := KeepsResults().double(), net, _x(), between)
    torch.manual_seed(0)
    net = KeepsResults().double()
    run = torch.compile(net, backend="graphckpt", options=options)
    torch.testing.assert_close(_gradients(net, run, _x(), between), expected)


def test_a_small_batch_may_be_written_too() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(SMALL, 4 * SMALL), nn.Linear(4 * SMALL, SMALL)

        def forward(self, x: Tensor, shift: Tensor) -> Tensor:
            return self.down(torch.tanh(F.gelu(self.up(x)) + shift)).square().mean()

    results = []
    for backend in (None, "graphckpt"):
        torch.manual_seed(0)
        net, shift = Shifted().double(), torch.ones(4 * SMALL, dtype=torch.float64)
        run = net if backend is None else torch.compile(net, backend=backend, options={"policy": "full"})
        loss = run(_x(), shift)
        shift.fill_(7.0)
        loss.backward()
        results.append([parameter.grad for parameter in net.parameters()])
    torch.testing.assert_close(results[1], results[0])


class Wide(nn.Module):
    """A buffer of one megabyte that eager does not save, and a plan reads again."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(SMALL, 256), nn.Linear(256, SMALL)
        self.register_buffer("table", torch.ones(LARGE // 256, 256))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(torch.tanh(self.up(x)) + self.table)).square().mean()


def test_a_large_buffer_that_changed_is_named() -> None:
    net = Wide()
    run = torch.compile(net, backend="graphckpt", options={"policy": "full"})
    x = torch.randn(LARGE // 256, SMALL)
    with pytest.raises(InputChanged, match=r"^graphckpt: 'table' changed between forward and backward.*buffer\.clone\(\)"):
        _gradients(net, run, x, in_place)
    # What is not written to trains on.
    assert len(_gradients(net, run, x, lambda _: None)) == 4


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_call_is_found_behind_a_view_of_its_input() -> None:
    """x -> first -> h -> second -> (a view of h, two views of one result): behind the view of h is the first call."""

    class Viewing(Wide):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            hidden = torch.sin(torch.tanh(torch.tanh(self.up(x)) + self.table))
            return x.view(-1), hidden.view(-1), hidden.t()

    net, options = Viewing(), {"policy": "full"}
    first = torch.compile(lambda x: torch.tanh(torch.sin(x)), backend="graphckpt", options=options)
    second = torch.compile(net, backend="graphckpt", options=options)
    outputs = second(first(torch.randn(LARGE // 256, SMALL, requires_grad=True)))
    in_place(net)
    with pytest.raises(InputChanged, match="'table'"):
        sum(output.square().sum() for output in outputs).backward()


def test_a_weight_that_changed_is_named() -> None:
    net = Wide()
    run = torch.compile(net, backend="graphckpt", options={"policy": "full"})

    def step(_: nn.Module) -> None:
        with torch.no_grad():
            net.down.weight.mul_(0.5)

    with pytest.raises(InputChanged, match=r"'down\.weight'"):
        _gradients(net, run, torch.randn(LARGE // 256, SMALL), step)


def test_what_no_version_shows_is_seen_by_verify() -> None:
    """A write through ``.data`` to a large buffer: the one case that goes unseen without ``verify``."""
    net = Wide()
    run = torch.compile(net, backend="graphckpt", options={"policy": "full", "verify": True})
    x = torch.randn(LARGE // 256, SMALL)
    with pytest.raises(InputChanged, match="'table'"):
        _gradients(net, run, x, through_data)


def test_an_input_that_backward_does_not_read_may_change() -> None:
    """A count of steps that forward reads and backward does not, written in place, large."""

    class Counted(Wide):
        def forward(self, x: Tensor) -> Tensor:
            return self.down(torch.tanh(self.up(x))).square().mean() + self.table.detach().sum() * 0

    for options in ({"policy": "full"}, {"policy": "full", "verify": True}):
        torch.compiler.reset()
        net = Counted()
        run = torch.compile(net, backend="graphckpt", options=options)
        for between in (in_place, through_data):
            assert len(_gradients(net, run, torch.randn(LARGE // 256, SMALL), between)) == 4


def test_under_a_checkpoint_forward_runs_again_on_what_was_written() -> None:
    """Not reentrant, and the buffers are written before backward: what is recomputed is eager's, and is asked for once."""
    results = []
    for options in (None, {"policy": "full"}):
        net, x = _net(), _x().requires_grad_()
        if options is not None:
            net.compile(backend="graphckpt", options=options)
        loss = checkpoint(net, x, use_reentrant=False)
        in_place(net)
        loss.backward()
        results.append([parameter.grad for parameter in net.parameters()])
    torch.testing.assert_close(results[1], results[0])


def test_an_optimizer_in_backward_trains_as_in_eager() -> None:
    """Each parameter is stepped when its gradient is there, within ``backward()``."""
    weights = []
    for options in (None, {"policy": "smallest"}):
        net = _net()
        for parameter in net.parameters():
            optimizer = torch.optim.SGD([parameter], lr=0.1)

            def step(parameter: Tensor, optimizer: torch.optim.Optimizer = optimizer) -> None:
                optimizer.step()
                optimizer.zero_grad()

            parameter.register_post_accumulate_grad_hook(step)
        run = net if options is None else torch.compile(net, backend="graphckpt", options=options)
        for _ in range(3):
            run(_x()).backward()
        weights.append([parameter.detach().clone() for parameter in net.parameters()])
    torch.testing.assert_close(weights[1], weights[0])
