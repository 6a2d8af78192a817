"""Fake tensors and dispatch modes: leaving them for a moment, to run one kernel for real inside a compilation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from graphckpt.errors import UnsupportedGraph

__all__ = [
    "is_operator",
    "memory_changes",
    "profiler_is_on",
    "real_execution",
    "size_hint",
    "storage_on",
    "tensor_bytes",
    "tree_leaves",
    "tree_map",
]


@contextmanager
def real_execution() -> Iterator[None]:
    """Inside, tensors have data, no mode of a surrounding compilation sees what is called, and autocast casts nothing."""
    with ExitStack() as stack:
        stack.enter_context(unset_fake_temporarily())
        stack.enter_context(_disable_current_modes())
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch._C._DisableAutocast())
        yield


def size_hint(size: int | torch.SymInt) -> int:
    """A size as it is in this trace. ``int(size)`` would tie the compiled graph to that number.

    Raises:
        UnsupportedGraph: the size depends on data, so the trace does not know it.
    """
    if not isinstance(size, torch.SymInt):
        return int(size)
    hint = size.node.hint
    if hint is None:
        raise UnsupportedGraph(str(size), "its size depends on data")
    return int(hint)


def symbolic_size(size: int | torch.SymInt) -> Any:
    """A size as something that can be compared without tying the graph to a number: itself, or the expression it stands for.

    Two equal expressions are equal sizes. None where the size depends on data.
    """
    if not isinstance(size, torch.SymInt):
        return int(size)
    if size.node.hint is None:
        return None
    expression = size.node.expr
    # A symbol that something has tied to a number.
    return int(expression) if expression.is_number else expression


def extent(size: Sequence[int], stride: Sequence[int]) -> int:
    """Elements from the first to the last one of a tensor laid out so; 0 for an empty one."""
    return 0 if 0 in size else sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1


def tensor_bytes(value: torch.Tensor) -> int:
    """Bytes that a tensor of this size and stride spans, at the sizes of this trace."""
    return extent([size_hint(n) for n in value.shape], [size_hint(s) for s in value.stride()]) * value.dtype.itemsize


def storage_on(tensor: torch.Tensor, device: torch.device) -> tuple[int, int] | None:
    """Address and bytes of a tensor's storage, ``None`` if it has none on ``device``: it lies elsewhere, wraps other tensors, is
    not strided, or is not initialised yet. What a subclass of tensors answers for itself is not asked."""
    with torch._C.DisableTorchFunctionSubclass():
        if tensor.device != device or tensor.layout != torch.strided:
            return None
        try:
            storage = tensor.untyped_storage()
            return storage.data_ptr(), storage.nbytes()
        except RuntimeError:
            return None


def is_operator(target: object) -> bool:
    """Whether a call target is a registered operator with one overload, as ``torch.ops.aten.mm.default``."""
    return isinstance(target, torch._ops.OpOverload)


def profiler_is_on() -> bool:
    """Whether somebody profiles already; a second profiler cannot be started then."""
    return bool(torch._C._autograd._profiler_enabled())


def memory_changes(profile: torch.profiler.profile, device: torch.device | None = None) -> list[int]:
    """The changes in bytes of the allocator of ``device`` (of the CPU, if left out), in the order of time, from a finished profile
    with ``profile_memory=True``."""
    results = cast(Any, profile.profiler).kineto_results
    kind = torch._C._autograd.DeviceType.CUDA if device is not None and device.type == "cuda" else torch._C._autograd.DeviceType.CPU
    events = [event for event in results.events() if event.name() == "[memory]" and event.device_type() == kind]
    return [int(event.nbytes()) for event in sorted(events, key=lambda event: event.start_ns())]
