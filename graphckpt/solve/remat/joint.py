"""A joint graph of `graphckpt.ir` as a rematerialization problem, and its schedules as plans.

Nodes are what has a buffer: COMPUTE operations that are *real*. What is folded into its readers, and views, are no nodes: with
R(v) = {v} for a node and the union of R over its inputs for anything else, a node v reads the union of R over its inputs. A plan
of such a graph is a schedule of its nodes. Back from a schedule, what is no node is computed just before the node that reads it,
once for each state of what it is made from, and again behind a kernel that nothing is folded into.

Two nodes are added: one that reads what forward returns and whose output is all tangents, R of each, so that backward begins
behind it with all of them there; and a last one that reads every output that stays. Inputs of the graph are always there and take
nothing. Pinned operations, and what the user wants saved, are computed once; so are what forward returns and stays, for it is
there, and the two that were added. Costs are picoseconds.

The peak is that of `graphckpt.ir.peak` or more: a tuple is one node and lives as long as any element is read, as do the tangents,
what is shared is never written over, and what several operations are seen through is kept for as long as the last of them is. Less
only by tangents of which nobody reads one, which are gone at once. Nothing but a fixed order keeps effects (mutations,
collectives), what reads behind them and random draws in their places: in a free one a legal plan may be a wrong one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from graphckpt.ir.graph import Graph, OpKind
from graphckpt.ir.plan import Plan
from graphckpt.solve.remat.instance import Instance, Kernels, make_instance
from graphckpt.solve.segments import forward_order, is_element

_PER_US = 10**6
RETURN = -1
END = -2


@dataclass(frozen=True)
class JointProblem:
    """``ops[v]``: the operation that node v is; `RETURN` and `END` for the two that were added. ``is_node`` and ``roots``, R of the
    module's docstring: by operation. ``returned``: what must be computed when forward ends."""

    graph: Graph
    instance: Instance
    ops: tuple[int, ...]
    is_node: tuple[bool, ...]
    roots: tuple[frozenset[int], ...]
    returned: tuple[int, ...]

    @cached_property
    def _node(self) -> dict[int, int]:
        return {op: node for node, op in enumerate(self.ops)}

    def schedule_of(self, plan: Plan) -> tuple[int, ...]:
        """The schedule of a plan in which what has a buffer here has one; of what stays and is computed again, the first copy."""
        forward, backward = ([op for op in half if self.is_node[op]] for half in (plan.forward, plan.backward))
        steps = [self._node[op] for op in (*forward, RETURN, *backward, END)]
        first = {node: step for step, node in reversed(list(enumerate(steps)))}
        return tuple(node for step, node in enumerate(steps) if node not in self.instance.once or first[node] == step)

    def plan_of(self, name: str, schedule: Sequence[int]) -> Plan:
        """The plan of a legal schedule. Not checked."""
        writer = _PlanWriter(self)
        for node in schedule:
            writer.put(self.ops[node])
        return Plan(name, tuple(writer.forward), tuple(writer.backward))

    def in_ops(self, schedule: Sequence[int]) -> tuple[int, ...]:
        """A schedule of nodes as one of operations that have a buffer."""
        return tuple(self.ops[node] for node in schedule if self.ops[node] >= 0)


def joint_problem(
    graph: Graph,
    times_us: Sequence[float],
    name: str = "",
    *,
    plan: Plan | None = None,
    is_real: Sequence[bool] | None = None,
    returned: Sequence[int] | None = None,
    kernels: bool = False,
) -> JointProblem:
    """The problem of a graph that `check_graph` accepts.

    ``times_us``: what computing each operation takes. ``plan``: nodes are numbered in its order; the traced order if None.
    ``is_real``: whether a COMPUTE operation has a buffer, all if None; pinned ones always do. ``returned``: what forward returns,
    if ``graph`` names only what of that stays. ``kernels``: they write over what they read last, as `graphckpt.ir.peak` has it,
    and need their workspaces.

    Raises:
        InstanceError: costs or sizes are too large, or nothing is computed.
    """
    ops = graph.ops
    real = [
        op.kind is OpKind.COMPUTE and (is_real is None or is_real[index] or bool(op.pinned)) for index, op in enumerate(ops)
    ]
    returned = tuple(graph.forward_outputs if returned is None else returned)
    plan = plan or _traced(graph)
    steps = (*plan.forward, RETURN, *plan.backward, END)
    order = tuple(dict.fromkeys(op for op in steps if op < 0 or real[op]))
    roots = _roots(graph, real)
    node = {op: at for at, op in enumerate(order)}
    leaving = (_kept_by(roots, outs) for outs in (returned, (*graph.forward_outputs, *graph.backward_outputs)))
    returning, staying = (kept.intersection(node) for kept in leaving)
    inputs: list[tuple[int, ...]] = []
    for op in order:
        if op < 0:
            inputs.append(tuple(node[source] for source in (returning if op == RETURN else staying)))
        else:
            inputs.append(tuple(node[source] for source in _kept_by(roots, ops[op].inputs)))
    stays = _kept_by(roots, graph.forward_outputs)
    runs_once = (op < 0 or ops[op].pinned or ops[op].tag == "save" or op in stays for op in order)
    cost = (round(_PER_US * times_us[op]) if op >= 0 else 0 for op in order)
    once = frozenset(at for at, is_once in enumerate(runs_once) if is_once)
    own = _kernels(graph, order) if kernels else None
    instance = make_instance(name, tuple(cost), tuple(_sizes(graph, order)), tuple(inputs), once, own)
    return JointProblem(graph, instance, order, tuple(real), tuple(roots), returned)


def _kernels(graph: Graph, order: Sequence[int]) -> Kernels:
    scratch_bytes, writers, shared = [], set[int](), set[int]()
    for node, op in enumerate(order):
        scratch_bytes.append(graph.ops[op].workspace_bytes if op >= 0 else 0)
        blocks = [graph.storages[s] for s in graph.ops[op].storages] if op >= 0 else []
        if len(blocks) != 1 or blocks[0].external or blocks[0].shared:
            shared.add(node)
        if len(blocks) == 1 and not blocks[0].external and graph.ops[op].fusible:
            writers.add(node)
    return Kernels(tuple(scratch_bytes), frozenset(writers), frozenset(shared))


def _traced(graph: Graph) -> Plan:
    """Forward computes what its outputs need, backward the rest, both in the traced order."""
    forward = forward_order(graph)
    early = frozenset(forward)
    late = (i for i, op in enumerate(graph.ops) if i not in early and op.kind in (OpKind.COMPUTE, OpKind.ALIAS))
    return Plan("traced", forward, tuple(late))


def _roots(graph: Graph, real: Sequence[bool]) -> list[frozenset[int]]:
    """For each operation the nodes that its value is kept by: R of the module's docstring."""
    roots: list[frozenset[int]] = []
    for index, op in enumerate(graph.ops):
        if op.kind is OpKind.TANGENT:
            roots.append(frozenset((RETURN,)))
        else:
            roots.append(frozenset((index,)) if real[index] else _kept_by(roots, op.inputs))
    return roots


def _kept_by(roots: Sequence[frozenset[int]], values: Sequence[int]) -> frozenset[int]:
    return roots[values[0]] if len(values) == 1 else frozenset().union(*(roots[value] for value in values))


def _sizes(graph: Graph, order: Sequence[int]) -> Iterator[int]:
    for op in order:
        if op == RETURN:
            # Two tangents may share a storage.
            own = {storage for tangent in graph.ops if tangent.kind is OpKind.TANGENT for storage in tangent.storages}
        else:
            own = set(graph.ops[op].storages) if op >= 0 else set()
        yield sum(graph.storages[storage].size_bytes for storage in own if not graph.storages[storage].external)


class _PlanWriter:
    """A plan as it grows, node by node."""

    def __init__(self, problem: JointProblem) -> None:
        self.forward: list[int] = []
        self.backward: list[int] = []
        self._problem = problem
        self._ops = problem.graph.ops
        self._steps = self.forward
        # How often each node was computed; and with which of those each of the others was, last: views, and what is folded.
        self._copies = Counter[int]()
        self._views: dict[int, tuple[int, ...]] = {}
        self._folded: dict[int, tuple[int, ...]] = {}
        self._elements: dict[int, list[int]] = {}
        for index in range(len(self._ops)):
            if is_element(problem.graph, index):
                self._elements.setdefault(self._ops[index].inputs[0], []).append(index)

    def put(self, op: int) -> None:
        """Compute a node, and before it what it reads that is none."""
        if op == RETURN:
            self._provide(self._problem.returned)
            self._steps = self.backward
            # Backward sees with its own eyes: of forward's values nodes alone are kept, and elements, for tuples cannot cross.
            graph = self._problem.graph
            self._views = {index: copies for index, copies in self._views.items() if is_element(graph, index)}
            self._folded = {index: copies for index, copies in self._folded.items() if is_element(graph, index)}
        elif op == END:
            self._provide(self._problem.graph.backward_outputs)
        else:
            self._provide(self._ops[op].inputs)
            self._compute(op)
            self._provide(self._elements.get(op, ()))

    def _compute(self, op: int) -> None:
        self._steps.append(op)
        self._copies[op] += 1
        if not self._ops[op].fusible:
            # What is folded into readers on both sides of a kernel that nothing is folded into would get a buffer after all.
            self._folded.clear()

    def _provide(self, values: Sequence[int]) -> None:
        stack = [(value, False) for value in reversed(values)]
        while stack:
            value, inputs_done = stack.pop()
            if self._problem.is_node[value] or self._ops[value].kind in (OpKind.INPUT, OpKind.TANGENT):
                continue
            copies = tuple(self._copies[node] for node in sorted(self._problem.roots[value]))
            made = self._views if self._ops[value].kind is OpKind.ALIAS else self._folded
            if made.get(value) == copies:
                continue
            if inputs_done:
                self._steps.append(value)
                made[value] = copies
            else:
                stack.append((value, True))
                stack.extend((source, False) for source in reversed(self._ops[value].inputs))
