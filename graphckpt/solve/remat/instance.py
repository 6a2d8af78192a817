"""A rematerialization problem: nodes with a cost and a size that read the outputs of other nodes.

Costs and sizes are whole numbers of any unit. A node that ``once`` names may not be computed again. Kernels know two things more,
`Kernels`. Not guaranteed: that nodes are numbered in a topological order; `topological_order` gives one, the numbers themselves
where they are.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from graphckpt.errors import InstanceError

# The engine counts in doubles, exact below 2^53, and sums over the steps of a schedule.
LARGEST_SUM = 2**53
STEPS_PER_NODE = 8
SPARE_STEPS = 64


@dataclass(frozen=True, slots=True)
class Kernels:
    """What kernels do beside reading and writing. ``scratch_bytes[v]``: live while node v is computed and at no other time.
    ``writers``: nodes that write over an input of their size where they are the last to read it; not over one that is ``shared``.
    """

    scratch_bytes: tuple[int, ...]
    writers: frozenset[int]
    shared: frozenset[int]


@dataclass(frozen=True)
class Instance:
    """``inputs[v]``: the nodes whose outputs node v reads, ascending, each once; ``kernels``: None where nodes are plain values.
    Made by `make_instance`, which checks."""

    name: str
    cost: tuple[int, ...]
    size_bytes: tuple[int, ...]
    inputs: tuple[tuple[int, ...], ...]
    once: frozenset[int] = frozenset()
    kernels: Kernels | None = None

    @property
    def count(self) -> int:
        """How many nodes there are."""
        return len(self.cost)

    @cached_property
    def total_cost(self) -> int:
        """The cost of computing each node once: no schedule costs less."""
        return sum(self.cost)

    def cost_of(self, schedule: Sequence[int]) -> int:
        """The cost of its steps."""
        return sum(self.cost[node] for node in schedule)

    @cached_property
    def readers(self) -> tuple[tuple[int, ...], ...]:
        """For each node the nodes that read its output, ascending."""
        readers: list[list[int]] = [[] for _ in self.cost]
        for node, sources in enumerate(self.inputs):
            for source in sources:
                readers[source].append(node)
        return tuple(tuple(row) for row in readers)

    @cached_property
    def is_in_order(self) -> bool:
        """Whether 0, 1, 2, ... is a schedule."""
        return all(source < node for node, sources in enumerate(self.inputs) for source in sources)

    @cached_property
    def topological_order(self) -> tuple[int, ...]:
        """A schedule without repeats: of the nodes that can be computed always the one of the smallest number."""
        return tuple(_sorted_topologically(self.inputs, self.readers))

    @property
    def capacity(self) -> int:
        """No schedule that is looked for has more steps."""
        return STEPS_PER_NODE * self.count + SPARE_STEPS


def make_instance(
    name: str,
    cost: tuple[int, ...],
    size_bytes: tuple[int, ...],
    inputs: tuple[tuple[int, ...], ...],
    once: frozenset[int] = frozenset(),
    kernels: Kernels | None = None,
) -> Instance:
    """A checked instance. Raises `InstanceError` in one line: no node, lists of other lengths, a negative or too large number,
    an input that is no node, a cycle."""
    count = len(cost)
    scratch_bytes = (0,) * count if kernels is None else kernels.scratch_bytes
    if not count:
        raise InstanceError("wanted one node or more, came none")
    for what, length in (("size", len(size_bytes)), ("preds", len(inputs)), ("scratch", len(scratch_bytes))):
        if length != count:
            raise InstanceError(f"{what}: wanted {count} entries, one a node as in cost, came {length}")
    for what, values in (("cost", cost), ("size", size_bytes), ("scratch", scratch_bytes)):
        for node, value in enumerate(values):
            if value < 0:
                raise InstanceError(f"{what} of node {node}: wanted 0 or more, came {value}")
        largest = LARGEST_SUM // (STEPS_PER_NODE * count + SPARE_STEPS)
        if sum(values) > largest:
            raise InstanceError(f"{what}: wanted a sum of at most {largest}, came {sum(values)}; use a larger unit")
    for node, sources in enumerate(inputs):
        for source in sources:
            if not 0 <= source < count:
                raise InstanceError(f"preds of node {node}: wanted nodes 0 to {count - 1}, came {source}")
    distinct = tuple(tuple(sorted(set(sources))) for sources in inputs)
    instance = Instance(name, cost, size_bytes, distinct, once, kernels)
    if len(instance.topological_order) < count:
        cycle = " -> ".join(map(str, _some_cycle(distinct, set(range(count)) - set(instance.topological_order))))
        raise InstanceError(f"wanted a graph without cycles, came one with the cycle {cycle}")
    return instance


def relabelled(instance: Instance, order: tuple[int, ...]) -> Instance:
    """The same problem with its nodes numbered by their place in ``order``, a permutation of them."""
    place = [0] * instance.count
    for at, node in enumerate(order):
        place[node] = at
    return Instance(
        instance.name,
        tuple(instance.cost[node] for node in order),
        tuple(instance.size_bytes[node] for node in order),
        tuple(tuple(sorted(place[source] for source in instance.inputs[node])) for node in order),
        frozenset(place[node] for node in instance.once),
        None if instance.kernels is None else _relabelled_kernels(instance.kernels, order, place),
    )


def _relabelled_kernels(kernels: Kernels, order: Sequence[int], place: Sequence[int]) -> Kernels:
    return Kernels(
        tuple(kernels.scratch_bytes[node] for node in order),
        frozenset(place[node] for node in kernels.writers),
        frozenset(place[node] for node in kernels.shared),
    )


def refuse_kernels(instance: Instance) -> None:
    """Raises `InstanceError` where nodes are kernels: what is proven of peaks takes a node to need its inputs beside its output."""
    if instance.kernels is not None:
        raise InstanceError("a proof: wanted nodes that are plain values, came kernels, which may write over what they read")


def overhead_percent(instance: Instance, cost: int) -> float:
    """How much more a schedule of this cost takes than each node once, in percent; 0 where nothing costs anything."""
    total = instance.total_cost
    return 100 * (cost - total) / total if total else 0.0


def _sorted_topologically(inputs: tuple[tuple[int, ...], ...], readers: tuple[tuple[int, ...], ...]) -> list[int]:
    missing = [len(sources) for sources in inputs]
    ready = [node for node, count in enumerate(missing) if not count]
    order = []
    while ready:
        node = heapq.heappop(ready)
        order.append(node)
        for reader in readers[node]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    return order


def _some_cycle(inputs: tuple[tuple[int, ...], ...], left: set[int]) -> list[int]:
    # Each node that is left reads one that is left: walking there must come back.
    node = min(left)
    seen: dict[int, int] = {}
    while node not in seen:
        seen[node] = len(seen)
        node = next(source for source in inputs[node] if source in left)
    walk = list(reversed(list(seen)[seen[node] :]))
    first = walk.index(min(walk))
    return [*walk[first:], *walk[:first], walk[first]]
