"""From a set of values to save to a plan: everything else is computed again in backward, just before it is needed.

The backward pass keeps its order. Before each of its operations, whatever it reads that is neither saved nor at hand is
computed, and what that needs, down to saved values and inputs. Each segment of the forward pass has its own copies: a mask or a
position table that several layers share is made again in each of them, and dies with it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from graphckpt.errors import PlanError
from graphckpt.ir.graph import Graph, OpKind, Phase
from graphckpt.ir.plan import Plan
from graphckpt.solve.segments import cheap_values, forward_order, is_element


@dataclass(slots=True)
class _Backward:
    """The growing backward order. ``at_hand``: for each value the segment whose copy is the latest one (-1: its first)."""

    graph: Graph
    saved: Collection[int]
    of_op: Sequence[int]
    cheap: Sequence[bool]
    in_forward: Collection[int]
    steps: list[int] = field(default_factory=list)
    at_hand: dict[int, int] = field(default_factory=dict)

    def available(self, value: int, segment: int) -> bool:
        op = self.graph.ops[value]
        if op.kind in (OpKind.INPUT, OpKind.TANGENT) or op.phase is Phase.BACKWARD:
            return True
        if value in self.saved and value in self.in_forward:
            return True
        if value not in self.at_hand:
            return False
        return self.at_hand[value] == segment or bool(op.pinned) or not self.cheap[value]

    def demand(self, value: int, segment: int) -> None:
        """Make ``value`` available for ``segment`` by computing what is missing, inputs first."""
        stack = [(value, False)]
        while stack:
            current, inputs_done = stack.pop()
            if self.available(current, segment):
                continue
            op = self.graph.ops[current]
            if inputs_done:
                self.steps.append(current)
                self.at_hand[current] = segment
                continue
            if op.pinned and current in self.in_forward:
                raise PlanError(f"{op.name} may run only once ({op.pinned}), but it is neither saved nor at hand in backward")
            stack.append((current, True))
            stack.extend((source, False) for source in reversed(op.inputs))

    def segment_of(self, reads: Sequence[int], current: int) -> int:
        """The segment whose backward an operation belongs to: the latest one it reads a dropped value from."""
        segments = [
            self.of_op[value]
            for value in reads
            if not self.cheap[value] and self.graph.ops[value].phase is Phase.FORWARD and value not in self.saved
        ]
        return max((s for s in segments if s >= 0), default=current)


class Demand:
    """What every plan of one graph needs to know, found once; then plan after plan."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._cheap = cheap_values(graph)
        self._forward = frozenset(forward_order(graph))
        forward = [i for i, op in enumerate(graph.ops) if op.kind is OpKind.COMPUTE and op.phase is Phase.FORWARD]
        self._must = frozenset(i for i in forward if graph.ops[i].pinned or graph.ops[i].tag == "save")
        self._may_not = frozenset(i for i, op in enumerate(graph.ops) if op.tag == "recompute")
        self._elements = [i for i in range(len(graph.ops)) if is_element(graph, i)]

    def plan(self, name: str, saved: Collection[int], of_op: Sequence[int], backward_order: Sequence[int]) -> Plan:
        """The plan that saves ``saved`` and recomputes the rest on demand.

        ``of_op``: segment of each forward operation; ``backward_order``: the operations that depend on tangents, in the order to
        keep.

        Raises:
            PlanError: backward needs a value that may not be computed again and is not saved.
        """
        graph, order = self.graph, self._forward_with(saved)
        saved = self.close(saved)
        # A tuple cannot cross: what backward reads of one is picked out in forward.
        elements = frozenset(i for i in self._elements if i in saved and graph.ops[i].inputs[0] in order)
        work = _Backward(graph, saved, of_op, self._cheap, order | elements)
        segment = max(of_op, default=0)
        for index in backward_order:
            reads = graph.ops[index].inputs
            segment = work.segment_of(reads, segment)
            for value in reads:
                work.demand(value, segment)
            work.steps.append(index)
        for out in graph.backward_outputs:
            work.demand(out, segment)
        read = {*graph.backward_outputs, *(source for step in work.steps for source in graph.ops[step].inputs)}
        return Plan(name, tuple(sorted(order | (elements & read))), tuple(work.steps))

    def close(self, saved: Collection[int]) -> frozenset[int]:
        """``saved`` with what must be (values that may not be computed again, the elements of saved tuples), and without what the
        user asked to recompute."""
        closed = {*saved} - self._may_not | self._must
        closed.update(i for i in self._elements if self.graph.ops[i].inputs[0] in closed)
        return frozenset(closed)

    def _forward_with(self, saved: Collection[int]) -> frozenset[int]:
        """What forward computes by itself, and what is saved beyond that."""
        order = {*self._forward}
        todo = [index for index in saved if index not in order]
        while todo:
            index = todo.pop()
            if index not in order and self.graph.ops[index].kind in (OpKind.COMPUTE, OpKind.ALIAS):
                order.add(index)
                todo.extend(self.graph.ops[index].inputs)
        return frozenset(order)


def plan_from_saved(
    graph: Graph, name: str, saved: Collection[int], of_op: Sequence[int], backward_order: Sequence[int]
) -> Plan:
    """`Demand.plan`, once; for many plans of one graph keep a `Demand`."""
    return Demand(graph).plan(name, saved, of_op, backward_order)
