"""Where a forward pass is cut, on graphs drawn in the docstrings."""

import random
from itertools import pairwise

import pytest

from graphckpt.ir.graph import OpKind
from graphckpt.ir.text import parse
from graphckpt.solve.segments import (
    base_of,
    cheap_values,
    crossing_bytes,
    crossing_values,
    cut_at,
    forward_order,
    is_element,
    layer_boundaries,
    narrow_boundaries,
    spread,
    tiny_bytes,
)
from tests.graphs import random_graph
from tests.solve.chains import chain

PAIR = parse("""
    s0 8B external
    s1 8B
    s2 16B
    s3 16B
    s4 8B
    s5 2B
    %0 x = input placeholder() @fwd s0
    %1 seeds = compute prims.inductor_seeds(%0) @fwd s1 pinned="random"
    %2 mask = compute prims.random(%1) @fwd s2 fusible
    %3 pair = compute aten.split(%0) @fwd s3 s4
    %4 left = alias "<built-in function getitem>"(%3) @fwd s3
    %5 row = alias aten.view(%4) @fwd s3
    %6 column = alias aten.t(%0) @fwd s0
    %7 end = compute aten.mul(%5, %2, %6) @fwd s5 fusible
    forward_outputs %7
    backward_outputs
""")


def test_the_base_of_a_view_is_what_allocated_it_and_elements_are_their_own() -> None:
    """pair -> left (element) -> row (view); x -> column (view)."""
    assert base_of(PAIR) == (0, 1, 2, 3, 4, 4, 0, 7)
    assert [index for index in range(8) if is_element(PAIR, index)] == [4]


def test_cheap_is_what_inputs_and_seeds_give_by_pointwise_work() -> None:
    """x -> seeds -> mask: the mask is cheap, its seeds are not; pair is no pointwise work, nor is what comes of it."""
    names = [op.name for op, cheap in zip(PAIR.ops, cheap_values(PAIR), strict=True) if cheap]
    assert names == ["x", "mask", "column"]


def test_crossing_values_are_bases_read_later_without_the_cheap_ones() -> None:
    """seeds mask pair left row column end: left lives until end reads its view, mask and column are not counted."""
    order = forward_order(PAIR)
    assert order == (1, 2, 3, 4, 5, 6, 7)
    rows = crossing_values(PAIR, order)
    assert [sorted(row) for row in rows] == [[], [1], [], [3], [4], [4], [4]]
    assert crossing_bytes(PAIR, rows) == [0, 8, 0, 24, 16, 16, 16]


def test_forward_order_leaves_out_what_only_backward_needs_and_keeps_effects() -> None:
    """x -> y (output), x -> z (nobody), x <- write, x -> r (pinned, but no effect)."""
    graph = parse("""
        s0 8B external
        s1 8B
        s2 8B
        s3 8B
        %0 = input x() @fwd s0
        %1 = compute y(%0) @fwd s1
        %2 = compute z(%0) @fwd s2
        %3 = compute copy_(%0, %1) @fwd s0 pinned="mutates its argument"
        %4 = compute r(%0) @fwd s3 pinned="order of equal values may differ"
        forward_outputs %1
        backward_outputs %2 %4
    """)
    assert forward_order(graph) == (1, 3)


def test_layers_start_where_their_numbered_paths_do() -> None:
    """mask | h0 a0 | h1 a1 | h2 a2 | loss: layers.0 begins at 1, the head after layers.2 at 7."""
    graph = chain(3).graph
    order = forward_order(graph)
    assert layer_boundaries(graph, order) == (1, 3, 5, 7)


def test_without_layers_the_valleys_serve() -> None:
    """h (128 bytes) is wide, a (64) narrow: cuts before each h but the first, and before the loss; one layer is no layer."""
    graph = chain(1).graph
    assert layer_boundaries(graph, forward_order(graph)) == narrow_boundaries(graph, forward_order(graph))
    graph = chain(3).graph
    assert narrow_boundaries(graph, forward_order(graph)) == (3, 5, 7)


def test_a_cut_gives_segments_and_what_enters_them() -> None:
    """mask h0 a0 | h1 a1 h2 a2 loss: a0 enters; the mask is cheap. Cuts at the ends are implied."""
    case = chain(3)
    order = forward_order(case.graph)
    segments = cut_at(case.graph, order, [0, 3, len(order)])
    assert segments.count == 2
    assert segments.crossing == (frozenset(), case.numbers("a0"))
    assert [segments.of_op[index] for index in order] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert segments.of_op[case.number["w0"]] == -1


def test_a_forward_pass_without_operations_is_one_empty_segment() -> None:
    """x leaves forward as it came; y runs in backward alone."""
    graph = parse("""
        s0 8B external
        s1 8B
        %0 = input x() @fwd s0
        %1 = compute y(%0) @fwd s1
        forward_outputs %0
        backward_outputs %1
    """)
    assert cut_at(graph, forward_order(graph), ()).crossing == (frozenset(),)
    assert narrow_boundaries(graph, ()) == ()


def test_tiny_is_a_small_share_of_the_narrowest_place() -> None:
    """64 bytes at the narrowest: 1 byte is tiny. Nothing crosses: nothing is."""
    case = chain(3)
    assert tiny_bytes(case.graph, forward_order(case.graph)) == 1
    assert tiny_bytes(case.graph, ()) == 0


def test_crossing_values_agree_with_counting_them_one_by_one() -> None:
    """On random graphs: at each place, what was computed before, is not cheap, and is read at or after it through any view."""
    crossed = 0
    for seed in range(200):
        graph = random_graph(random.Random(seed), 25)
        order, base, cheap = forward_order(graph), base_of(graph), cheap_values(graph)
        for place, row in enumerate(crossing_values(graph, order)):
            reads = {base[source] for index in order[place:] for source in graph.ops[index].inputs}
            wanted = {value for value in reads & set(order[:place]) if not cheap[value]}
            assert row == wanted
            crossed += len(row)
        assert all(graph.ops[index].kind in (OpKind.COMPUTE, OpKind.ALIAS) for index in order)
    assert crossed > 500


@pytest.mark.parametrize(
    ("last", "most", "numbers"),
    [
        (-1, 8, []),
        (0, 8, []),
        (3, 8, [1, 2, 3]),
        (8, 8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (9, 3, [3, 6, 9]),
        (100, 4, [25, 50, 75, 100]),
    ],
)
def test_numbers_are_spread_over_a_range(last: int, most: int, numbers: list[int]) -> None:
    assert spread(last, most) == numbers


def test_a_spread_is_even_and_as_large_as_it_may_be() -> None:
    """Ascending, up to the last; two steps between neighbours differ by one at most."""
    for last in range(60):
        for most in range(1, 20):
            numbers = spread(last, most)
            steps = [after - before for before, after in pairwise([0, *numbers])]
            assert len(numbers) == min(last, most)
            assert numbers[-1:] == [last][: len(numbers)]
            assert max(steps, default=1) - 1 <= min(steps, default=1) >= 1
