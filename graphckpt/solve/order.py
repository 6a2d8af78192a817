"""The order of a backward pass, and what must be done at its own place in it.

`gradients_early` moves products whose result is a gradient of a parameter to where their operands are complete: the recomputed
operand can go at once, and the other product of the same gradient does not have to wait with it in memory. `gradients_last` moves
those to the end that are larger than all that they read.
`values_to_hold` finds values that an inner compiler would compute late, inside of their reader, while what they are made from
is larger than they are and would otherwise be gone.

Neither is optimal; the planner of single tensors weighs both.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Container, Sequence
from typing import NamedTuple

from graphckpt.ir.graph import Graph, Op, OpKind, Phase, value_bytes
from graphckpt.ir.plan import Plan
from graphckpt.solve.segments import base_of


def gradients_early(graph: Graph, backward: Sequence[int]) -> tuple[int, ...]:
    """``backward`` with each product that only gradients are made from right behind the last backward value it reads."""
    moved = _gradient_products(graph, backward)
    missing = {i: {s for s in graph.ops[i].inputs if _is_made_in_backward(graph, s)} for i in backward if i in moved}
    waiting: dict[int, list[int]] = {}
    for index, sources in missing.items():
        for source in sources:
            waiting.setdefault(source, []).append(index)
    # A dictionary for its order.
    done: dict[int, None] = {}
    for index in backward:
        ready = [] if missing.get(index) or index in done else [index]
        while ready:
            current = ready.pop()
            done[current] = None
            # The last that is put there comes first: of several, the one that the pass has first.
            for reader in reversed(waiting.get(current, ())):
                missing[reader].discard(current)
                if not missing[reader]:
                    ready.append(reader)
    return tuple(done)


class LargeGradient(NamedTuple):
    """A product that is a gradient of a parameter and larger than all that it reads. ``steps``: it and the views of it; ``reads``:
    what it reads of forward, without inputs of the graph."""

    steps: tuple[int, ...]
    reads: frozenset[int]


def large_gradients(graph: Graph, backward: Sequence[int]) -> tuple[LargeGradient, ...]:
    """Products of ``backward`` that cost more than to keep what they read. One that only a sum or another product reads is none: it
    is gone as soon as that is computed."""
    outputs, readers, base = set(graph.backward_outputs), graph.readers(), base_of(graph)
    seen_as: dict[int, tuple[int, ...]] = {}
    found = []
    for index in reversed(backward):
        op = graph.ops[index]
        if op.pinned or not _ends_in(index, outputs, readers, seen_as):
            continue
        views = tuple(view for reader in readers[index] for view in seen_as[reader])
        if op.kind is OpKind.ALIAS:
            seen_as[index] = (index, *views)
        elif _is_product(op) and value_bytes(graph, op.inputs) < graph.own_bytes(index):
            early = (base[source] for source in op.inputs if graph.ops[source].phase is Phase.FORWARD)
            reads = frozenset(source for source in early if graph.ops[source].kind is not OpKind.INPUT)
            found.append(LargeGradient((index, *views), reads))
    return tuple(found)


def gradients_last(backward: Sequence[int], large: Sequence[LargeGradient], saved: Collection[int]) -> tuple[int, ...]:
    """``backward`` with those of ``large`` at its end that read nothing of forward but what is ``saved``: to compute that again so
    late would keep what it is made from."""
    late = {step for gradient in large if gradient.reads.issubset(saved) for step in gradient.steps}
    if not late:
        return tuple(backward)
    return (*(index for index in backward if index not in late), *(index for index in backward if index in late))


def _gradient_products(graph: Graph, backward: Sequence[int]) -> set[int]:
    """Products that nothing but results of the backward pass and their sums are made from, and the views that they read."""
    outputs = set(graph.backward_outputs)
    readers = graph.readers()
    final: set[int] = set()
    for index in reversed(backward):
        op = graph.ops[index]
        passes_on = not op.pinned and (op.kind is OpKind.ALIAS or _is_product(op) or _is_sum(op))
        if passes_on and _ends_in(index, outputs, readers, final):
            final.add(index)
    moved = {index for index in final if _is_product(graph.ops[index])}
    todo = [source for product in moved for source in graph.ops[product].inputs]
    while todo:
        source = todo.pop()
        if source not in moved and _is_made_in_backward(graph, source) and _is_free_view(graph.ops[source]):
            moved.add(source)
            todo.extend(graph.ops[source].inputs)
    return moved


def _ends_in(index: int, outputs: Collection[int], readers: Sequence[Sequence[int]], known: Container[int]) -> bool:
    """Whether something comes of an operation, as a result or for readers, and all of these are ``known``."""
    return (index in outputs or bool(readers[index])) and all(reader in known for reader in readers[index])


def values_to_hold(graph: Graph, plan: Plan, has_buffer: Sequence[bool]) -> tuple[int, ...]:
    """Operations to be given a buffer at their place, ascending: computed inside their reader they would keep more than they are.

    Asked of fusible operations, and of products that one sum reads (an inner compiler computes ``a @ b + c`` in one call). Only a
    reader behind some kernel that cannot be fused counts as late. ``has_buffer``: by operation; what has one is asked a second
    time, with what it is made from in the end, for it is given its buffer no sooner than it is read.
    """
    hold = _late_values(graph, plan, [False] * len(graph.ops))
    folded = [op.kind is OpKind.COMPUTE and not real for op, real in zip(graph.ops, has_buffer, strict=True)]
    hold |= {index for index in _late_values(graph, plan, folded) if has_buffer[index]}
    return tuple(sorted(hold))


def _late_values(graph: Graph, plan: Plan, folded: Sequence[bool]) -> set[int]:
    """What would keep more than it is until it is read; what is ``folded`` is seen through, as views are."""
    steps = plan.forward + plan.backward
    flow = _flow_of(graph, steps, folded)
    walls = [k for k, index in enumerate(steps) if graph.ops[index].kind is OpKind.COMPUTE and not graph.ops[index].fusible]
    outputs = {*graph.forward_outputs, *graph.backward_outputs}
    hold = set[int]()
    for step, index in enumerate(steps):
        readers = flow.readers[step]
        if not readers or index in outputs:
            continue
        first = readers[0]
        is_near = bisect_right(walls, step) >= bisect_left(walls, first)
        if is_near or not _may_be_late(graph.ops[index], [graph.ops[steps[reader]] for reader in readers]):
            continue
        kept_bytes = sum(
            graph.own_bytes(steps[source])
            for source in flow.sources[step]
            if all(reader < first for reader in flow.readers[source]) and steps[source] not in outputs
        )
        if kept_bytes > graph.own_bytes(index):
            hold.add(index)
    return hold


class _Flow(NamedTuple):
    """For each step that computes something the steps it reads, and those that read it, ascending; views and what is folded are
    looked through."""

    sources: list[list[int]]
    readers: list[list[int]]


def _flow_of(graph: Graph, steps: Sequence[int], folded: Sequence[bool]) -> _Flow:
    latest: dict[int, list[int]] = {}
    sources: list[list[int]] = []
    readers: list[list[int]] = [[] for _ in steps]
    for step, index in enumerate(steps):
        read = sorted({made for source in graph.ops[index].inputs for made in latest.get(source, ())})
        if graph.ops[index].kind is OpKind.ALIAS or folded[index]:
            latest[index] = read
            sources.append([])
            continue
        latest[index] = [step]
        sources.append(read)
        for made in read:
            readers[made].append(step)
    return _Flow(sources, readers)


def _may_be_late(op: Op, readers: Sequence[Op]) -> bool:
    # A tuple has no buffer of its own to hold.
    return (op.fusible and len(op.storages) == 1) or (op.target == "aten.mm.default" and len(readers) == 1 and _is_sum(readers[0]))


def _is_product(op: Op) -> bool:
    return op.kind is OpKind.COMPUTE and op.flops > 0 and not op.pinned


def _is_free_view(op: Op) -> bool:
    return op.kind is OpKind.ALIAS and not op.pinned


def _is_sum(op: Op) -> bool:
    return op.target == "aten.add.Tensor"


def _is_made_in_backward(graph: Graph, index: int) -> bool:
    op = graph.ops[index]
    return op.phase is Phase.BACKWARD and op.kind is not OpKind.TANGENT
