"""Small inputs that a plan reads again in backward are copied in forward.

Eager code may write to a buffer between forward and backward (a moving average, a queue, a schedule). Where eager keeps a result, a
plan computes it again from its inputs, and would read what was written since. Inputs without a gradient of at most
`MOST_BYTES` are therefore copied when forward starts, and backward reads the copy.

Not copied: inputs with a gradient, which eager reads again too; larger ones, for which versions are checked when backward begins
(`graphckpt.session.inputs`); and those that the graph itself writes to, whose readers are not computed again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import fx

from graphckpt.compat.aot import fake_value, joint_outputs
from graphckpt.compat.fake import tensor_bytes
from graphckpt.trace import facts

MOST_BYTES = 64 * 1024


class Copied(NamedTuple):
    """``instead_of``: what backward reads in the place of inputs and their views; ``saved``: what it reads of forward now."""

    instead_of: dict[fx.Node, fx.Node]
    saved: tuple[fx.Node, ...]


def changeable_inputs(joint: fx.GraphModule, num_forward_outputs: int) -> frozenset[str]:
    """The names of a joint graph's inputs that are copied where backward reads them: small ones without a gradient."""
    gradients = joint_outputs(joint, num_forward_outputs).backward
    inputs = joint.graph.find_nodes(op="placeholder")
    written = facts.mutated_inputs(joint.graph)
    # A gradient stands at the place of its input; tangents come behind, and have none.
    pairs = zip(inputs, gradients, strict=False)
    return frozenset(node.name for node, gradient in pairs if gradient is None and node not in written and _is_small(node))


def copy_inputs(
    graph: fx.Graph, saved: Sequence[fx.Node], changeable: Collection[str], begins: fx.Node, backward: Collection[fx.Node]
) -> Copied:
    """Put copies in the place of changeable inputs, and of views of them, that ``backward`` reads.

    ``saved``: what backward reads of forward; ``begins``: the last node before forward; ``backward``: the nodes behind forward.
    Backward's results are not changed here, and may be among ``instead_of``.
    """
    copies: dict[fx.Node, fx.Node] = {}
    kept: list[fx.Node] = []
    first = next((node for node in graph.nodes if node in backward), None)
    for node in saved:
        if (base := _base(node)).name not in changeable:
            kept.append(node)
            continue
        if base not in copies:
            with graph.inserting_after(begins):
                copies[base] = _copy(graph, base)
        if node is not base and first is not None:
            with graph.inserting_before(first):
                _view_again(graph, node, copies)
        if node in copies:
            node.replace_all_uses_with(copies[node], delete_user_cb=lambda user: user in backward)
        kept.append(copies[base])
    return Copied(copies, tuple(dict.fromkeys(kept)))


def _is_small(node: fx.Node) -> bool:
    value = fake_value(node)
    return isinstance(value, torch.Tensor) and tensor_bytes(value) <= MOST_BYTES


def _base(node: fx.Node) -> fx.Node:
    """What a view is a view of; another node is its own."""
    while node.op == "call_function" and facts.is_alias(node) and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _copy(graph: fx.Graph, source: fx.Node) -> fx.Node:
    copied = graph.create_node("call_function", torch.ops.aten.clone.default, (source,), name=f"{source.name}_copied")
    copied.meta = dict(source.meta)
    return copied


def _view_again(graph: fx.Graph, view: fx.Node, copies: dict[fx.Node, fx.Node]) -> None:
    """Make the view of an input anew, of the input's copy."""
    base = view.all_input_nodes[0]
    if base not in copies:
        _view_again(graph, base, copies)
    copies[view] = graph.node_copy(view, lambda node: copies.get(node, node))
