"""From a set of values to save to a plan: everything else is computed again in backward, just before it is needed.

The backward pass keeps its order (`graphckpt.solve.backward`). Each segment of the forward pass has its own copies of what is
cheap: a mask or a position table that several layers share is made again in each of them, and dies with it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from graphckpt.ir.graph import Graph, OpKind, Phase
from graphckpt.ir.plan import Plan
from graphckpt.solve.backward import Question
from graphckpt.solve.engine import Engine
from graphckpt.solve.segments import cheap_values, forward_order, is_element


class Demand:
    """What every plan of one graph needs to know, found once; then plan after plan."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._engine = Engine(graph)
        told = list(zip(graph.ops, cheap_values(graph), strict=True))
        self._shared = [bool(op.pinned) or not cheap for op, cheap in told]
        # A value that is read because it was dropped tells the segment; what is cheap may be any segment's.
        self._tells = [not cheap and op.phase is Phase.FORWARD for op, cheap in told]
        self._from_elsewhere = [
            op.kind in (OpKind.INPUT, OpKind.TANGENT) or op.phase is Phase.BACKWARD for op in graph.ops
        ]
        self._pinned = [i for i, op in enumerate(graph.ops) if op.pinned]
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
        steps = self._engine.steps_on_demand(self._question(saved, order | elements, of_op, backward_order))
        kept = order
        if elements:
            read = {*graph.backward_outputs, *(source for step in steps for source in graph.ops[step].inputs)}
            kept = order | (elements & read)
        return Plan(name, self._in_order(kept), steps)

    def _in_order(self, forward: frozenset[int]) -> tuple[int, ...]:
        """The traced order, but what only backward reads (it was traced there) stands right behind what it is made from: that is
        then not kept for it."""
        if forward == self._forward:
            return tuple(sorted(forward))
        anchor: dict[int, int] = {}
        for index in sorted(forward):
            op = self.graph.ops[index]
            is_extra = index not in self._forward and not op.pinned
            behind = max((anchor[source] for source in op.inputs if source in anchor), default=index)
            anchor[index] = behind if is_extra else index
        return tuple(sorted(forward, key=lambda index: (anchor[index], index)))

    def _question(
        self, saved: frozenset[int], in_forward: frozenset[int], of_op: Sequence[int], backward_order: Sequence[int]
    ) -> Question:
        at_hand = [*self._from_elsewhere]
        for index in saved & in_forward:
            at_hand[index] = True
        once = [False] * len(at_hand)
        for index in self._pinned:
            once[index] = index in in_forward
        segment = [where if tells else -1 for where, tells in zip(of_op, self._tells, strict=True)]
        for index in saved:
            segment[index] = -1
        return Question(at_hand, once, self._shared, segment, max(of_op, default=0), backward_order)

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
