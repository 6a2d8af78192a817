"""Where a forward pass can be cut: the places that few bytes cross, and the layers between them.

A *boundary* is a position in the forward order; what crosses it are the values computed before and read at or after it. Values
that cost nothing to get again (`cheap_values`) are not counted: masks, position tables, casts of weights.

Not optimal: cuts are chosen by crossing bytes and module paths alone. The planner of single tensors does better.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from graphckpt.ir.graph import Graph, OpKind, Phase

_TINY_SHARE = 64


@dataclass(frozen=True, slots=True)
class Segments:
    """A partition of the forward order. ``of_op[i]``: the segment of operation ``i`` (-1: not in forward); ``crossing[k]``: the
    values that enter segment ``k`` from earlier ones."""

    of_op: tuple[int, ...]
    crossing: tuple[frozenset[int], ...]

    @property
    def count(self) -> int:
        """How many segments there are."""
        return len(self.crossing)


def forward_order(graph: Graph) -> tuple[int, ...]:
    """What forward must compute for its outputs and effects, in the traced order."""
    needed = [False] * len(graph.ops)
    for out in graph.forward_outputs:
        needed[out] = True
    for index, op in enumerate(graph.ops):
        if op.has_effect and op.phase is Phase.FORWARD:
            needed[index] = True
    for index in range(len(graph.ops) - 1, -1, -1):
        if needed[index]:
            for source in graph.ops[index].inputs:
                needed[source] = True
    return tuple(i for i, op in enumerate(graph.ops) if needed[i] and op.kind in (OpKind.COMPUTE, OpKind.ALIAS))


def base_of(graph: Graph) -> tuple[int, ...]:
    """For each operation the one that allocated its value: itself, or through views; an element of a tuple is its own base."""
    base: list[int] = []
    for index, op in enumerate(graph.ops):
        if op.kind is OpKind.ALIAS and op.inputs and not is_element(graph, index):
            base.append(base[op.inputs[0]])
        else:
            base.append(index)
    return tuple(base)


def is_element(graph: Graph, index: int) -> bool:
    """Whether an operation picks one tensor out of the tuple that a computation gives."""
    op = graph.ops[index]
    return op.kind is OpKind.ALIAS and "getitem" in op.target and graph.ops[op.inputs[0]].kind is OpKind.COMPUTE


def cheap_values(graph: Graph) -> tuple[bool, ...]:
    """Values that can be had again from the inputs and the random seeds by pointwise work alone."""
    cheap: list[bool] = []
    for op in graph.ops:
        if op.kind is OpKind.INPUT:
            cheap.append(True)
        elif op.kind is OpKind.TANGENT or op.phase is Phase.BACKWARD:
            cheap.append(False)
        else:
            free = op.kind is OpKind.ALIAS or (op.fusible and not op.pinned)
            cheap.append(free and all(cheap[s] or is_seed(graph, s) for s in op.inputs))
    return tuple(cheap)


def is_seed(graph: Graph, index: int) -> bool:
    """Whether an operation makes random seeds: they are always saved, a few bytes for every mask drawn from them."""
    return graph.ops[index].pinned == "random" and "seed" in graph.ops[index].target


def crossing_values(graph: Graph, order: Sequence[int], places: Collection[int] | None = None) -> list[frozenset[int]]:
    """For each position of ``order``, or those in ``places``, ascending: the values computed before it and read at or after it;
    cheap ones are left out."""
    base, cheap = base_of(graph), cheap_values(graph)
    position = {index: k for k, index in enumerate(order)}
    last_read: dict[int, int] = {}
    for k, index in enumerate(order):
        for source in graph.ops[index].inputs:
            last_read[base[source]] = k
    starts: list[list[int]] = [[] for _ in range(len(order) + 1)]
    ends: list[list[int]] = [[] for _ in range(len(order) + 2)]
    for value, last in last_read.items():
        if value in position and not cheap[value] and last > position[value]:
            starts[position[value] + 1].append(value)
            ends[last + 1].append(value)
    live: set[int] = set()
    rows = []
    for k in range(len(order)):
        live.difference_update(ends[k])
        live.update(starts[k])
        if places is None or k in places:
            rows.append(frozenset(live))
    return rows


def cut_at(graph: Graph, order: Sequence[int], boundaries: Sequence[int]) -> Segments:
    """The segments between ``boundaries``, ascending positions of ``order``; 0 and the end are implied."""
    inner = [b for b in boundaries if 0 < b < len(order)]
    of_op = [-1] * len(graph.ops)
    starts = [0, *inner]
    for segment, (begin, end) in enumerate(zip(starts, [*inner, len(order)], strict=True)):
        for k in range(begin, end):
            of_op[order[k]] = segment
    return Segments(tuple(of_op), (frozenset(), *crossing_values(graph, order, frozenset(inner))))


def layer_boundaries(graph: Graph, order: Sequence[int]) -> tuple[int, ...]:
    """Positions where a layer starts, and where one ends that no other follows (the head, the step from encoder to decoder).

    Layers are told by numbered module paths such as ``h.3`` or ``encoder.layer.3``. Where there are none, the narrow valleys of
    the crossing bytes serve.
    """
    layer = [_layer_of(graph.ops[index].origin.module) for index in order]
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for k, name in enumerate(layer):
        if name:
            first.setdefault(name, k)
            last[name] = k
    if len(first) < 2:
        return narrow_boundaries(graph, order)
    starts = set(first.values())
    ends = {end + 1 for end in last.values() if end + 1 < len(order) and layer[end + 1] == ""}
    return tuple(sorted(starts | ends))


def narrow_boundaries(graph: Graph, order: Sequence[int]) -> tuple[int, ...]:
    """Positions that fewer bytes cross than any place nearby: the first of each valley, at most twice the narrowest."""
    width = crossing_bytes(graph, crossing_values(graph, order))
    inside = [w for w in width[len(width) // 10 : -len(width) // 10 or None] if w]
    if not inside:
        return ()
    limit = 2 * min(inside)
    return tuple(k for k in range(1, len(width)) if 0 < width[k] <= limit and width[k - 1] > width[k])


def crossing_bytes(graph: Graph, rows: Sequence[frozenset[int]]) -> list[int]:
    """Bytes of the distinct storages behind each row of values."""
    sizes = []
    for row in rows:
        held = {s for value in row for s in graph.ops[value].storages if not graph.storages[s].external}
        sizes.append(sum(graph.storages[s].size_bytes for s in held))
    return sizes


def tiny_bytes(graph: Graph, order: Sequence[int]) -> int:
    """Below this a value is always saved: dropping it would gain nothing."""
    widths = [w for w in crossing_bytes(graph, crossing_values(graph, order)) if w]
    return min(widths, default=0) // _TINY_SHARE


def spread(last: int, most: int) -> list[int]:
    """The numbers from 1 to ``last``, or ``most`` of them, evenly spread."""
    if last <= most:
        return list(range(1, last + 1))
    return sorted({round(last * step / most) for step in range(1, most + 1)})


def _layer_of(module: str) -> str:
    """``transformer.h.3.attn`` -> ``transformer.h.3``; paths without a number give ""."""
    match = re.match(r"(.*?\.\d+)(\.|$)", module)
    return match.group(1) if match else ""
