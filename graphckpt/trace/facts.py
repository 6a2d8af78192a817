"""What the planner must know of one call: is it a view, may it run twice, can it be fused, how much arithmetic is it.

"May run twice" is decided here, once, and errs on the side of no: a value that would come out differently, or an effect that
would happen twice, gives a wrong gradient without a word.
"""

from __future__ import annotations

import operator
from typing import Any, cast

from torch import fx

from graphckpt.compat import aot, ops

_TIES = (
    "topk",
    "sort",
    "argsort",
    "kthvalue",
    "mode",
    "median",
    "nanmedian",
    "unique",
    "_unique",
    "argmax",
    "argmin",
    "cummax",
    "cummin",
    "max_pool",
    "adaptive_max_pool",
)
_TIES_OVERLOADS = ("aten.max.dim", "aten.min.dim")
# Libraries whose operators are functions of their arguments unless they say otherwise; a custom operator may hide a state.
_KNOWN = ("aten", "prims", "graphckpt")
_COLLECTIVES = ("_c10d_functional", "_c10d_functional_autograd", "c10d", "_dtensor", "symm_mem", "bucketing")
_DATA_DEPENDENT = ("nonzero", "_local_scalar_dense", "item", "masked_select", "repeat_interleave")


def is_alias(node: fx.Node) -> bool:
    """Whether the call allocates nothing: a view, an element of a tuple, a size."""
    return node.target is operator.getitem or ops.is_view(node.target) or aot.is_symbolic(node)


def why_pinned(node: fx.Node) -> str:
    """Why the call must run exactly once, or "" if it may be repeated."""
    target = node.target
    name = str(target)
    if aot.is_symbolic(node):
        return ""
    if ops.is_higher_order(target):
        return "higher-order operator"
    if ops.namespace(target) in _COLLECTIVES:
        return "collective"
    if ops.is_mutating(target):
        return "mutates its argument"
    if ops.draws_random_numbers(target) and not ops.has_dropout_off(target, node.args, node.kwargs):
        return "random"
    overload = name.split(".")[1] if name.count(".") else name
    if overload.startswith(_TIES) or name in _TIES_OVERLOADS:
        return "order of equal values may differ"
    if overload in _DATA_DEPENDENT:
        return "shape depends on data"
    if aot.runs_only_in(node):
        return f"runs only in {aot.runs_only_in(node)}"
    if ops.namespace(target) not in _KNOWN and target is not operator.getitem:
        return "effects unknown"
    return ""


def is_fusible(node: fx.Node) -> bool:
    """Whether Inductor may compute the value inside the kernel that reads it."""
    return not is_alias(node) and ops.has_fused_lowering(node.target) and count_flops(node) == 0


def count_flops(node: fx.Node) -> int:
    """Arithmetic of the call, by torch's formulas, at the sizes of this trace."""
    args = fx.map_arg(node.args, cast(Any, aot.fake_value))
    kwargs = fx.map_arg(node.kwargs, cast(Any, aot.fake_value))
    return ops.flops(node.target, cast(Any, args), cast(Any, kwargs), aot.fake_value(node))


def written_inputs(node: fx.Node) -> tuple[fx.Node, ...]:
    """Placeholders that one call writes to, directly or through views."""
    written = []
    for position in ops.mutated_arguments(node.target):
        argument = node.args[position] if position < len(node.args) else None
        while isinstance(argument, fx.Node) and argument.op == "call_function" and is_alias(argument):
            argument = argument.args[0]
        if isinstance(argument, fx.Node) and argument.op == "placeholder":
            written.append(argument)
    return tuple(written)


def mutated_inputs(graph: fx.Graph) -> frozenset[fx.Node]:
    """Placeholders that some call of the graph writes to; whoever reads one of them may not be repeated later."""
    return frozenset(w for node in graph.nodes if node.op == "call_function" for w in written_inputs(node))
