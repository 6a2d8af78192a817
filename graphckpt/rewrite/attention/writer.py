"""Writes nodes into a Dynamo graph with the fake tensors that they make, and no node twice."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from graphckpt.rewrite.attention.calls import Size, size_of, value, values_of
from graphckpt.rewrite.attention.no_match import NoMatch

_NO_INPUT = "a size is no number and no input of the graph"


@dataclass
class GraphWriter:
    """Writes where the graph's insertion point is. ``place``: of that among the nodes the graph had; ``needs_grad``: of what is
    written for it; ``made``: what was written for earlier places, by what it is made of."""

    graph: fx.Graph
    place: int = 0
    needs_grad: bool = False
    made: dict[tuple[object, ...], tuple[fx.Node, int]] = field(default_factory=dict)

    def take_back(self, before: Collection[fx.Node]) -> None:
        """Erase what was written since these were all the nodes."""
        for node in reversed([node for node in self.graph.nodes if node not in before]):
            self.graph.erase_node(node)
        self.made = {key: kept for key, kept in self.made.items() if kept[0] in before}

    def once(self, key: tuple[object, ...], write: Callable[[], fx.Node]) -> fx.Node:
        """What was written for an earlier attention, if that stands before this one and is under autograd as it is; else anew."""
        key = (self.needs_grad, *key)
        if key not in self.made or self.made[key][1] > self.place:
            self.made[key] = write(), self.place
        return self.made[key][0]

    def cast(self, node: fx.Node, dtype: torch.dtype) -> fx.Node:
        """A node in another type; itself if it has that."""
        if fake(node).dtype == dtype:
            return node
        return self.once(("cast", node, dtype), lambda: self.method("to", node, dtype))

    def reshaped(self, node: fx.Node, sizes: tuple[Size, ...]) -> fx.Node:
        """A node in another shape, of which one size may have no name."""
        given = [self._found(size) for size in sizes]
        # One that there is no name for follows from the others.
        if given.count(None) > 1:
            raise NoMatch(_NO_INPUT)
        return self.method("reshape", node, tuple(-1 if size is None else size for size in given))

    def given(self, size: Size) -> int | fx.Node:
        """A size as an argument."""
        found = self._found(size)
        if found is None:
            raise NoMatch(_NO_INPUT)
        return found

    def _found(self, size: Size) -> int | fx.Node | None:
        """The number, or the input of the graph that is this size; None if there is no such input."""
        if isinstance(size, int):
            return size
        inputs = self.graph.find_nodes(op="placeholder")
        return next((node for node in inputs if size_of(node) == size), None)

    def call(self, function: Callable[..., object], *arguments: Any) -> fx.Node:
        """A call of a function of nodes and constants."""
        node = self.graph.call_function(function, arguments)
        node.meta["example_value"] = function(*values_of(arguments))
        return node

    def method(self, method: str, *arguments: Any, **options: Any) -> fx.Node:
        """A call of a method of the first argument."""
        node = self.graph.call_method(method, arguments, options)
        first, *rest = values_of(arguments)
        node.meta["example_value"] = getattr(first, method)(*rest, **options)
        return node


def fake(node: fx.Node) -> torch.Tensor:
    """The fake tensor of a node. Raises `NoMatch` where it makes something else."""
    found = value(node)
    if found is None:
        raise NoMatch(f"{node.name} is no tensor")
    return found
