"""A plan: the order of both passes, with repeats, and what must hold its place. Frozen; a rewrite reads it and never decides.

A plan lists operation numbers for the forward and for the backward pass. Inputs and tangents are not listed. A step reads the
*latest* computation of each of its inputs; what a backward step reads from the forward pass is thereby saved. An operation
listed again is recomputed into fresh storage. Operations to *hold* get a buffer at each of their places: an inner compiler may
not compute them later, inside of whoever reads them.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphckpt.ir.graph import Graph, OpKind


@dataclass(frozen=True, slots=True)
class Plan:
    """``forward`` and ``backward``: operation numbers in execution order; ``name``: the policy it came from; ``hold``: operation
    numbers, ascending."""

    name: str
    forward: tuple[int, ...]
    backward: tuple[int, ...]
    hold: tuple[int, ...] = ()


def saved_values(graph: Graph, plan: Plan) -> tuple[int, ...]:
    """Operations whose forward value is read in backward, ascending; inputs are left out (they are there anyway)."""
    computed: set[int] = set()
    saved: set[int] = set()
    forward = set(plan.forward)
    for index in plan.backward:
        for source in graph.ops[index].inputs:
            if source not in computed and source in forward:
                saved.add(source)
        computed.add(index)
    saved.update(out for out in graph.backward_outputs if out not in computed and out in forward)
    return tuple(sorted(saved))


def recomputed_values(graph: Graph, plan: Plan) -> tuple[int, ...]:
    """Each extra computation of an operation that allocates, in execution order; an operation may appear more than once."""
    seen: set[int] = set()
    again = []
    for index in (*plan.forward, *plan.backward):
        if index in seen and graph.ops[index].kind is OpKind.COMPUTE:
            again.append(index)
        seen.add(index)
    return tuple(again)
