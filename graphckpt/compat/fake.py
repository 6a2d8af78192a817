"""Fake tensors and dispatch modes: leaving them for a moment, to run one kernel for real inside a compilation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import _disable_current_modes


@contextmanager
def real_execution() -> Iterator[None]:
    """Inside, tensors have data and no mode of a surrounding compilation sees what is called."""
    with ExitStack() as stack:
        stack.enter_context(unset_fake_temporarily())
        stack.enter_context(_disable_current_modes())
        stack.enter_context(torch.no_grad())
        yield


def is_operator(target: object) -> bool:
    """Whether a call target is a registered operator with one overload, as ``torch.ops.aten.mm.default``."""
    return isinstance(target, torch._ops.OpOverload)


def profiler_is_on() -> bool:
    """Whether somebody profiles already; a second profiler cannot be started then."""
    return bool(torch._C._autograd._profiler_enabled())


def memory_changes(profile: torch.profiler.profile) -> list[int]:
    """The CPU allocator's changes in bytes, in the order of time, from a finished profile with ``profile_memory=True``."""
    results = profile.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in results.events() if event.name() == "[memory]"]
    return [int(event.nbytes()) for event in sorted(events, key=lambda event: event.start_ns())]
