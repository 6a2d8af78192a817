"""Layers of equal structure in a graph of nodes, found by canonical hashing; neither names nor numbers of nodes count.

A node's *colour* is a hash of what is within a few edges of it: its cost, its size, what it does as a kernel, and the colours of
what it reads and of what reads it (Weisfeiler and Leman's refinement, 1968). Equal layers of a model give each colour once a layer.
The nodes of one colour, in the order of their depth, are a *place* in layers that are counted from there; what stands beside them,
the only one of its colour that each reads or is read by, is another place, and so on. Forward and backward of a layer are found
together, for edges lead from one to the other.

Not guaranteed: that layers are found where there are some; those at both ends, whose surroundings differ, are not. Nor that layers
that are found read each other alike: whoever relies on it checks it, as `graphckpt.solve.remat.fold` does.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from typing import NamedTuple

from graphckpt.solve.remat.instance import Instance

# How many edges a colour sees: the fewer, the fewer layers are lost at both ends, and the more nodes of a layer look alike.
_RADII = (1, 3)
_FEWEST = 4
# Kinds of colours that layers are grown from.
_TRIED = 3


class Place(NamedTuple):
    """Where a node is: ``layer`` counts from 0, ``place`` tells nodes of one layer apart."""

    layer: int
    place: int


class Layers(NamedTuple):
    """``of[v]``: where node v is, None outside of the layers. ``nodes[place][layer]``: the other way round."""

    layer_count: int
    of: tuple[Place | None, ...]
    nodes: tuple[tuple[int, ...], ...]


def colours(instance: Instance, radius: int) -> list[int]:
    """Equal numbers for nodes whose surroundings look alike."""
    kernels = instance.kernels
    traits = [
        (
            instance.cost[node],
            instance.size_bytes[node],
            node in instance.once,
            kernels and (kernels.scratch_bytes[node], node in kernels.writers, node in kernels.shared),
        )
        for node in range(instance.count)
    ]
    found = _numbered(traits)
    for _ in range(radius):
        found = _numbered(
            [
                (
                    found[node],
                    tuple(sorted(found[source] for source in instance.inputs[node])),
                    # Who reads it, each kind once: what all layers share is read by as many as there are.
                    tuple(sorted({found[reader] for reader in instance.readers[node]})),
                )
                for node in range(instance.count)
            ]
        )
    return found


def equal_layers(instance: Instance) -> Layers | None:
    """The equal layers with most nodes that the commonest colours lead to, counted in forward's direction; None where there are
    fewer than four."""
    depth = _depths(instance)
    best: Layers | None = None
    for radius in _RADII:
        colour = colours(instance, radius)
        members: defaultdict[int, list[int]] = defaultdict(list)
        for node in range(instance.count):
            members[colour[node]].append(node)
        sizes = Counter(len(nodes) for nodes in members.values() if len(nodes) >= _FEWEST)
        for size in sorted(sizes, key=lambda size: -size * sizes[size])[:_TRIED]:
            seeds = next(nodes for nodes in members.values() if len(nodes) == size)
            layers = _grown(instance, colour, sorted(seeds, key=depth.__getitem__), depth)
            if layers is not None and (best is None or _extent(layers) > _extent(best)):
                best = layers
    return best


def _extent(layers: Layers) -> int:
    return layers.layer_count * len(layers.nodes)


def _numbered(keys: Sequence[object]) -> list[int]:
    numbers: dict[object, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def _depths(instance: Instance) -> list[int]:
    depth = [0] * instance.count
    for node in instance.topological_order:
        depth[node] = max((depth[source] + 1 for source in instance.inputs[node]), default=0)
    return depth


def _grown(instance: Instance, colour: Sequence[int], seeds: Sequence[int], depth: Sequence[int]) -> Layers | None:
    """Layers from nodes of one colour, a layer each."""
    chains: list[dict[int, int]] = [dict(enumerate(seeds))]
    taken = set(seeds)
    queue = deque([0])
    while queue:
        place = queue.popleft()
        for toward in (instance.inputs, instance.readers):
            for chain in _beside(chains[place], toward, colour):
                nodes = set(chain.values())
                if len(nodes) == len(chain) and not nodes & taken:
                    taken |= nodes
                    queue.append(len(chains))
                    chains.append(chain)
    rows = _common(chains)
    # Layers are counted as forward computes them, and where it does that, nodes are less deep than anywhere else.
    shallowest = min(rows, key=lambda row: min(depth[node] for node in row), default=())
    if shallowest and depth[shallowest[0]] > depth[shallowest[-1]]:
        rows = [row[::-1] for row in rows]
    return _layers_of(instance, rows) if rows else None


def _beside(chain: dict[int, int], toward: Sequence[Sequence[int]], colour: Sequence[int]) -> list[dict[int, int]]:
    """Rows of nodes that stand beside those of a chain in the same way: the only one of its colour that each reads, or is read
    by."""
    rows: defaultdict[int, dict[int, int]] = defaultdict(dict)
    for layer, node in chain.items():
        kinds = Counter(colour[other] for other in toward[node])
        for other in toward[node]:
            if kinds[colour[other]] == 1:
                rows[colour[other]][layer] = other
    return [row for row in rows.values() if len(row) >= _FEWEST]


def _common(chains: Sequence[dict[int, int]]) -> list[tuple[int, ...]]:
    """The chains in the layers that all of the longest have; the shortest are left out where that leaves too few layers."""
    kept = list(chains)
    while kept:
        first, last = max(min(chain) for chain in kept), min(max(chain) for chain in kept)
        layers = range(first, last + 1)
        if len(layers) >= _FEWEST:
            return [tuple(chain[layer] for layer in layers) for chain in kept if all(layer in chain for layer in layers)]
        shortest = min(len(chain) for chain in kept)
        kept = [chain for chain in kept if len(chain) > shortest]
    return []


def _layers_of(instance: Instance, rows: Sequence[tuple[int, ...]]) -> Layers:
    of: list[Place | None] = [None] * instance.count
    for place, row in enumerate(rows):
        for layer, node in enumerate(row):
            of[node] = Place(layer, place)
    return Layers(len(rows[0]), tuple(of), tuple(rows))
