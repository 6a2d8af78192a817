"""Tensors without data: their sizes, and how to leave them."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from graphckpt.compat.fake import (
    is_operator,
    memory_changes,
    profiler_is_on,
    real_execution,
    size_hint,
    tensor_bytes,
)
from graphckpt.errors import UnsupportedGraph


def _dynamic(rows: int) -> tuple[ShapeEnv, torch.Tensor]:
    shapes = ShapeEnv()
    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC, DimDynamic.STATIC])
    return shapes, FakeTensorMode(shape_env=shapes).from_tensor(torch.empty(rows, 8), symbolic_context=context)


def test_a_dynamic_size_is_read_without_a_guard() -> None:
    """5 rows of 8 floats: the numbers of the trace, and nothing that ties the trace to them."""
    shapes, fake = _dynamic(5)
    before = len(shapes.guards)
    assert isinstance(fake.shape[0], torch.SymInt)
    assert size_hint(fake.shape[0]) == 5
    assert size_hint(fake.shape[0] * 3 + 1) == 16
    assert tensor_bytes(fake) == 160
    assert len(shapes.guards) == before
    assert int(fake.shape[0]) == 5
    assert len(shapes.guards) > before


def test_a_size_that_depends_on_data_is_not_known() -> None:
    with pytest.raises(UnsupportedGraph, match="depends on data"):
        size_hint(ShapeEnv().create_unbacked_symint())


@pytest.mark.parametrize(
    ("tensor", "size_bytes"),
    [
        (torch.empty(4, 8), 128),
        (torch.empty(()), 4),
        (torch.empty(4, 8)[:, :2], (3 * 8 + 2) * 4),
        (torch.empty(1, 8).expand(4, 8), 32),
        (torch.empty(0, 8), 0),
        (torch.empty(3, dtype=torch.bool), 3),
    ],
)
def test_bytes_span_from_the_first_to_the_last_element(tensor: torch.Tensor, size_bytes: int) -> None:
    assert tensor_bytes(tensor) == size_bytes


def test_real_execution_leaves_fake_tensors_and_comes_back() -> None:
    with FakeTensorMode():
        with real_execution():
            inside = torch.ones(2, requires_grad=True) * 2
        outside = torch.ones(2)
    assert type(inside) is torch.Tensor
    assert inside.tolist() == [2.0, 2.0]
    assert not inside.requires_grad
    assert type(outside) is not torch.Tensor


def test_memory_changes_are_in_the_order_of_time() -> None:
    """400 bytes come, 80 come, 400 go, 80 go."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        assert profiler_is_on()
        large = torch.empty(100)
        small = torch.empty(20)
        del large, small
    assert not profiler_is_on()
    assert memory_changes(profile) == [400, 80, -400, -80]


def test_is_operator() -> None:
    assert is_operator(torch.ops.aten.mm.default)
    assert not is_operator(torch.ops.aten.mm)
    assert not is_operator(print)
