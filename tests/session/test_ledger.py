"""The bytes that Python can reach, before and after something is made. Other tests' tensors are there too: differences count."""

import gc
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from graphckpt.session.ledger import Ledger, take_ledger

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_garbage() -> None:
    """What earlier tests left would go away between two counts."""
    gc.collect()


def _added(make: Callable[[], object]) -> tuple[int, int]:
    """Live and trainable bytes that a made thing adds."""
    before = take_ledger(CPU)
    made = make()
    after = take_ledger(CPU)
    del made
    return after.live_bytes - before.live_bytes, after.trainable_bytes - before.trainable_bytes


def test_a_tensor_adds_its_bytes() -> None:
    assert _added(lambda: torch.zeros(1000)) == (4000, 0)
    assert _added(lambda: torch.zeros(1000, dtype=torch.bfloat16)) == (2000, 0)


def test_views_share_a_storage() -> None:
    """x -> x.t(), x[1:], x.detach()."""
    assert _added(lambda: (x := torch.zeros(10, 100), x.t(), x[1:], x.detach())) == (4000, 0)


def test_a_view_alone_holds_its_whole_base() -> None:
    assert _added(lambda: torch.zeros(1000)[:1]) == (4000, 0)


def test_parameters_are_trainable_if_they_get_gradients() -> None:
    """weight 8x8, frozen 4x8; a tensor with requires_grad is no parameter, its gradient is live alone."""
    assert _added(lambda: nn.Linear(8, 8, bias=False)) == (256, 256)
    assert _added(lambda: nn.Linear(8, 4, bias=False).requires_grad_(False)) == (128, 0)
    assert _added(lambda: torch.zeros(8, requires_grad=True)) == (32, 0)


def test_tied_parameters_count_once() -> None:
    def tied() -> object:
        first, second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        second.weight = first.weight
        return first, second

    assert _added(tied) == (256, 256)


class _Wrapper(torch.Tensor):
    """A tensor without a storage of its own, as distributed and quantised tensors are."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "_Wrapper":
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, *args: object, **kwargs: object) -> object:
        raise AssertionError("the ledger computed with a wrapper")


class _Refusing(torch.Tensor):
    """A subclass that answers nothing."""

    @classmethod
    def __torch_function__(cls, *args: object, **kwargs: object) -> object:
        raise AssertionError("the ledger asked a subclass")


def _fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.zeros(2**40)


def _freed() -> torch.Tensor:
    tensor = torch.zeros(1000)
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.parametrize(
    ("make", "size_bytes"),
    [
        (_fake, 0),
        (_freed, 0),
        (lambda: torch.zeros(1000, device="meta"), 0),
        (lambda: torch.zeros(3, 3).to_sparse(), 0),
        (lambda: nn.LazyLinear(8), 0),
        (lambda: _Wrapper(torch.zeros(1000)), 4000),
        (lambda: torch.zeros(1000).as_subclass(_Refusing), 4000),
    ],
    ids=["fake", "freed", "meta", "sparse", "lazy", "wrapper", "subclass"],
)
def test_odd_tensors_do_not_disturb(make: Callable[[], object], size_bytes: int) -> None:
    """What has no storage on the device counts nothing; a wrapper counts by what it wraps."""
    assert _added(make) == (size_bytes, 0)


def test_things_that_pretend_to_be_tensors_are_not_asked() -> None:
    """A proxy whose `isinstance` says tensor, and whose every attribute raises."""

    class _Proxy:
        @property
        def __class__(self) -> type:  # type: ignore[override]
            return torch.Tensor

        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"the ledger asked a proxy for {name}")

    assert _added(_Proxy) == (0, 0)


def _layer() -> nn.Linear:
    """64 trainable floats with a gradient."""
    layer = nn.Linear(8, 8, bias=False)
    layer.weight.grad = torch.zeros(8, 8)
    return layer


def _stateless_bytes() -> int:
    return take_ledger(CPU).stateless_bytes


def test_a_parameter_has_state_after_the_first_step_of_its_optimizer() -> None:
    """Two layers; Adam of the first: two moments of 256 bytes and a step counter. Then a second one, of the other layer."""
    before_bytes = _stateless_bytes()
    layers = _layer(), _layer()
    assert _stateless_bytes() - before_bytes == 512
    live_bytes = take_ledger(CPU).live_bytes
    first = torch.optim.Adam(layers[0].parameters(), foreach=False)
    assert _stateless_bytes() - before_bytes == 512
    first.step()
    after = take_ledger(CPU)
    assert after.live_bytes - live_bytes == 2 * 256 + 4
    assert after.stateless_bytes - before_bytes == 256
    second = torch.optim.Adam(layers[1].parameters(), foreach=False)
    second.step()
    assert _stateless_bytes() == before_bytes


def test_parameters_added_to_an_optimizer_that_has_run_have_no_state() -> None:
    """As where a part of a model is unfrozen later."""
    before_bytes, layers = _stateless_bytes(), (_layer(), _layer())
    optimizer = torch.optim.Adam(layers[0].parameters(), foreach=False)
    optimizer.step()
    optimizer.add_param_group({"params": list(layers[1].parameters())})
    assert _stateless_bytes() - before_bytes == 256
    assert not optimizer.state[layers[1].weight]
    assert _stateless_bytes() - before_bytes == 256
    optimizer.step()
    assert _stateless_bytes() == before_bytes


def test_frozen_parameters_have_no_state_to_come() -> None:
    before_bytes, layer = _stateless_bytes(), _layer()
    layer.requires_grad_(False)
    assert _stateless_bytes() == before_bytes
    layer.requires_grad_(True)
    assert _stateless_bytes() - before_bytes == 256


def test_state_goes_with_its_optimizer() -> None:
    before_bytes, layer = _stateless_bytes(), _layer()
    optimizer = torch.optim.Adam(layer.parameters(), foreach=False)
    optimizer.step()
    assert _stateless_bytes() == before_bytes
    del optimizer
    assert _stateless_bytes() - before_bytes == 256


def test_an_optimizer_that_failed_to_be_made_does_not_disturb() -> None:
    """It is still in sight, and has no ``state``."""
    layer = _layer()
    half_made = torch.optim.Adam.__new__(torch.optim.Adam, layer.parameters())
    assert not hasattr(half_made, "state")
    assert _stateless_bytes() >= 256


@pytest.mark.parametrize(
    ("optimizer", "stateless_bytes", "reserve_bytes"),
    [
        ("adam", 100, 200),
        ("adam", 40, 80),
        ("adam", 0, 0),
        ("sgd", 100, 0),
        ("sgd", 40, 0),
        (50, 100, 50),
        (50, 40, 20),
        (7, 40, 3),
        (7, 0, 0),
        (0, 100, 0),
    ],
)
def test_the_reserve(optimizer: str | int, stateless_bytes: int, reserve_bytes: int) -> None:
    """100 trainable bytes: state is to come for those that have none; of bytes as told their share, rounded up."""
    assert Ledger(0, 100, 0, 0, stateless_bytes).optimizer_reserve_bytes(optimizer) == reserve_bytes


def test_the_reserve_is_as_told_where_no_parameter_is_seen() -> None:
    """What is trained may be no `nn.Parameter`."""
    assert Ledger(0, 0, 0, 0, 0).optimizer_reserve_bytes(7) == 7
    assert Ledger(0, 0, 0, 0, 0).optimizer_reserve_bytes("adam") == 0


def test_on_cuda_the_allocator_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """1000 bytes, 100 of them free, 300 kept by the allocator, of which 250 are taken: 150 are free, less a margin of 50."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 250)
    assert take_ledger(torch.device("cuda", 0)) == Ledger(250, 0, 1000, 100, 0)


def test_the_device() -> None:
    """Of what is free a margin of 5 % of the device is left alone."""
    ledger = take_ledger(CPU)
    assert 0 <= ledger.free_bytes <= 0.95 * ledger.total_bytes
    assert ledger.live_bytes < ledger.total_bytes
