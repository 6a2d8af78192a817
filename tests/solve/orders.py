"""What every plan's backward pass must be, whatever it saves."""

from __future__ import annotations

from graphckpt.ir.graph import Phase
from graphckpt.ir.plan import Plan
from graphckpt.solve.order import gradients_last
from graphckpt.solve.policies import Situation


def check_order(situation: Situation, plan: Plan) -> None:
    """All of the backward pass in its order, but for large gradients that stand behind all the rest, in that order too."""
    late = tuple(index for index in plan.backward if situation.graph.ops[index].phase is Phase.BACKWARD)
    large = {step for gradient in situation.large for step in gradient.steps}
    behind = set(late[1 + max((k for k, index in enumerate(late) if index not in large), default=-1) :])
    moved = [gradient for gradient in situation.large if behind.issuperset(gradient.steps)]
    reads = frozenset(value for gradient in moved for value in gradient.reads)
    assert late == gradients_last(situation.backward_order, moved, reads)
