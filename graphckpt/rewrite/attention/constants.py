"""Values of a graph that depend on none of its inputs: known before it runs."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import fx

from graphckpt.rewrite.attention.calls import CASTS, VIEWS, name_of

_DETERMINISTIC = (
    frozenset({"arange", "zeros", "ones", "full", "new_ones", "new_zeros", "new_full", "ones_like", "zeros_like", "full_like"})
    | frozenset({"and_", "or_", "not", "le", "lt", "ge", "gt", "eq", "ne", "add", "sub", "mul", "neg", "abs", "remainder", "mod"})
    | frozenset({"tril", "triu", "where", "masked_fill", "cumsum", "diff", "cat", "expand", "repeat", "getitem", "transpose"})
    | CASTS
    | VIEWS
)


def is_constant(node: fx.Node) -> bool:
    """Whether it is made of numbers by calls that give the same each time: no input of the graph, nothing drawn."""
    return all(name_of(source) in _DETERMINISTIC for source in _ancestors(node))


def _ancestors(node: fx.Node) -> list[fx.Node]:
    """The node and whatever it is computed from, sources first."""
    order: dict[fx.Node, None] = {}
    stack = [(node, False)]
    while stack:
        current, is_done = stack.pop()
        if is_done:
            order[current] = None
        elif current not in order:
            stack.append((current, True))
            stack.extend((source, False) for source in current.all_input_nodes)
    return list(order)


def computed(node: fx.Node) -> torch.Tensor:
    """The value of a node that depends on no input, on the CPU."""
    values: dict[fx.Node, Any] = {}
    for source in _ancestors(node):
        arguments, options = fx.map_arg(cast(Any, (source.args, source.kwargs)), lambda n: values[n])
        if "device" in options:
            options = {**options, "device": torch.device("cpu")}
        if source.op == "call_method":
            first, *rest = arguments
            kept = [torch.device("cpu") if isinstance(a, torch.device) else a for a in rest]
            values[source] = getattr(first, str(source.target))(*kept, **options)
        else:
            values[source] = cast(Any, source.target)(*arguments, **options)
    found = values[node]
    assert isinstance(found, torch.Tensor)
    return found
