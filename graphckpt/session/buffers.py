"""Which values get a buffer of their own, which inputs a second one, and which kernels a workspace, read from a lowering.

Inductor names a buffer after one of the nodes that it holds: the value, a view of it, or one of the elements of a tuple.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from graphckpt.inductor import DryStep
from graphckpt.ir.graph import Graph, OpKind
from graphckpt.ir.plan import Plan, saved_values
from graphckpt.ir.program import Program
from graphckpt.rewrite.schedule import is_copy, traced_name
from graphckpt.solve.segments import base_of, is_element


def materialised_ops(graph: Graph, stock: Plan, step: DryStep) -> tuple[bool, ...]:
    """By stock's lowering. What stock saves has a buffer whatever it is called; what it never computes is taken to get one."""
    in_forward, in_backward = frozenset(stock.forward), frozenset(stock.backward)
    owner = _owners(graph)
    kept = {owner[index] for index in saved_values(graph, stock)}
    early, late = (_made(graph, owner, low.materialised) for low in (step.forward, step.backward))
    flags = []
    for index, op in enumerate(graph.ops):
        if not op.fusible or index in kept:
            flags.append(True)
        elif index in in_forward:
            flags.append(index in early)
        else:
            flags.append(index not in in_backward or index in late)
    return tuple(flags)


def copies_with_buffer(graph: Graph, step: DryStep) -> frozenset[int]:
    """The operations that have a buffer where backward computes them again."""
    again = (traced_name(name) for name in step.backward.materialised if is_copy(name))
    return _made(graph, _owners(graph), again)


def inputs_laid_out(graph: Graph, forward: Program, num_outputs: int) -> dict[int, int]:
    """The bytes of the inputs that forward copies and hands to backward in their place, by operation.

    Inductor does that where a kernel wants another layout: a convolution its image and its weights. ``num_outputs``: how many
    leading results go to the caller.
    """
    number = {op.name: index for index, op in enumerate(graph.ops) if op.kind is OpKind.INPUT}
    made_bytes = {event.block: event.size_bytes for event in forward.events if event.size_bytes}
    saved = ((number[name], block) for name, block in forward.outputs[num_outputs:] if name in number)
    return {index: made_bytes[block] for index, block in saved if block in made_bytes}


def with_workspaces(graph: Graph, step: DryStep) -> Graph:
    """``graph`` with what its kernels hold beside their results in ``step``: the most, where one runs more than once."""
    number = {op.name: index for index, op in enumerate(graph.ops)}
    ops = list(graph.ops)
    for event in (*step.forward.program.events, *step.backward.program.events):
        index = number.get(event.name, number.get(traced_name(event.name)))
        if index is not None and event.scratch_bytes:
            ops[index] = replace(ops[index], workspace_bytes=max(ops[index].workspace_bytes, event.scratch_bytes))
    return replace(graph, ops=tuple(ops))


def _owners(graph: Graph) -> list[int]:
    """For each operation the one that allocates what it gives: through views, and of an element its tuple."""
    return [graph.ops[base].inputs[0] if is_element(graph, base) else base for base in base_of(graph)]


def _made(graph: Graph, owner: Sequence[int], names: Iterable[str]) -> frozenset[int]:
    """The operations that allocated what nodes of these names hold; a name that the graph does not have is nobody's."""
    number = {op.name: index for index, op in enumerate(graph.ops)}
    return frozenset(owner[number[name]] for name in names if name in number)
