"""The rewrite of a plan: the joint graph in the plan's order, with its copies, then split into forward and backward.

What enters: the joint graph, its lowering and a checked `Plan`. What leaves: two modules in AOTAutograd's conventions whose
nodes stand in exactly the plan's order. Recomputed nodes are copies named ``<name>_again``, ``<name>_again_1`` and so on;
everything else keeps its name. Behind each node that the plan holds stands a fence, named ``<name>_held`` after that node. The
joint graph that came in is not touched.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, cast

from torch import fx

from graphckpt.compat import aot
from graphckpt.compat.fence import append_fence
from graphckpt.compat.ordering import ROOM_BYTES
from graphckpt.ir.graph import OpKind
from graphckpt.ir.plan import Plan
from graphckpt.rewrite.input_copies import changeable_inputs, copy_inputs
from graphckpt.trace.lower import Lowered

_ADDED = re.compile(r"(_again(_\d+)?)?(_held)?$")


def split_by_plan(
    joint: fx.GraphModule, lowered: Lowered, plan: Plan, num_forward_outputs: int, room_bytes: Sequence[int] | None = None
) -> aot.Partition:
    """Forward and backward modules that execute ``plan``. ``room_bytes``: what is left of a budget at each of its steps, forward's
    and then backward's; noted with the nodes, for `graphckpt.compat.ordering`."""
    scheduled = _schedule(joint, lowered, plan, num_forward_outputs, room_bytes)
    forward, backward = aot.extract_modules(scheduled.joint, scheduled.saved, num_forward_outputs)
    # What has an effect is kept in every pass whose values it could be computed from.
    _erase_unread(forward.graph, scheduled.in_backward)
    _erase_unread(backward.graph, scheduled.in_forward)
    return forward, backward


class _Scheduled(NamedTuple):
    """The joint graph in a plan's order, what backward reads of forward, and the names of both passes' calls."""

    joint: fx.GraphModule
    saved: list[fx.Node]
    in_forward: frozenset[str]
    in_backward: frozenset[str]


def _erase_unread(graph: fx.Graph, names: Collection[str]) -> None:
    """Erase the calls of these names, the other pass's, that nobody reads."""
    for node in reversed(graph.nodes):
        if node.op == "call_function" and node.name in names and not node.users:
            graph.erase_node(node)


def is_copy(name: str) -> bool:
    """Whether a node of this name, or a fence behind it, is a copy of what was computed before."""
    added = _ADDED.search(name)
    return added is not None and added[1] is not None


def traced_name(name: str) -> str:
    """What the joint graph calls the value of a copy or a fence of this name; a name that it knows as it is needs no asking."""
    return _ADDED.sub("", name)


def _schedule(
    joint: fx.GraphModule, lowered: Lowered, plan: Plan, num_forward_outputs: int, room_bytes: Sequence[int] | None
) -> _Scheduled:
    """The joint graph rebuilt in the plan's order."""
    graph = fx.Graph()
    latest: dict[fx.Node, fx.Node] = {}
    for op, node in zip(lowered.graph.ops, lowered.nodes, strict=True):
        if op.kind in (OpKind.INPUT, OpKind.TANGENT):
            latest[node] = graph.node_copy(node, lambda n: latest[n])
    begins = next(iter(reversed(graph.nodes)))
    hold = frozenset(plan.hold)
    room = iter(room_bytes if room_bytes is not None else [0] * (len(plan.forward) + len(plan.backward)))
    _emit(graph, lowered, plan.forward, hold, latest, room)
    available = dict(latest)
    before_backward = set(graph.nodes)
    results = aot.joint_outputs(joint, num_forward_outputs)
    forward_results = [available.get(out, out) if isinstance(out, fx.Node) else out for out in results.forward]
    read = _emit(graph, lowered, plan.backward, hold, latest, room)
    backward_results = [latest[out] if isinstance(out, fx.Node) else out for out in results.backward]
    read += [out for out in backward_results if isinstance(out, fx.Node)]
    saved = [n for n in dict.fromkeys(read) if n in before_backward and not aot.is_tangent(n) and n.op != "get_attr"]
    changeable = changeable_inputs(joint, num_forward_outputs)
    in_backward = set(graph.nodes) - before_backward
    copied = copy_inputs(graph, saved, changeable, begins, in_backward)
    backward_results = [copied.instead_of.get(out, out) if isinstance(out, fx.Node) else out for out in backward_results]
    output = joint.graph.find_nodes(op="output")[0]
    graph.output(cast(Any, (*forward_results, *backward_results))).meta.update(output.meta)
    names = [frozenset(node.name for node in nodes if node.op == "call_function") for nodes in (before_backward, in_backward)]
    return _Scheduled(fx.GraphModule(joint, graph), list(copied.saved), *names)


def _emit(
    graph: fx.Graph,
    lowered: Lowered,
    steps: Sequence[int],
    hold: frozenset[int],
    latest: dict[fx.Node, fx.Node],
    room: Iterator[int],
) -> list[fx.Node]:
    """Append the steps, each reading the latest copies; returns every node that was read."""
    read: list[fx.Node] = []
    for step in steps:
        node = lowered.nodes[step]
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: latest[n])
        name = f"{node.name}_again" if node in latest else node.name
        copied = graph.create_node(node.op, node.target, args, kwargs, name, node.type)
        copied.meta = {**node.meta, ROOM_BYTES: next(room)}
        read += copied.all_input_nodes
        latest[node] = append_fence(graph, copied) if step in hold else copied
    return read
