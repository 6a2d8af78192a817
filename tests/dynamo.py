"""Graphs as Dynamo hands them to a backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx


class Captured(NamedTuple):
    """One graph, and what it is called with."""

    module: fx.GraphModule
    inputs: Sequence[Tensor]

    @property
    def result(self) -> fx.Node:
        """The node of its one result."""
        (node,) = self.module.graph.find_nodes(op="output")[0].args[0]
        assert isinstance(node, fx.Node)
        return node


def captured(function: Callable[..., Any], *args: Tensor, **kwargs: Tensor) -> Captured:
    """The one graph that a call of ``function`` is."""
    seen: list[Captured] = []

    def backend(module: fx.GraphModule, inputs: Sequence[Tensor]) -> fx.GraphModule:
        seen.append(Captured(module, list(inputs)))
        return module

    torch._dynamo.reset()
    torch.compile(function, backend=backend, fullgraph=True)(*args, **kwargs)
    (found,) = seen
    return found
