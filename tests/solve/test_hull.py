"""The lower hull of saved bytes and time: against the hull of all ways there are (`tests.solve.decisions`), and by hand.

x --mm--> v0, v1, v2, ...      each read by backward; saved it has 1 MB, computed again the k-th costs k + 1 microseconds
"""

from itertools import pairwise

import pytest

from graphckpt.ir.plan import Plan
from graphckpt.ir.text import parse
from graphckpt.solve.hull import Vertex, lower_hull
from graphckpt.solve.saving import Saving, SavingProblem
from tests.solve.decisions import SavingCase, random_saving

Point = tuple[int, float]


def _points(vertices: tuple[Vertex, ...]) -> list[Point]:
    return [(vertex.saving.saved_bytes, vertex.saving.extra_us) for vertex in vertices]


def _hull(points: set[Point]) -> list[Point]:
    """From the fastest point on, always to the one that saves a byte for the least time, of those to the farthest."""
    hull = [min(points, key=lambda point: (point[1], point[0]))]
    while smaller := [point for point in points if point[0] < hull[-1][0]]:
        size_bytes, time_us = hull[-1]
        hull.append(min(smaller, key=lambda point: ((point[1] - time_us) / (size_bytes - point[0]), point[0])))
    return hull


def test_the_hull_is_that_of_all_ways() -> None:
    """300 random graphs, unlimited resolution: the very vertices, strictly fewer bytes for strictly more time, ever dearer."""
    longest = 0
    for seed in range(300):
        case = random_saving(seed)
        vertices = lower_hull(case.problem(), 0.0)
        points = _points(vertices)
        assert points == _hull({(way.saved_bytes, way.time_us) for way in case.ways()})
        slopes = [(right[1] - left[1]) / (left[0] - right[0]) for left, right in pairwise(points)]
        assert all(slope > 0 for slope in slopes)
        assert slopes == sorted(slopes)
        longest = max(longest, len(points))
    assert longest > 4


def test_the_price_of_a_vertex_has_it_as_its_only_optimum() -> None:
    """Every other pair of bytes and time costs more at that price, and prices rise from vertex to vertex."""
    for seed in range(300):
        case = random_saving(seed)
        vertices = lower_hull(case.problem(), 0.0)
        points = {(way.saved_bytes, way.time_us) for way in case.ways()}
        for point, (_, price) in zip(_points(vertices), vertices, strict=True):
            cost = {(size_bytes, time_us): time_us + price * size_bytes for size_bytes, time_us in points}
            assert all(cost[other] > cost[point] + 1e-6 for other in points - {point})
        prices = [vertex.price_us_per_byte for vertex in vertices]
        assert all(left < right for left, right in pairwise(prices))


def _star(count: int) -> SavingProblem:
    """The problem drawn above."""
    values = range(1, count + 1)
    lines = ["s0 8B external", *(f"s{k} 1000000B" for k in values), f"s{count + 1} 8B", f"s{count + 2} 8B"]
    lines += ["%0 x = input placeholder() @fwd s0", *(f"%{k} v{k - 1} = compute mm(%0) @fwd s{k}" for k in values)]
    lines.append(f"%{count + 1} t = tangent placeholder() @bwd s{count + 1}")
    reads = ", ".join(f"%{k}" for k in (count + 1, *values))
    lines.append(f"%{count + 2} g = compute mul({reads}) @bwd s{count + 2}")
    graph = parse("\n".join([*lines, "forward_outputs %1", f"backward_outputs %{count + 2}"]))
    stock = Plan("stock", tuple(values), (count + 2,))
    again_us = (0.0, *map(float, values), 0.0, 0.0)
    return SavingCase(graph, stock, frozenset(), again_us, (0.0,) * len(graph.ops)).problem()


def test_values_leave_in_the_order_of_their_price() -> None:
    """Four values: 4 MB for nothing, then the cheapest goes first, at 1, 2, 3 and 4 microseconds."""
    assert _points(lower_hull(_star(4), 0.0)) == [
        (4_000_000, 0.0),
        (3_000_000, 1.0),
        (2_000_000, 3.0),
        (1_000_000, 6.0),
        (0, 10.0),
    ]


@pytest.mark.parametrize("resolution", [1 / 300, 1 / 64, 1 / 10, 1 / 3, 1.0])
def test_both_ends_are_found_and_what_is_between_neighbours_far_apart(resolution: float) -> None:
    """A hundred values, a vertex at each MB: none is missing, but between two that are closer than the resolution."""
    points = _points(lower_hull(_star(100), resolution))
    every = _points(lower_hull(_star(100), 0.0))
    assert len(every) == 101
    assert set(points) <= set(every)
    assert (points[0], points[-1]) == (every[0], every[-1])
    for (left, _), (right, _) in pairwise(points):
        assert left - right <= max(1_000_000, resolution * 100_000_000)


def test_a_coarse_resolution_stops_the_search() -> None:
    """Everything lies within the whole: the two ends alone."""
    assert _points(lower_hull(_star(100), 1.0)) == [(100_000_000, 0.0), (0, 5050.0)]


def test_a_time_below_a_picosecond_does_not_stop_the_search() -> None:
    """A flag of one byte that a third of a picosecond writes and nothing computes again, beside a product of 8 bytes.

    The cut cannot tell whether saving the flag costs anything; the way that saves the product alone is found all the same.
    """
    graph = parse("""
        s0 8B external
        s1 1B
        s2 8B
        s3 8B
        s4 8B
        %0 x = input placeholder() @fwd s0
        %1 flag = compute lt(%0) @fwd s1 fusible
        %2 h = compute mm(%0) @fwd s2
        %3 t = tangent placeholder() @bwd s3
        %4 g = compute where(%3, %1, %2) @bwd s4
        forward_outputs %2
        backward_outputs %4
    """)
    stock = Plan("stock", (1, 2), (4,))
    case = SavingCase(graph, stock, frozenset(), (0.0, 0.0, 0.03, 0.0, 0.0), (0.0, 3.3e-7, 0.0, 0.0, 0.0))
    assert _points(lower_hull(case.problem(), 1 / 64))[-2:] == [(8, 0.0), (0, 0.03)]


def test_one_way_alone_is_a_hull_of_one() -> None:
    """Nothing is needed: nothing is saved, at any price."""
    (vertex,) = lower_hull(_star(0), 0.0)
    assert vertex.saving == Saving(frozenset(), 0, 0.0)
