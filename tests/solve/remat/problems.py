"""Small problems for the tests, and the oracle that tries all schedules."""

from __future__ import annotations

import heapq
import random
from itertools import combinations, count

from graphckpt.solve.remat.instance import Instance, Kernels, make_instance
from graphckpt.solve.remat.search import Order


def random_instance(seed: int, largest: int = 9) -> Instance:
    """2 to ``largest`` nodes that read up to three nodes before them, or, every other one, a way there and back with a few
    more readers; some cost or take nothing."""
    lottery = random.Random(seed)
    nodes = lottery.randint(2, largest)
    inputs: list[tuple[int, ...]] = []
    for node in range(nodes):
        if seed % 2 and lottery.random() < 0.9:
            mirrored = nodes - 1 - node
            back = {node - 1} | ({mirrored} if mirrored < node - 1 else set()) if node else set()
            inputs.append(tuple(back))
        else:
            inputs.append(tuple(lottery.sample(range(node), min(node, lottery.choice((0, 1, 1, 2, 2, 3))))))
    return make_instance(
        f"random {seed}",
        tuple(lottery.choice((0, 1, 1, 2, 3, 5, 9)) for _ in range(nodes)),
        tuple(lottery.choice((0, 1, 2, 3, 4, 7)) for _ in range(nodes)),
        tuple(inputs),
        frozenset(node for node in range(nodes) if lottery.random() < 0.1),
    )


def with_random_kernels(instance: Instance, seed: int) -> Instance:
    """Half of the nodes write over inputs, some are shared, some need scratch space; of few sizes, so that they can."""
    lottery = random.Random(seed)
    nodes = range(instance.count)
    kernels = Kernels(
        tuple(lottery.choice((0, 0, 0, 1, 2)) for _ in nodes),
        frozenset(node for node in nodes if lottery.random() < 0.5),
        frozenset(node for node in nodes if lottery.random() < 0.2),
    )
    size = tuple(1 + size % 3 for size in instance.size_bytes)
    return make_instance(instance.name, instance.cost, size, instance.inputs, instance.once, kernels)


def training_instance(layers: int) -> Instance:
    """A chain, and the way back that reads it: the shape that memory is short in.

    0 -> 1 -> 2 -> ... -> loss
    |    |    |            |
    v    v    v            v
    b0 <- b1 <- b2 <- ... <- bL
    """
    inputs: list[tuple[int, ...]] = [()] + [(node - 1,) for node in range(1, layers)]
    inputs.append((layers - 1,))
    for layer in reversed(range(layers)):
        inputs.append((layer, len(inputs) - 1))
    nodes = len(inputs)
    cost = tuple(1 + node % 3 for node in range(nodes))
    size = tuple(4 + node % 2 if node < layers else 2 for node in range(nodes))
    return make_instance("training", cost, size, tuple(inputs))


def cheapest_by_trying(instance: Instance, budget_bytes: int, order: Order, computations: int = 3) -> int | None:
    """The cost of the cheapest of all schedules in which no node is computed more often, or None if none fits.

    Forwards, over (what is kept, how often each node was computed), the cheapest first. Values are dropped when room is wanted:
    every smallest set of them that makes room is tried.
    """
    if budget_bytes < smallest_by_trying(instance, order):
        return None
    ties = count()
    queue = [(0, next(ties), frozenset[int](), (0,) * instance.count)]
    settled = set()
    while queue:
        cost, _, kept, done = heapq.heappop(queue)
        if (kept, done) in settled:
            continue
        settled.add((kept, done))
        if all(done):
            return cost
        for node in range(instance.count):
            limit = 1 if node in instance.once else computations
            if node in kept or done[node] == limit or not kept.issuperset(instance.inputs[node]):
                continue
            if order is Order.FIXED and not done[node] and not all(done[:node]):
                continue
            again = (*done[:node], done[node] + 1, *done[node + 1 :])
            for after in _with_room(instance, kept, node, budget_bytes):
                if (after, again) not in settled:
                    heapq.heappush(queue, (cost + instance.cost[node], next(ties), after, again))
    return None


def _with_room(instance: Instance, kept: frozenset[int], node: int, budget_bytes: int) -> list[frozenset[int]]:
    size = instance.size_bytes
    over = sum(size[held] for held in kept) + size[node] - budget_bytes
    if over <= 0:
        return [kept | {node}]
    idle = [held for held in kept if held not in instance.inputs[node] and size[held]]
    found: list[frozenset[int]] = []
    for number in range(1, len(idle) + 1):
        for gone in map(frozenset, combinations(idle, number)):
            if sum(size[held] for held in gone) >= over and not any(smaller <= gone for smaller in found):
                found.append(gone)
    return [(kept - gone) | {node} for gone in found]


def smallest_by_trying(instance: Instance, order: Order) -> int:
    """The smallest of the largest sums on any way to compute each node, however often: Dijkstra over (kept, computed once)."""
    ties = count()
    queue = [(0, next(ties), frozenset[int](), frozenset[int]())]
    settled = set()
    size = instance.size_bytes
    while queue:
        peak, _, kept, done = heapq.heappop(queue)
        if len(done) == instance.count:
            return peak
        if (kept, done) in settled:
            continue
        settled.add((kept, done))
        for node in range(instance.count):
            if node in kept:
                heapq.heappush(queue, (peak, next(ties), kept - {node}, done))
            elif kept.issuperset(instance.inputs[node]) and not (node in done and node in instance.once):
                if order is Order.FIXED and node not in done and len(done) < node:
                    continue
                need = sum(size[held] for held in kept) + size[node]
                heapq.heappush(queue, (max(peak, need), next(ties), kept | {node}, done | {node}))
    raise AssertionError("a graph without cycles can be computed")
