"""Workspaces are measured by running the call: counted once, and never at the price of a failed compilation."""

from itertools import accumulate

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import graphckpt.kernels.attention.ops  # noqa: F401 (registers the operators)
from graphckpt.compat.fake import memory_changes
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


@pytest.mark.parametrize("target", [print, len])
def test_what_is_no_operator_takes_nothing(meter: WorkspaceMeter, target: object) -> None:
    assert meter.peak_bytes(target, (_shape(2, 2), _shape(2, 2)), {}) == 0
    assert meter.measured == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_run_small_where_they_take_nothing_beside_their_result(meter: WorkspaceMeter, dtype: torch.dtype) -> None:
    """(1000, 500) times (500, 300) is run as (64, 64) times (64, 64); the answer is the result's 1000 * 300 numbers."""
    args = (_shape(1000, 500, dtype=dtype), _shape(300, 500, dtype=dtype).t())
    assert meter.peak_bytes(ATEN.mm.default, args, {}) == 1000 * 300 * dtype.itemsize
    (key,) = meter.measured
    assert key[2:] == (((64, 64), (64, 1), str(dtype)), ((64, 64), (1, 64), str(dtype)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_of_halves_are_measured_as_they_are_or_bounded(dtype: torch.dtype) -> None:
    """What a bound says where measuring does not fit is at least what measuring says where it does."""
    args = (_shape(200, 300, dtype=dtype), _shape(100, 300, dtype=dtype).t())
    peaks = [WorkspaceMeter(torch.device("cpu"), limit).peak_bytes(ATEN.mm.default, args, {}) for limit in (2**40, 1000)]
    assert 200 * 100 * 2 <= peaks[0] <= peaks[1]


def test_what_does_not_fit_is_not_run_and_noted() -> None:
    meter = WorkspaceMeter(torch.device("cpu"), free_bytes=399)
    assert meter.peak_bytes(ATEN.sin.default, (_shape(100),), {}) == 0
    assert meter.unmeasured == {"aten.sin.default": "its arguments take 400 bytes, and 399 are free"}


def _attention(rows: int, keys: torch.Tensor | None, window: int) -> tuple[object, ...]:
    q, k, v = (_shape(1, 2, rows, 16) for _ in range(3))
    return (q, k, v, None, keys, None, None, None, None, 0.25, window, 0, 0, 0.0, 0.0, 1, "blocked")


def test_masks_are_measured_at_their_worst(meter: WorkspaceMeter) -> None:
    """Attention whose keys may all be hidden is measured hidden, and takes about what the band alone takes."""
    hidden = meter.peak_bytes(torch.ops.graphckpt.attention.default, _attention(512, _shape(1, 512, dtype=torch.bool), 31), {})
    band = meter.peak_bytes(torch.ops.graphckpt.attention.default, _attention(512, None, 31), {})
    real = torch.rand(1, 2, 512, 16)
    keys = torch.ones(1, 512, dtype=torch.bool)
    keys[0, 300:] = False
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as watched:
        torch.ops.graphckpt.attention(real, real, real, None, keys, None, None, None, None, 0.25, 31, 0, 0, 0.0, 0.0, 1, "blocked")
    measured = max(accumulate(memory_changes(watched)))
    assert measured <= hidden
    assert hidden < 1.5 * band


def test_numbers_that_are_not_finite_take_what_was_measured(meter: WorkspaceMeter) -> None:
    expected = meter.peak_bytes(torch.ops.graphckpt.attention.default, _attention(256, None, -1), {})
    real = torch.rand(1, 2, 256, 16)
    real[0, 1, 100] = torch.inf
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as watched:
        torch.ops.graphckpt.attention(real, real, real, None, None, None, None, None, None, 0.25, -1, 0, 0, 0.0, 0.0, 1, "blocked")
    assert max(accumulate(memory_changes(watched))) <= expected


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
