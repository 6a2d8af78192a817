"""Workspaces are measured by running the call: counted once, and never at the price of a failed compilation."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from graphckpt.cost.workspace import WorkspaceMeter

ATEN = torch.ops.aten


@pytest.fixture
def meter() -> WorkspaceMeter:
    return WorkspaceMeter(torch.device("cpu"))


def _shape(*size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(size, dtype=dtype, device="meta")


def test_results_are_included(meter: WorkspaceMeter) -> None:
    """sin of 100 floats allocates its result; sort two, 100 floats and 100 longs, and whatever it needs besides."""
    assert meter.peak_bytes(ATEN.sin.default, (_shape(100),), {}) == 400
    assert meter.peak_bytes(ATEN.sort.default, (_shape(100),), {}) >= 1200


def test_a_workspace_that_is_gone_afterwards_counts(meter: WorkspaceMeter) -> None:
    """The norm of a matrix by its singular values returns 4 bytes and needs a copy of it."""
    assert meter.peak_bytes(ATEN.linalg_matrix_norm.default, (_shape(16, 16), 2.0), {}) > 16 * 16 * 4


def test_an_equal_call_is_measured_once(meter: WorkspaceMeter) -> None:
    """Other sizes, strides, types and arguments are other calls."""
    for _ in range(2):
        meter.peak_bytes(ATEN.sum.dim_IntList, (_shape(4, 8), [0]), {})
    assert len(meter.measured) == 1
    meter.peak_bytes(ATEN.sum.dim_IntList, (_shape(4, 8), [1]), {})
    meter.peak_bytes(ATEN.sum.dim_IntList, (_shape(8, 4).t(), [0]), {})
    meter.peak_bytes(ATEN.sum.dim_IntList, (_shape(4, 8, dtype=torch.float64), [0]), {})
    assert len(meter.measured) == 4
    assert list(meter.measured.values()) == [32, 16, 32, 64]


def test_integers_are_valid_indices(meter: WorkspaceMeter) -> None:
    """A table of one row can be read at 0 alone."""
    words = _shape(3, 5, dtype=torch.int64)
    assert meter.peak_bytes(ATEN.embedding.default, (_shape(1, 4), words), {}) >= 3 * 5 * 4 * 4
    assert meter.unmeasured == {}


@pytest.mark.parametrize("target", [ATEN.mm.default, ATEN.bmm.default, ATEN.addmm.default, print, len])
def test_products_and_what_is_no_operator_take_nothing(meter: WorkspaceMeter, target: object) -> None:
    assert meter.peak_bytes(target, (_shape(2, 2), _shape(2, 2)), {}) == 0
    assert meter.measured == {}


def test_a_call_that_cannot_be_run_is_noted(meter: WorkspaceMeter) -> None:
    """(2, 3) and (4, 5) cannot be concatenated: the reason is kept, the answer is 0."""
    assert meter.peak_bytes(ATEN.cat.default, ([_shape(2, 3), _shape(4, 5)],), {}) == 0
    assert "Sizes of tensors must match" in meter.unmeasured["aten.cat.default"]


def test_a_running_profiler_is_left_alone(meter: WorkspaceMeter) -> None:
    """There can be one at a time: nothing is measured, and it is noted."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        assert meter.peak_bytes(ATEN.sin.default, (_shape(4),), {}) == 0
    assert meter.unmeasured == {"aten.sin.default": "a profiler was running while the graph was compiled"}


def test_a_compilation_around_it_sees_nothing(meter: WorkspaceMeter) -> None:
    """Fake tensors go in under their mode, a number comes out, and the random numbers of the caller go on as before."""
    with FakeTensorMode():
        assert meter.peak_bytes(ATEN.sin.default, (torch.empty(100),), {}) == 400
    assert meter.unmeasured == {}


def test_the_callers_random_numbers_are_left_alone(meter: WorkspaceMeter) -> None:
    """A run with a budget draws what a run without one draws."""
    torch.manual_seed(0)
    wanted = torch.rand(2)
    torch.manual_seed(0)
    meter.peak_bytes(ATEN.sin.default, (_shape(100),), {})
    assert torch.equal(torch.rand(2), wanted)
