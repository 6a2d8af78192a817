"""What runs while a graph is compiled is invisible to the user's program.

A rewrite runs operations on fake tensors, measuring runs kernels, verifying runs steps. Under `isolated` none of it reaches the
saved-tensor hooks, function modes or the autocast cache of the code that is being compiled. Read in torch 2.11 to 2.15.

Not guaranteed: that a profiler which is on does not see what runs; it is never stopped or started over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._C import _autograd


@contextmanager
def isolated() -> Iterator[None]:
    """Inside, operations are seen by no saved-tensor hook and no function mode, and autocast remembers no cast. Grad mode and
    autocast themselves stay as they are: they say what a graph means."""
    cached = torch.is_autocast_cache_enabled()
    hooks, modes = _take_hooks(), _take_function_modes()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(cached)
        for mode in reversed(modes):
            torch._C._push_on_torch_function_stack(mode)
        for pack, unpack in reversed(hooks):
            _autograd._push_saved_tensors_default_hooks(pack, unpack)


def has_hooks() -> bool:
    """Whether saved tensors of this thread go through hooks of the user's, of ``checkpoint`` or of ``save_on_cpu``."""
    return _autograd._top_saved_tensors_default_hooks(True) is not None


def _take_hooks() -> list[tuple[Any, Any]]:
    """All default saved-tensor hooks of this thread, the innermost first, taken off."""
    taken: list[tuple[Any, Any]] = []
    while (top := _autograd._top_saved_tensors_default_hooks(True)) is not None:
        taken.append(top)
        _autograd._pop_saved_tensors_default_hooks()
    return taken


def _take_function_modes() -> list[object]:
    """All function modes of this thread, the innermost first, taken off."""
    return [torch._C._pop_torch_function_stack() for _ in range(torch._C._len_torch_function_stack())]
