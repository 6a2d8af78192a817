"""Minimum cuts against networkx and against every cut there is, on random networks with parallel edges, loops and zeros."""

import random
from itertools import compress
from typing import NamedTuple

import networkx
import pytest

from graphckpt.errors import PlanError
from graphckpt.solve.flow import UNCUTTABLE, Cut, Network


class _Case(NamedTuple):
    """Edges and capacities, to be cut between node 0 and the last one."""

    node_count: int
    edges: list[tuple[int, int]]
    capacities: list[int]

    def cut(self) -> Cut:
        """By the code under test."""
        return Network(self.node_count, self.edges, 0, self.node_count - 1).min_cut(self.capacities)

    def capacity_of(self, side: frozenset[int]) -> int:
        """Of the edges that leave a set of nodes."""
        edges = zip(self.edges, self.capacities, strict=True)
        return sum(capacity for (tail, head), capacity in edges if tail in side and head not in side)

    def can_be_cut(self) -> bool:
        """Whether the sink is out of reach over edges that may not be cut."""
        hard = (edge for edge, capacity in zip(self.edges, self.capacities, strict=True) if capacity >= UNCUTTABLE)
        graph = networkx.DiGraph(hard)
        graph.add_nodes_from(range(self.node_count))
        return not networkx.has_path(graph, 0, self.node_count - 1)


def _random_case(seed: int, most_nodes: int) -> _Case:
    rng = random.Random(seed)
    node_count = rng.randint(2, most_nodes)
    edges = [(rng.randrange(node_count), rng.randrange(node_count)) for _ in range(rng.randint(0, 6 * node_count))]
    # Small capacities make many cuts equally cheap; the last kind may not be cut.
    kinds = [0, rng.randint(1, 3), rng.randint(1, 10**12), UNCUTTABLE]
    return _Case(node_count, edges, rng.choices(kinds, weights=[2, 6, 2, rng.choice([0, 1, 12])], k=len(edges)))


def _cheapest_cuts(case: _Case) -> tuple[int, list[frozenset[int]]]:
    """The least capacity of all cuts, and every source's side that has it."""
    inner = range(1, case.node_count - 1)
    by_capacity: dict[int, list[frozenset[int]]] = {}
    for bits in range(1 << len(inner)):
        side = frozenset((0, *(node for node in inner if bits >> (node - 1) & 1)))
        by_capacity.setdefault(case.capacity_of(side), []).append(side)
    least = min(by_capacity)
    return least, by_capacity[least]


def test_the_capacity_is_that_of_networkx() -> None:
    """300 networks of up to 40 nodes; the side that comes back is a cut of that very capacity."""
    refused = flowing = 0
    for case in (_random_case(seed, 40) for seed in range(300)):
        if not case.can_be_cut():
            refused += 1
            with pytest.raises(PlanError, match="may not be cut"):
                case.cut()
            continue
        graph = networkx.DiGraph()
        graph.add_nodes_from(range(case.node_count))
        for (tail, head), capacity in zip(case.edges, case.capacities, strict=True):
            before = graph.get_edge_data(tail, head, {"capacity": 0})["capacity"]
            graph.add_edge(tail, head, capacity=before + capacity)
        found = case.cut()
        assert found.capacity == networkx.minimum_cut_value(graph, 0, case.node_count - 1)
        assert case.capacity_of(frozenset(compress(range(case.node_count), found.source_side))) == found.capacity
        flowing += found.capacity > 0
    assert min(flowing, refused) > 30, (flowing, refused)


def test_of_all_cheapest_cuts_it_is_the_smallest() -> None:
    """Up to 8 nodes, every subset: the side found lies inside of every other side that is as cheap."""
    several = 0
    for case in (_random_case(seed, 8) for seed in range(400)):
        least, sides = _cheapest_cuts(case)
        if least >= UNCUTTABLE:
            assert not case.can_be_cut()
            continue
        found = case.cut()
        side = frozenset(compress(range(case.node_count), found.source_side))
        assert found.capacity == least
        assert side in sides
        assert all(side <= other for other in sides)
        several += len(sides) > 1
    assert several > 50


def test_one_network_is_cut_many_times() -> None:
    """A cut leaves nothing behind that the next one could see."""
    case = _random_case(7, 40)
    network = Network(case.node_count, case.edges, 0, case.node_count - 1)
    rng = random.Random(0)
    for _ in range(20):
        capacities = [rng.randint(0, 9) for _ in case.edges]
        assert network.min_cut(capacities) == case._replace(capacities=capacities).cut()


def test_an_edge_has_a_direction() -> None:
    """0 <- 1: nothing flows from 0 to 1."""
    assert Network(2, [(1, 0)], 0, 1).min_cut([5]) == Cut((True, False), 0)
    assert Network(2, [(1, 0)], 1, 0).min_cut([5]) == Cut((False, True), 5)


def test_without_edges_the_source_stands_alone() -> None:
    assert Network(3, [], 1, 0).min_cut([]) == Cut((False, True, False), 0)


@pytest.mark.parametrize(
    ("node_count", "edges", "source", "sink"),
    [
        (2, [(0, 2)], 0, 1),
        (2, [(-1, 1)], 0, 1),
        (2, [], 0, 2),
        (2, [], -1, 1),
        (2, [], 1, 1),
        (1, [], 0, 0),
    ],
)
def test_nodes_that_are_not_there_are_refused(
    node_count: int, edges: list[tuple[int, int]], source: int, sink: int
) -> None:
    """So is a source that is the sink."""
    with pytest.raises(PlanError, match=f"wanted two different nodes and edges among 0 to {node_count - 1}"):
        Network(node_count, edges, source, sink)


@pytest.mark.parametrize(
    ("capacities", "message"),
    [
        ([1], "wanted 2 capacities, one an edge, came 1"),
        ([1, 2, 3], "wanted 2 capacities, one an edge, came 3"),
        ([1, -1], "zero or more"),
        ([UNCUTTABLE // 2, UNCUTTABLE // 2], "too large to be added"),
        ([UNCUTTABLE, UNCUTTABLE], "may not be cut"),
        ([2**70, UNCUTTABLE], "may not be cut"),
    ],
)
def test_capacities_that_cannot_be_are_refused(capacities: list[int], message: str) -> None:
    """0 -> 1 -> 2."""
    with pytest.raises(PlanError, match=message):
        Network(3, [(0, 1), (1, 2)], 0, 2).min_cut(capacities)


def test_what_is_just_small_enough_is_cut() -> None:
    """0 -> 1 -> 2, the second edge as dear as may be, beside one that may not be cut and one dearer still."""
    network = Network(3, [(0, 1), (1, 2)], 0, 2)
    for hard in (UNCUTTABLE, 2**70):
        assert network.min_cut([hard, UNCUTTABLE - 1]) == Cut((True, True, False), UNCUTTABLE - 1)


def test_many_uncuttable_edges_do_not_overflow() -> None:
    """0 => 1 by 64 edges side by side: their sum would not fit into 64 bits."""
    with pytest.raises(PlanError, match="may not be cut"):
        Network(2, [(0, 1)] * 64, 0, 1).min_cut([UNCUTTABLE] * 64)


def test_a_deep_network_needs_no_recursion() -> None:
    """0 -> 1 -> ... -> 100,000 with one weakest edge in its middle; from 0 leads a chain as deep that ends nowhere."""
    depth = 100_000
    way = [(node, node + 1) for node in range(depth)]
    stray = [(0 if node == 0 else depth + node, depth + node + 1) for node in range(depth)]
    capacities = [9] * (2 * depth)
    capacities[depth + depth // 2] = 5
    found = Network(2 * depth + 1, [*stray, *way], 0, depth).min_cut(capacities)
    assert found.capacity == 5
    wanted = (node <= depth // 2 or node > depth for node in range(2 * depth + 1))
    assert found.source_side == tuple(wanted)
