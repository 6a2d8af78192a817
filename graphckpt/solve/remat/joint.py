"""A joint graph of `graphckpt.ir` as a rematerialization problem.

Nodes are the COMPUTE operations, one a TANGENT, and a last one that reads every output: outputs stay live to the end. Inputs of the
graph are always there and take nothing; an ALIAS is what it lives in. Tangents read what the forward pass returns, so that backward
begins after it. Pinned operations, tangents and the last node are computed once. Costs are picoseconds.

Not modelled: workspaces, kernels that write over their input, fusion (every value is real); and in a free order, the order
that effects (mutations, collectives) must keep among each other: use the fixed one for graphs that have them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from graphckpt.ir.graph import Graph, OpKind
from graphckpt.solve.remat.instance import Instance, make_instance

_PER_US = 10**6


@dataclass(frozen=True, slots=True)
class JointProblem:
    """``ops[v]``: the operation that node v is, or -1 for the last one."""

    instance: Instance
    ops: tuple[int, ...]

    def in_ops(self, schedule: Sequence[int]) -> tuple[int, ...]:
        """A schedule of nodes as one of operations to compute."""
        return tuple(self.ops[node] for node in schedule if self.ops[node] >= 0)


def joint_problem(graph: Graph, times_us: Sequence[float], name: str = "") -> JointProblem:
    """The problem of a graph that `check_graph` accepts; ``times_us``: what computing each operation takes.

    Raises:
        InstanceError: costs or sizes are too large, or nothing is computed.
    """
    nodes: dict[int, int] = {}
    ops: list[int] = []
    lives_in: list[frozenset[int]] = []
    inputs: list[tuple[int, ...]] = []
    for index, op in enumerate(graph.ops):
        read = frozenset[int]().union(*(lives_in[source] for source in op.inputs))
        if op.kind is OpKind.INPUT:
            lives_in.append(frozenset())
        elif op.kind is OpKind.ALIAS:
            held = frozenset(op.storages)
            own = frozenset(node for node in read if held.intersection(graph.ops[ops[node]].storages))
            lives_in.append(own or read)
        else:
            if op.kind is OpKind.TANGENT:
                read = frozenset[int]().union(*(lives_in[out] for out in graph.forward_outputs if out < index))
            nodes[index] = len(ops)
            ops.append(index)
            inputs.append(tuple(read))
            lives_in.append(frozenset({nodes[index]}))
    outputs = {node for index in (*graph.forward_outputs, *graph.backward_outputs) for node in lives_in[index]}
    computed = [graph.ops[index].kind is OpKind.COMPUTE for index in nodes]
    instance = make_instance(
        name,
        (
            *(
                round(_PER_US * times_us[index]) if is_real else 0
                for index, is_real in zip(nodes, computed, strict=True)
            ),
            0,
        ),
        (*_bytes(graph, nodes), 0),
        (*inputs, tuple(outputs)),
        frozenset(node for index, node in nodes.items() if graph.ops[index].pinned or not computed[node])
        | {len(nodes)},
    )
    return JointProblem(instance, (*ops, -1))


def _bytes(graph: Graph, nodes: Iterable[int]) -> Iterator[int]:
    # Two tangents may share a storage: it counts with the first.
    seen: set[int] = set()
    for index in nodes:
        own = {s for s in graph.ops[index].storages if not graph.storages[s].external} - seen
        seen |= own
        yield sum(graph.storages[s].size_bytes for s in own)
