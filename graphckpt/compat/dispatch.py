"""Which operators a call is made of: asked of torch on fake tensors, not worked out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode


def operators_of(function: Callable[..., object], args: Sequence[Any], kwargs: Mapping[str, Any]) -> frozenset[str]:
    """The names ("aten::mm") of what a call dispatches to below autograd. Among ``args`` are fake tensors of one mode."""
    seen = _Names()
    fake = next((arg for arg in (*args, *kwargs.values()) if isinstance(arg, FakeTensor)), None)
    # As Dynamo traces: without the Python dispatcher, torch 2.11 asks for sizes as numbers, which ties the graph to them.
    with seen, nullcontext() if fake is None else fake.fake_mode, enable_python_dispatcher():
        function(*args, **kwargs)
    return frozenset(seen.names)


class _Names(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names = set[str]()

    def __torch_dispatch__(
        self, func: torch._ops.OpOverload, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))
