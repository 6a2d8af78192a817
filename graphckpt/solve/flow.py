"""The smallest cut of a directed network, by the C++ core (Dinic's blocking flows, ``csrc/flow.cpp``).

Enters: a network, and capacities of whole numbers. Leaves: the capacity of the cheapest cut between two nodes, and
the side of the source: of all cheapest cuts the one with the fewest nodes there, so the answer is one and the same every time.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from graphckpt.core import Status, address_of, load_library
from graphckpt.errors import PlanError

# An edge of this capacity may not be cut. Far below 2^63, for the core adds a few of them.
UNCUTTABLE = 1 << 60


class Cut(NamedTuple):
    """``source_side[n]``: whether node ``n`` is on the source's side; ``capacity``: of the edges that leave it."""

    source_side: tuple[bool, ...]
    capacity: int


class Network:
    """Nodes 0 to ``node_count`` - 1 and edges (tail, head), to be cut between ``source`` and ``sink``, once or many times.

    Raises:
        PlanError: a node out of range.
    """

    def __init__(self, node_count: int, edges: Sequence[tuple[int, int]], source: int, sink: int) -> None:
        nodes = [source, sink, *(node for edge in edges for node in edge)]
        if source == sink or min(nodes) < 0 or max(nodes) >= node_count:
            raise PlanError(f"a cut: wanted two different nodes and edges among 0 to {node_count - 1}")
        self._node_count, self._source, self._sink = node_count, source, sink
        self._tails, self._heads = array("i", [tail for tail, _ in edges]), array("i", [head for _, head in edges])

    def min_cut(self, capacities: Sequence[int]) -> Cut:
        """The cheapest cut; a capacity for each edge.

        Raises:
            PlanError: a negative capacity, capacities that do not fit, or no cut without an uncuttable edge.
        """
        self._check(capacities)
        given = array("q", [min(capacity, UNCUTTABLE) for capacity in capacities])
        side, capacity = array("B", bytes(self._node_count)), ctypes.c_int64()
        status = load_library().graphckpt_min_cut(
            self._node_count,
            len(given),
            address_of(self._tails),
            address_of(self._heads),
            address_of(given),
            self._source,
            self._sink,
            address_of(side),
            ctypes.byref(capacity),
        )
        if status == Status.OUT_OF_MEMORY:
            raise MemoryError
        if capacity.value >= UNCUTTABLE:
            raise PlanError("a cut was wanted, but source and sink are joined by edges that may not be cut")
        return Cut(tuple(map(bool, side)), capacity.value)

    def _check(self, capacities: Sequence[int]) -> None:
        if len(capacities) != len(self._tails):
            raise PlanError(f"a cut: wanted {len(self._tails)} capacities, one an edge, came {len(capacities)}")
        if min(capacities, default=0) < 0:
            raise PlanError("a cut: wanted capacities of zero or more")
        if sum(capacity for capacity in capacities if capacity < UNCUTTABLE) >= UNCUTTABLE:
            raise PlanError("a cut: the capacities are too large to be added; scale them down")
