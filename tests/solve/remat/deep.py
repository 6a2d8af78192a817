"""Training steps of equal layers, as instances whose nodes have names.

Forward of layer i, which reads x[i] and what all layers share:     x[i] -> a[i] (size 4) -> b[i] (size 3) -> x[i+1] (size 2)
Backward, from the last layer on:    gb[i] (3) reads g[i+1], a[i];    w[i] (2) reads gb[i], b[i] and stays;    g[i] (2) reads gb[i]
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from graphckpt.solve.remat.fold import Folded, fold
from graphckpt.solve.remat.instance import Instance, make_instance


class Deep(NamedTuple):
    """``names[v]``: what node v is, with the layer that it is of."""

    instance: Instance
    names: tuple[tuple[str, int], ...]

    def nodes(self, *names: tuple[str, int]) -> list[int]:
        """The nodes of these names."""
        return [self.names.index(name) for name in names]


def deep(layers: int, odd: int | None = None) -> Deep:
    """A step of so many layers; layer ``odd``'s a is larger than the others'."""
    nodes: dict[tuple[str, int], tuple[int, int, list[tuple[str, int]]]] = {
        ("shared", 0): (1, 1, []),
        ("x", 0): (1, 2, []),
    }
    for i in range(layers):
        nodes["a", i] = (5, 4 + (i == odd), [("x", i), ("shared", 0)])
        nodes["b", i] = (3, 3, [("a", i)])
        nodes["x", i + 1] = (2, 2, [("b", i), ("x", i)])
    nodes["g", layers] = (4, 2, [("x", layers)])
    for i in reversed(range(layers)):
        nodes["gb", i] = (6, 3, [("g", i + 1), ("a", i)])
        nodes["w", i] = (6, 2, [("gb", i), ("b", i)])
        nodes["g", i] = (2, 2, [("gb", i), ("g", i + 1)])
    nodes["end", 0] = (0, 0, [("g", 0), *(("w", i) for i in range(layers))])
    number = {name: at for at, name in enumerate(nodes)}
    cost, size_bytes, inputs = zip(*nodes.values(), strict=True)
    named = tuple(tuple(number[source] for source in sources) for sources in inputs)
    once = frozenset(number[name] for name in number if name[0] in ("gb", "w", "g", "end"))
    return Deep(make_instance("deep", cost, size_bytes, named, once), tuple(nodes))


def must_fold(instance: Instance, schedule: Sequence[int]) -> Folded:
    """The smaller problem, where there is to be one."""
    found = fold(instance, schedule)
    assert found is not None
    return found


def kept(step: Deep) -> list[int]:
    """Everything is computed once."""
    return list(range(step.instance.count))


def recomputed(step: Deep, layers: int, again: Sequence[str] = ("a", "b")) -> list[int]:
    """These of each layer, but the last, are computed again when backward comes to it."""
    steps: list[int] = []
    for node, (name, layer) in enumerate(step.names):
        if name == "gb" and layer < layers - 1:
            steps += step.nodes(*((what, layer) for what in again))
        steps.append(node)
    return steps


def random_step(seed: int) -> Instance:
    """9 to 26 layers of 2 to 5 places, forward and backward, which read each other over up to three layers."""
    draw = random.Random(seed)
    layers, places = draw.randint(9, 26), draw.randint(2, 5)
    reads = [[(place - 1, 0)] if place else [(places - 1, -1)] for place in range(places)]
    for row in reads:
        row += [(draw.randrange(places), -draw.randint(1, 3)) for _ in range(draw.randint(0, 2))]
    nodes: dict[tuple[str, int, int], set[tuple[str, int, int]]] = {}
    for layer in range(layers):
        for place in range(places):
            sources = {("f", at, layer + further) for at, further in reads[place] if layer + further >= 0}
            nodes["f", place, layer] = sources
    for layer in reversed(range(layers)):
        for place in reversed(range(places)):
            known = {("f", at, layer + further) for at, further in reads[place] if layer + further >= 0}
            later = {("g", at, layer - further) for at, row in enumerate(reads) for to, further in row if to == place}
            nodes["g", place, layer] = known | {source for source in later if source in nodes} | {("f", places - 1, layers - 1)}
    number = {name: at for at, name in enumerate(nodes)}
    sizes = {(kind, place): draw.randint(1, 9) for kind in "fg" for place in range(places)}
    named = tuple(tuple(number[source] for source in sorted(row)) for row in nodes.values())
    own = tuple(sizes[kind, place] for kind, place, _ in nodes)
    return make_instance(f"step {seed}", own[::-1], own, named)
