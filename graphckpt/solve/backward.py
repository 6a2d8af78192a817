"""The backward pass of a plan: what it misses is computed just before it is read. The reference of ``csrc/demand.cpp``.

The backward pass keeps its order. Before each of its operations, whatever it reads that is not at hand is computed, and what that
needs, depth first in the order of the inputs. Each *segment* has its own copies of what is not `Question.shared`; the segment of
a backward operation is the latest that its inputs point to, or that of the operation before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphckpt.errors import PlanError
from graphckpt.ir.graph import Graph


@dataclass(frozen=True, slots=True)
class Question:
    """What a backward pass finds, by operation. ``at_hand``: there when it starts. ``once``: may not be computed in it. ``shared``:
    a copy made for one segment serves the others. ``segment``: the segment that reading the value points to, or -1.
    ``last_segment``: that of an operation before which none points anywhere. ``backward``: what to compute, in its order.
    """

    at_hand: Sequence[bool]
    once: Sequence[bool]
    shared: Sequence[bool]
    segment: Sequence[int]
    last_segment: int
    backward: Sequence[int]


def steps_on_demand(graph: Graph, question: Question) -> tuple[int, ...]:
    """The steps of the backward pass, in their order, with repeats.

    Raises:
        PlanError: what may not be computed in backward is read there and not at hand.
    """
    work = _Backward(graph, question)
    segment = question.last_segment
    for index in question.backward:
        reads = graph.ops[index].inputs
        segment = max((question.segment[value] for value in reads if question.segment[value] >= 0), default=segment)
        for value in reads:
            work.demand(value, segment)
        work.steps.append(index)
    for out in graph.backward_outputs:
        work.demand(out, segment)
    return tuple(work.steps)


def runs_once_error(graph: Graph, index: int) -> PlanError:
    """The error of an operation that would have to run again."""
    op = graph.ops[index]
    return PlanError(f"{op.name} may run only once ({op.pinned}), but it is neither saved nor at hand in backward")


@dataclass(slots=True)
class _Backward:
    """The growing pass. ``made_in``: for each value computed in it the segment of its latest copy."""

    graph: Graph
    question: Question
    steps: list[int] = field(default_factory=list)
    made_in: dict[int, int] = field(default_factory=dict)

    def demand(self, value: int, segment: int) -> None:
        stack = [(value, False)]
        while stack:
            current, inputs_done = stack.pop()
            if self._is_available(current, segment):
                continue
            if inputs_done:
                self.steps.append(current)
                self.made_in[current] = segment
                continue
            if self.question.once[current]:
                raise runs_once_error(self.graph, current)
            stack.append((current, True))
            stack.extend((source, False) for source in reversed(self.graph.ops[current].inputs))

    def _is_available(self, value: int, segment: int) -> bool:
        if self.question.at_hand[value]:
            return True
        made_in = self.made_in.get(value)
        return made_in is not None and (made_in == segment or self.question.shared[value])
