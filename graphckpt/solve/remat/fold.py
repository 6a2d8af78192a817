"""A smaller problem of the same kind: most of a graph's equal layers left out.

*Forward* is what is computed layer by layer, *backward* what is in the other order. With k layers left out between layer a - 1 and
layer a + k, node (place, layer) of the smaller graph reads what it reads in the whole one, counted in layers from its own; what no
layer is in reads the layers that are left. Bytes that those left out hold are held by two nodes instead: in their place in forward
begins one of the size of what they keep for backward, which ends in their place in backward, where one of the size of what they
leave for good begins.

What is found for it goes back into all layers by `graphckpt.solve.remat.lift`. Not guaranteed: that a schedule is as good there; it
is as far as all layers may do what those that stay do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from graphckpt.solve.remat.instance import Instance, Kernels, make_instance
from graphckpt.solve.remat.layers import Layers, Place, equal_layers
from graphckpt.solve.remat.replay import replay
from graphckpt.solve.remat.search import Order
from graphckpt.solve.remat.writer import ScheduleWriter

# Equal layers that stay on each side, at least and at most, besides those at the ends of a model, which are not among them.
_KEPT = range(2, 5)
# Fewer left out are not worth it.
_LEAST = 3
# Nodes that hold bytes.
_ALWAYS, _BEFORE, _BEHIND = -1, -2, -3


class Cut(NamedTuple):
    """Layers ``first`` to ``above - 1`` are left out. ``forward`` and ``backward``: the places whose nodes a layer's windows begin
    with."""

    first: int
    above: int
    forward: int
    backward: int

    @property
    def left_out(self) -> int:
        """How many layers are."""
        return self.above - self.first

    def smaller(self, layer: int) -> int:
        """A layer that stays, counted without those that do not."""
        return layer if layer < self.first else layer - self.left_out

    def whole(self, layer: int) -> int:
        """The other way round."""
        return layer if layer < self.first else layer + self.left_out


@dataclass(frozen=True)
class Folded:
    """``instance``: the smaller problem. ``nodes``: for each of its nodes that of the whole graph, below 0 for those that hold
    bytes."""

    instance: Instance
    whole: Instance
    layers: Layers
    cut: Cut
    nodes: tuple[int, ...]

    def restrict(self, schedule: Sequence[int]) -> tuple[int, ...]:
        """A schedule of the whole graph without the layers that are left out, in the order of the nodes here."""
        here = {node: at for at, node in enumerate(self.nodes)}
        writer = ScheduleWriter(self.instance, Order.FIXED)
        writer.put(here[node] for node in schedule if node in here)
        return writer.schedule()


def fold(instance: Instance, schedule: Sequence[int]) -> Folded | None:
    """The smaller problem of a graph with equal layers; what is left out is as large as ``schedule``, a legal one, makes it. None
    where there are not enough layers, not of a forward and a backward pass, or layers that read across many others."""
    layers = equal_layers(instance)
    kept = 0 if layers is None else min(_KEPT[-1], (layers.layer_count - _LEAST) // 2)
    if layers is None or kept < _KEPT[0]:
        return None
    order = tuple(dict.fromkeys(schedule))
    cut = _cut_of(layers, order, kept)
    if cut is None or not _is_even(instance, layers, cut):
        return None
    left_out = frozenset(row[layer] for row in layers.nodes for layer in range(cut.first, cut.above))
    held = _held(instance, schedule, left_out, layers.nodes[cut.backward][cut.above])
    found = _smaller(instance, layers, cut, held, [node for node in order if node not in left_out])
    return None if found is None else Folded(found[0], instance, layers, cut, found[1])


def _cut_of(layers: Layers, order: Sequence[int], kept: int) -> Cut | None:
    """So many layers are kept on each side. Windows begin with the place that each layer of forward computes first, and of
    backward."""
    step = {node: at for at, node in enumerate(order)}
    times = [[step[node] for node in row] for row in layers.nodes]
    up = [place for place, row in enumerate(times) if row == sorted(row)]
    down = [place for place, row in enumerate(times) if row == sorted(row, reverse=True)]
    if not up or not down or len(up) + len(down) < len(times):
        return None
    forward, backward = (min(places, key=lambda place: times[place][kept]) for places in (up, down))
    return Cut(kept, layers.layer_count - kept, forward, backward)


def _is_even(instance: Instance, layers: Layers, cut: Cut) -> bool:
    """Whether the layers that are left out, and those beside them, read the same, counted from their own layer; and whether nobody
    reads what is left out from further away than there are layers that stay."""
    for row in layers.nodes:
        reads = [_reads(instance, layers, node, layer) for layer, node in enumerate(row)]
        if len(set(reads[cut.first - 1 : cut.above + 1])) > 1:
            return False
        for layer, read in enumerate(reads):
            for place, further, _ in read:
                if place >= 0 and abs(further) >= cut.first and cut.first <= layer + further < cut.above:
                    return False
    return True


def _reads(instance: Instance, layers: Layers, node: int, layer: int) -> tuple[tuple[int, int, int], ...]:
    """Of each input the place and how many layers further it is, or itself where it is in none."""
    places = ((source, layers.of[source]) for source in instance.inputs[node])
    found = ((-1, 0, source) if at is None else (at.place, at.layer - layer, -1) for source, at in places)
    return tuple(sorted(found))


def _held(instance: Instance, schedule: Sequence[int], left_out: frozenset[int], comes: int) -> tuple[int, int]:
    """Bytes of what is left out when ``comes`` is first computed, and at the end."""
    last_reads = replay(instance, schedule).last_reads
    spans = [(made, last, schedule[made]) for made, last in enumerate(last_reads) if schedule[made] in left_out]
    when = schedule.index(comes), len(schedule) - 1
    held, left = (sum(instance.size_bytes[node] for made, last, node in spans if made < step <= last) for step in when)
    return held, left


def _smaller(
    instance: Instance, layers: Layers, cut: Cut, held: tuple[int, int], order: Sequence[int]
) -> tuple[Instance, tuple[int, ...]] | None:
    """The instance of the nodes that stay, numbered in their ``order``, and of three that hold bytes: from the cut in forward to
    the end what is held on both sides of the cut in backward, what is held before that cut alone, and behind it alone. And the
    whole graph's node for each. None where a node would read what is computed behind it, for its layer is not counted as those of
    its inputs are; and where the two cuts do not follow each other."""
    up, down = layers.nodes[cut.forward][cut.above], layers.nodes[cut.backward][cut.first - 1]
    at_up, at_down = order.index(up), order.index(down)
    if at_up > at_down:
        return None
    nodes = (*order[:at_up], _ALWAYS, _BEFORE, *order[at_up:at_down], _BEHIND, *order[at_down:])
    here = {node: at for at, node in enumerate(nodes)}
    inputs = []
    for at, node in enumerate(nodes):
        if node < 0:
            inputs.append([at - 1])
            continue
        sources = (_source(layers, cut, layers.of[node], source) for source in instance.inputs[node])
        inputs.append([here[source] for source in sources if source in here])
        if any(source >= at for source in inputs[at]):
            return None
    inputs[here[up]] += [here[_ALWAYS], here[_BEFORE]]
    inputs[here[_BEHIND]].append(here[_BEFORE])
    inputs[here[down]].append(here[_BEHIND])
    inputs[-1] += [here[_ALWAYS], here[_BEHIND]]
    always = min(held)
    bytes_of = {_ALWAYS: always, _BEFORE: held[0] - always, _BEHIND: held[1] - always}
    kernels = instance.kernels
    smaller = make_instance(
        instance.name,
        tuple(0 if node < 0 else instance.cost[node] for node in nodes),
        tuple(bytes_of[node] if node < 0 else instance.size_bytes[node] for node in nodes),
        tuple(tuple(row) for row in inputs),
        frozenset(at for at, node in enumerate(nodes) if node < 0 or node in instance.once),
        None if kernels is None else _kernels(kernels, nodes),
    )
    return smaller, nodes


def _kernels(kernels: Kernels, nodes: Sequence[int]) -> Kernels:
    return Kernels(
        tuple(0 if node < 0 else kernels.scratch_bytes[node] for node in nodes),
        frozenset(at for at, node in enumerate(nodes) if node in kernels.writers),
        frozenset(at for at, node in enumerate(nodes) if node < 0 or node in kernels.shared),
    )


def _source(layers: Layers, cut: Cut, place: Place | None, source: int) -> int:
    """The node that is read in the smaller problem by one that reads ``source`` in the whole."""
    of_source = layers.of[source]
    if place is None or of_source is None or not cut.first <= of_source.layer < cut.above:
        return source
    layer = cut.smaller(place.layer) + of_source.layer - place.layer
    return layers.nodes[of_source.place][cut.whole(layer)]
