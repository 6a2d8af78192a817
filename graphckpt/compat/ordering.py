"""Makes Inductor keep the order and the lifetimes of a planned graph: nothing is moved, and nothing lives on unread.

Stock fuses whatever shares data, however far apart, and runs the fused kernel at the later place: what its earlier part read
stays alive until then. A plan's peak rests on the places its nodes have, so under `order_held`

 - two kernels with others' kernels of aten between them are not fused if the earlier part would hold more than it makes, unless
   there is room for it: nodes may say how many bytes are left where they stand (``meta[ROOM_BYTES]``; nothing said is none);
 - after fusion, kernels stand in the traced order of their last parts, and no other order is tried; nor are they moved so that
   fewer pieces are captured, which Inductor does in its CUDA graph modes, on a CPU as well;
 - a buffer that nobody reads any more is freed. Stock keeps it for a later one of its size if its own estimate of the peak
   allows that: two score matrices of an attention then live through the MLP before the next layer's.

Costs: what is not fused is written and read once more (a dry lowering's time includes it), and the allocator is asked more often.
Read in torch 2.11, 2.13, 2.14 and 2.15 (``_inductor/choices.py``, ``scheduler.py``).
"""

from __future__ import annotations

import functools
import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch._inductor import config as inductor_config
from torch._inductor.choices import InductorChoices
from torch._inductor.scheduler import ExternKernelSchedulerNode
from torch._inductor.virtualized import V

from graphckpt.compat.buffers import buffer_bytes
from graphckpt.errors import UnsupportedGraph

# What a node's metadata calls the bytes that a budget leaves at its place.
ROOM_BYTES = "graphckpt_room_bytes"
# Of the room at a place what one fusion may take: several may ask for the same.
_SHARE_OF_ROOM = 0.5


@contextmanager
def order_held() -> Iterator[None]:
    """Inside, graphs are lowered in their traced order. The caller's own choices of kernels stay in force."""
    follow = inductor_config._post_fusion_custom_pass

    def arrange(nodes: list[Any]) -> list[Any]:
        ordered = in_traced_order(nodes)
        return ordered if follow is None else follow(ordered)

    settings = inductor_config.patch(
        {
            "reorder_for_peak_memory": False,
            "allow_buffer_reuse": False,
            "_post_fusion_custom_pass": arrange,
            # After the pass above; what cannot be captured in a CUDA graph is everything on a CPU, and is moved apart all the same.
            "triton.reorder_for_reducing_graph_partitions": False,
        }
    )
    with settings, V.set_choices_handler(_holding(V.choices)):
        yield


def in_traced_order(nodes: list[Any]) -> list[Any]:
    """The fused kernels, each at the place of its last part, as far as their dependencies allow.

    Raises:
        UnsupportedGraph: there is no such order; a kernel left out would go unnoticed.
    """
    maker = {name: node for node in nodes for name in node.get_buffer_names()}
    needs = {node: {maker[d.name] for d in node.unmet_dependencies if d.name in maker} - {node} for node in nodes}
    readers: dict[Any, list[Any]] = {node: [] for node in nodes}
    for node, sources in needs.items():
        for source in sources:
            readers[source].append(node)
    place = {node: (max(_places(node)), number) for number, node in enumerate(nodes)}
    missing = {node: len(sources) for node, sources in needs.items()}
    ready = [(*place[node], node) for node in nodes if not missing[node]]
    heapq.heapify(ready)
    ordered = []
    while ready:
        *_, node = heapq.heappop(ready)
        ordered.append(node)
        for reader in readers[node]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, (*place[reader], reader))
    if len(ordered) < len(nodes):
        stuck = f"{len(nodes) - len(ordered)} of {len(nodes)} kernels wait for a circle"
        raise UnsupportedGraph("generated schedule", f"an order was wanted, but {stuck}")
    return ordered


@dataclass(frozen=True, slots=True)
class _Reads:
    """Of one scheduler before fusion: the places each buffer is read at, ascending, those of aten kernels, bytes by name, and room
    by place."""

    scheduler: Any
    places: dict[str, list[int]]
    barriers: list[int]
    bytes_of: Callable[[str], int]
    room_bytes: list[int]


def _holding(choices: InductorChoices) -> InductorChoices:
    """A handler that asks ``choices`` first, and then refuses fusions that would hold memory over a distance."""
    ask: Callable[..., bool] = choices.can_fuse
    known: list[_Reads] = []

    class Holding(type(choices)):  # type: ignore[misc]
        """The caller's choices, but for fusions over a distance."""

        @staticmethod
        def can_fuse(scheduler: Any, node1: Any, node2: Any, shared_data_score: int) -> bool:
            if not ask(scheduler, node1, node2, shared_data_score):
                return False
            if not known or known[-1].scheduler is not scheduler:
                known[:] = [_reads_of(scheduler)]
            return not holds_memory(known[-1], node1, node2)

    handler = Holding.__new__(Holding)
    handler.__dict__.update(vars(choices))
    return handler


def holds_memory(reads: _Reads, node1: Any, node2: Any) -> bool:
    """Whether fusing two kernels has more bytes live at the later one's place than leaving them apart, and than there is room for.

    Together they run where the last part of the later one stands. What the earlier one read last stays until then, and what it
    makes for readers in between comes only then, and after it those readers with all that waits for them; what it makes for later
    readers alone is not there in between.
    """
    early, late = (node1, node2) if max(_places(node1)) <= max(_places(node2)) else (node2, node1)
    end, own_places = max(_places(early)), frozenset(_places(late))
    begin = max(own_places)
    if bisect_right(reads.barriers, end) >= bisect_left(reads.barriers, begin):
        return False
    own = early.get_buffer_names()
    held = {
        d.name: reads.bytes_of(d.name)
        for d in early.read_writes.reads
        if d.name not in own and reads.places.get(d.name, [begin])[-1] <= end and not _is_parameter(d.name)
    }
    made = {d.name: reads.bytes_of(d.name) for d in early.read_writes.writes}
    delayed_bytes = sum(made[name] for name in made if _is_read_between(reads.places.get(name, []), end, begin, own_places))
    kept_bytes, spared_bytes = sum(held.values()) + delayed_bytes, sum(made.values()) - delayed_bytes
    # On a tie a fusion is worth its time, unless it puts two generations of results side by side.
    more_bytes = delayed_bytes if kept_bytes == spared_bytes else kept_bytes - spared_bytes
    return more_bytes > 0 and more_bytes > _SHARE_OF_ROOM * min(reads.room_bytes[end : begin + 1])


def _is_read_between(places: list[int], end: int, begin: int, own_places: Collection[int]) -> bool:
    between = places[bisect_right(places, end) : bisect_left(places, begin)]
    return any(place not in own_places for place in between)


def _reads_of(scheduler: Any) -> _Reads:
    places: dict[str, list[int]] = {}
    barriers = []
    parts = [part for node in scheduler.nodes for part in node.get_nodes()]
    for part in parts:
        for dependency in part.read_writes.reads:
            places.setdefault(dependency.name, []).append(part.min_order)
        if isinstance(part, ExternKernelSchedulerNode):
            barriers.append(part.min_order)
    for row in places.values():
        row.sort()
    # Fusion asks of each pair of kernels, and sizes stay.
    return _Reads(scheduler, places, sorted(barriers), functools.cache(buffer_bytes), _room_at_places(parts))


def _room_at_places(parts: list[Any]) -> list[int]:
    """By place the room that the traced nodes there have; what no node was traced for has that of the place before."""
    known = {}
    for part in parts:
        origins = part.node.get_origins() if part.node is not None else ()
        if origins:
            known[part.min_order] = min(origin.meta.get(ROOM_BYTES, 0) for origin in origins)
    rooms: list[int] = []
    for place in range(1 + max((part.min_order for part in parts), default=-1)):
        rooms.append(known.get(place, rooms[-1] if rooms else 0))
    return rooms


def _places(node: Any) -> list[int]:
    return [part.min_order for part in node.get_nodes()]


def _is_parameter(name: str) -> bool:
    """Whether a buffer is an input that its caller keeps: dropping it frees nothing."""
    return name in V.graph.graph_inputs and name.startswith("primals")
