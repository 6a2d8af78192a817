"""Graphs like the published ones, made here: random layered ones, chains of convolutions and U-Nets with their way back.

The layered ones take the published parameters (random layered: n, width w, variance of layer sizes nlv, edge density ed,
density of skips scd): layers of about w sqrt(n) nodes, each reading its share of the layer before and few of those before that,
down to one last node; none is read by nobody. Costs up to 1000, sizes up to 7000, as on rl100 and rl500. They are of that kind.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

from graphckpt.solve.remat.instance import Instance, make_instance

_VARIANCE, _DENSITY, _SKIPS = 0.75, 0.2, 0.14


def random_layered(nodes: int, width: float, seed: int) -> Instance:
    """``nodes`` nodes in layers of ``width`` times their root, by a normal lot."""
    lottery = random.Random(seed)
    inputs: list[tuple[int, ...]] = []
    layers: list[list[int]] = []
    while len(inputs) < nodes:
        mean = width * nodes**0.5
        wanted = max(1, round(lottery.gauss(mean, _VARIANCE * mean**0.5)))
        left = nodes - len(inputs)
        layer = list(range(len(inputs), len(inputs) + (min(wanted, left - 1) if left > 1 else 1)))
        for _ in layer:
            read: set[int] = set()
            if layers:
                read.update(lottery.sample(layers[-1], 1 + round(_DENSITY * lottery.random() * (len(layers[-1]) - 1))))
                if len(layers) > 1 and lottery.random() < _SKIPS:
                    read.add(lottery.choice(lottery.choice(layers[:-1])))
            inputs.append(tuple(read))
        layers.append(layer)
    for here, following in pairwise(layers):
        for node in set(here) - {source for reader in range(following[0], nodes) for source in inputs[reader]}:
            reader = lottery.choice(following)
            inputs[reader] = (*inputs[reader], node)
    return make_instance(
        f"random_layered_{nodes}",
        tuple(lottery.randint(0, 1000) for _ in range(nodes)),
        tuple(lottery.randint(20, 7000) for _ in range(nodes)),
        tuple(inputs),
    )


def convolutions(stages: int, seed: int) -> Instance:
    """A chain of ``stages`` times (convolution, normalisation, activation), halved now and then, and its way back."""
    forward: list[tuple[int, ...]] = [(node - 1,) if node else () for node in range(3 * stages)]
    return _there_and_back(f"convolutions_{stages}", forward, lambda node: node // 12, seed)


def u_net(depth: int, seed: int) -> Instance:
    """``depth`` stages down and up again, each stage up reading its like on the way down; and the way back."""
    forward: list[tuple[int, ...]] = []
    halvings: list[int] = []
    ends: list[int] = []
    for stage in (*range(depth), *reversed(range(depth - 1))):
        for part in range(3):
            read = {len(forward) - 1} if forward else set()
            if part == 0 and len(ends) >= depth:
                read.add(ends[stage])
            forward.append(tuple(read))
            halvings.append(stage)
        ends.append(len(forward) - 1)
    return _there_and_back(f"u_net_{depth}", forward, halvings.__getitem__, seed)


def _there_and_back(name: str, forward: list[tuple[int, ...]], halving: Callable[[int], int], seed: int) -> Instance:
    """Each node on the way back reads the node, its inputs, and what its readers gave back."""
    lottery = random.Random(seed)
    inputs = list(forward)
    size = [max(1, (1 << 20) >> halving(node)) for node in range(len(forward))]
    cost = [lottery.choice((20, 30, 400)) + lottery.randint(0, 20) for _ in forward]
    inputs.append((len(forward) - 1,))
    size.append(1)
    cost.append(10)
    given: dict[int, int] = {len(forward) - 1: len(forward)}
    for node in reversed(range(len(forward))):
        back = {given[reader] for reader in (*_readers(forward, node), node) if reader in given}
        inputs.append((*{node, *forward[node]}, *back))
        size.append(size[node])
        cost.append(2 * cost[node])
        given[node] = len(inputs) - 1
    return make_instance(name, tuple(cost), tuple(size), tuple(inputs))


def _readers(forward: list[tuple[int, ...]], node: int) -> list[int]:
    return [reader for reader, read in enumerate(forward) if node in read]


GENERATED: tuple[Callable[[], Instance], ...] = (
    lambda: random_layered(250, 0.43, 1),
    lambda: random_layered(500, 0.36, 1),
    lambda: random_layered(1000, 0.31, 1),
    lambda: convolutions(20, 1),
    lambda: convolutions(60, 1),
    lambda: u_net(6, 1),
    lambda: u_net(12, 1),
)
