"""How many bytes an aten kernel allocates while it runs, measured once per operation, shape, stride, type and thread count.

Nothing else tells: the flash attention of the CPU holds 10.5 MB for 6.3 MB of gradients, a convolution up to three times its
result, a product in bf16 copies of its operands. The kernel runs on data made up here, at its worst: where what it allocates may
depend on data, it runs on several fillings (masks that let all through and masks that let nothing through; of our own operators
also numbers that are not finite), and the most counts.

Products in fp32 and fp64 are run small: what takes nothing beside its result there takes nothing at any size.

Not guaranteed: a kernel of aten whose allocations depend on numbers, not masks. We know of none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple, cast

import torch
from torch.profiler import ProfilerActivity, profile

from graphckpt.compat.fake import (
    extent,
    is_operator,
    memory_changes,
    profiler_is_on,
    real_execution,
    size_hint,
    tensor_bytes,
    tree_leaves,
    tree_map,
)

_OURS = "graphckpt."
_WITHOUT_EFFECTS = ("aten.", _OURS)
_PRODUCTS = ("aten.mm.", "aten.addmm.", "aten.bmm.", "aten.baddbmm.")
# A product of these types is run small. Large enough for every kernel of the CPU that takes halves: oneDNN from 16 on.
_RUN_SMALL = (torch.float32, torch.float64)
_SMALL = 64
_NO_LIMIT = 2**62


class _Filling(NamedTuple):
    """What made-up data holds: masks of one value; numbers from 0 to 1, or one infinite among them; integers all zero, which are
    valid indices, or of each tensor another."""

    mask: bool = True
    has_infinity: bool = False
    integers_differ: bool = False


@dataclass(slots=True)
class WorkspaceMeter:
    """Measures each distinct call once: ``measured`` is its table, ``unmeasured`` what it could not run, with the reason.

    ``limit_bytes``: what the budget leaves; a product that takes more is not run, but bounded. ``free_bytes``: what the device has;
    no kernel is run whose arguments take more. Between the two a kernel is run: its arguments alone are over the budget, unless
    they are parameters, and what it needs must be known to say which budget would do.
    """

    device: torch.device
    limit_bytes: int = _NO_LIMIT
    free_bytes: int = _NO_LIMIT
    measured: dict[tuple[object, ...], int] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)

    def peak_bytes(self, target: object, args: Sequence[object], kwargs: Mapping[str, object]) -> int:
        """Bytes allocated at the worst moment inside the call, results included; 0 for calls that are not operators.

        ``target`` as text names an operator whose call is not known: it is noted as unmeasured.
        """
        name = str(target)
        if isinstance(target, str):
            self.unmeasured[name] = "the traced call behind it is not known"
            return 0
        if not is_operator(target):
            return 0
        if not name.startswith(_WITHOUT_EFFECTS):
            self.unmeasured[name] = "only operators of aten and our own are run to be measured; others may have effects"
            return 0
        if name.startswith(_PRODUCTS):
            return self._of_product(target, args, kwargs)
        return self._measured(target, args, kwargs)

    def _of_product(self, target: object, args: Sequence[object], kwargs: Mapping[str, object]) -> int:
        result_bytes = _result_bytes(target, args, kwargs)
        operands = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, torch.Tensor)]
        if self.device.type == "cpu" and all(operand.dtype in _RUN_SMALL for operand in operands):
            small, small_kwargs = tree_map(_cut, (tuple(args), dict(kwargs)))
            if self._measured(target, small, small_kwargs) <= _result_bytes(target, small, small_kwargs):
                return result_bytes
        if sum(map(tensor_bytes, operands)) + result_bytes > self.limit_bytes:
            return result_bytes + _product_bound_bytes(target, args, kwargs)
        return self._measured(target, args, kwargs)

    def _measured(self, target: object, args: Sequence[object], kwargs: Mapping[str, object]) -> int:
        key = (str(target), torch.get_num_threads(), *(_signature(leaf) for leaf in tree_leaves((args, dict(kwargs)))))
        if key not in self.measured:
            self.measured[key] = self._measure(target, args, kwargs)
        return self.measured[key]

    def _measure(self, target: object, args: Sequence[object], kwargs: Mapping[str, object]) -> int:
        name = str(target)
        if profiler_is_on():
            self.unmeasured[name] = "a profiler was running while the graph was compiled"
            return 0
        tensors = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, torch.Tensor)]
        given_bytes = sum(map(tensor_bytes, tensors))
        if given_bytes > self.free_bytes:
            self.unmeasured[name] = f"its arguments take {given_bytes} bytes, and {self.free_bytes} are free"
            return 0
        call = cast(Any, target)
        devices = [self.device] if self.device.type == "cuda" else []
        worst_bytes = 0
        with real_execution(), torch.random.fork_rng(devices):
            for filling in _fillings(name, tensors):
                try:
                    real_args, real_kwargs = tree_map(_Maker(self.device, filling), (tuple(args), dict(kwargs)))
                    worst_bytes = max(worst_bytes, self._peak(partial(call, *real_args, **real_kwargs)))
                except (RuntimeError, TypeError, IndexError, MemoryError) as error:
                    self.unmeasured[name] = str(error).splitlines()[0]
        return worst_bytes

    def _peak(self, run: Callable[[], object]) -> int:
        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            # Not by the allocator's own statistics: the user may be reading them.
            activities.append(ProfilerActivity.CUDA)
        # Without acc_events the profiler of torch 2.11 warns that it keeps one cycle only.
        with profile(activities=activities, profile_memory=True, acc_events=True) as watched:
            result = run()
        del result
        return max(0, *accumulate(memory_changes(watched, self.device)), 0)


@dataclass(slots=True)
class _Maker:
    """Makes a real value for each leaf of a call's arguments."""

    device: torch.device
    filling: _Filling
    integers: int = 0

    def __call__(self, leaf: object) -> object:
        if not isinstance(leaf, torch.Tensor):
            return size_hint(leaf) if isinstance(leaf, torch.SymInt) else leaf
        size, stride = [size_hint(n) for n in leaf.shape], [size_hint(s) for s in leaf.stride()]
        data = self._data(extent(size, stride), leaf.dtype)
        return data.as_strided(size, stride)

    def _data(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        if dtype == torch.bool:
            return torch.full((count,), self.filling.mask, device=self.device)
        if not dtype.is_floating_point:
            self.integers += 1
            number = self.integers if self.filling.integers_differ else 0
            return torch.full((count,), number, dtype=dtype, device=self.device)
        data = torch.rand(count, device=self.device).to(dtype)
        if self.filling.has_infinity and count:
            data[0] = torch.inf
        return data


def _fillings(name: str, tensors: Sequence[torch.Tensor]) -> tuple[_Filling, ...]:
    """All fillings under which a call may take other amounts."""
    has_masks = any(tensor.dtype == torch.bool for tensor in tensors)
    if not name.startswith(_OURS):
        return (_Filling(), _Filling(mask=False)) if has_masks else (_Filling(),)
    shown = tuple(_Filling(has_infinity=strange) for strange in (False, True))
    # Two of integers are documents; one alone is a seed.
    has_masks |= sum(not tensor.dtype.is_floating_point for tensor in tensors) >= 2
    hidden = tuple(_Filling(False, strange, integers_differ=True) for strange in (False, True))
    return (*shown, *hidden) if has_masks else shown


def _cut(leaf: object) -> object:
    """A tensor without data of `_SMALL` at most in every dimension, its strides in the same order."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    size, given = [min(size_hint(n), _SMALL) for n in leaf.shape], [size_hint(s) for s in leaf.stride()]
    strides, step = [0] * leaf.dim(), 1
    for dim in sorted(range(leaf.dim()), key=lambda dim: given[dim]):
        # What is broadcast stays so.
        strides[dim] = step if given[dim] else 0
        step *= size[dim] if strides[dim] else 1
    return torch.empty_strided(size, strides, dtype=leaf.dtype, device="meta")


def _product_bound_bytes(target: object, args: Sequence[object], kwargs: Mapping[str, object]) -> int:
    """What a product of halves takes beside its result at most: each operand and the result once more, in the type that is summed
    in, and laid out in blocks."""
    result = _result(target, args, kwargs)
    tensors = [leaf for leaf in (*tree_leaves((args, dict(kwargs))), *tree_leaves(result)) if isinstance(leaf, torch.Tensor)]
    return sum(_in_blocks(tensor) * torch.float32.itemsize for tensor in tensors)


def _in_blocks(tensor: torch.Tensor) -> int:
    """Elements of a tensor whose last two dimensions are filled up to blocks."""
    *outer, rows, columns = (1, 1, *map(size_hint, tensor.shape))
    return prod(outer) * (-(-rows // _SMALL) * _SMALL) * (-(-columns // _SMALL) * _SMALL)


def _result_bytes(target: object, args: Sequence[object], kwargs: Mapping[str, object]) -> int:
    result = _result(target, args, kwargs)
    return sum(tensor_bytes(leaf) for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))


def _result(target: object, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
    """What a call gives, as tensors without data."""

    def blank(leaf: object) -> object:
        if isinstance(leaf, torch.Tensor):
            return torch.empty([size_hint(n) for n in leaf.shape], dtype=leaf.dtype, device="meta")
        return size_hint(leaf) if isinstance(leaf, torch.SymInt) else leaf

    with real_execution():
        blank_args, blank_kwargs = tree_map(blank, (tuple(args), dict(kwargs)))
        return cast(Any, target)(*blank_args, **blank_kwargs)


def _signature(leaf: object) -> object:
    if isinstance(leaf, torch.Tensor):
        return (tuple(map(size_hint, leaf.shape)), tuple(map(size_hint, leaf.stride())), str(leaf.dtype))
    return size_hint(leaf) if isinstance(leaf, torch.SymInt) else str(leaf)
