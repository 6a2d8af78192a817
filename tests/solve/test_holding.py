"""Values that must get a buffer at their own place.

Sizes are in bytes; `mm` with flops is a product, and a kernel that nothing is fused into.
"""

from dataclasses import replace

import pytest

from graphckpt.ir.check import check_graph, check_plan
from graphckpt.ir.graph import Graph, Op
from graphckpt.ir.plan import Plan
from graphckpt.ir.text import parse
from graphckpt.solve.order import values_to_hold
from tests.graphs import random_case

# x -> a, b;  v = a + b;  wall = mm(x);  last = v * wall;  end = mm(last, ...).
LATE = """
    s0 100B external
    s1 100B
    s2 100B
    s3 {size}B
    s4 8B
    s5 8B
    s6 8B
    s7 8B
    %0 x = input placeholder() @fwd s0
    %1 a = compute mm(%0) @fwd s1 flops=1
    %2 b = compute mm(%0) @fwd s2 flops=1
    %3 v = compute {v}
    %4 wall = compute mm(%0) @fwd s4 flops=1
    %5 last = compute {reader}(%3, %4) @fwd s5 fusible
    %6 end = compute mm({end}) @fwd s6 flops=1
    forward_outputs {outputs}
    backward_outputs
"""


def _late(
    *,
    size: int = 150,
    v: str = "mul(%1, %2) @fwd s3 fusible",
    reader: str = "mul",
    end: str = "%5",
    outputs: str = "%6",
) -> Graph:
    graph = parse(LATE.format(size=size, v=v, reader=reader, end=end, outputs=outputs))
    check_graph(graph)
    return graph


def _held(graph: Graph, steps: tuple[int, ...] = (1, 2, 3, 4, 5, 6), backward: tuple[int, ...] = ()) -> tuple[int, ...]:
    plan = Plan("test", steps, backward)
    check_plan(graph, plan)
    return values_to_hold(graph, plan, [True] * len(graph.ops))


def _with_size(graph: Graph, storage: int, size_bytes: int) -> Graph:
    storages = list(graph.storages)
    storages[storage] = replace(storages[storage], size_bytes=size_bytes)
    return replace(graph, storages=tuple(storages))


def test_a_value_far_from_its_reader_is_held() -> None:
    """v has 150 bytes, a and b 200; the wall stands between v and last. Not so where v is computed behind the wall."""
    assert _held(_late()) == (3,)
    assert _held(_late(), (1, 2, 4, 3, 5, 6)) == ()
    assert _held(_late(v="sum(%1, %2) @fwd s3 fusible")) == (3,)


@pytest.mark.parametrize(("size", "held"), [(199, (3,)), (200, ()), (300, ())])
def test_a_value_that_is_no_smaller_than_what_would_be_kept_is_not_held(size: int, held: tuple[int, ...]) -> None:
    """Computed late, v has a and b kept: 200 bytes."""
    assert _held(_late(size=size)) == held


@pytest.mark.parametrize(
    "graph",
    [_late(end="%5, %1"), _late(outputs="%6 %1"), _late(v="mul(%0, %1) @fwd s3 fusible")],
    ids=["read later", "a result", "an input of the graph"],
)
def test_what_lives_on_anyway_does_not_count(graph: Graph) -> None:
    """100 of the 200 bytes that v is made from are there without it; 100 are less than v's 150."""
    assert _held(graph) == ()
    smaller = _with_size(graph, 3, 99)
    assert _held(smaller) == (3,)


def test_results_are_not_held() -> None:
    """Of forward, and of backward: they get a buffer anyway."""
    assert _held(_late(outputs="%6 %3")) == ()
    assert _held(replace(_late(), backward_outputs=(3,))) == ()


def test_the_first_reader_counts() -> None:
    """end reads v too, behind the wall: v is computed for last, which is near, and kept."""
    assert _held(_late(end="%3, %5"), (1, 2, 4, 3, 5, 6)) == ()


@pytest.mark.parametrize(
    ("product", "reader", "end", "held"),
    [
        ("aten.mm.default", "aten.add.Tensor", "%5", (3,)),
        ("aten.mm.default", "aten.mul.Tensor", "%5", ()),
        ("aten.mm.default", "aten.add.Tensor", "%5, %3", ()),
        ("aten.convolution.default", "aten.add.Tensor", "%5", ()),
    ],
)
def test_a_product_is_held_if_one_far_sum_alone_reads_it(
    product: str, reader: str, end: str, held: tuple[int, ...]
) -> None:
    """v = mm(a, b), as one of two gradients of a tied weight: it would be computed with the sum. Nothing else defers it."""
    graph = _late(v=f"{product}(%1, %2) @fwd s3 flops=1", reader=reader, end=end)
    assert _held(graph) == held
    assert _held(graph, (1, 2, 4, 3, 5, 6)) == ()


def test_what_gives_a_tuple_is_not_held() -> None:
    """v is a pair of 75 bytes each: Inductor gives a buffer to one value at a time."""
    assert _held(_with_size(_late(v="var_mean(%1, %2) @fwd s3 s7 fusible"), 3, 75)) == ()


def test_views_are_looked_through() -> None:
    """view(a), view(b) -> v -> view -> last: no view of them is a reader that is near, and a view keeps nothing alive."""
    graph = parse("""
        s0 100B external
        s1 100B
        s2 100B
        s3 150B
        s4 8B
        s5 8B
        %0 x = input placeholder() @fwd s0
        %1 a = compute mm(%0) @fwd s1 flops=1
        %2 b = compute mm(%0) @fwd s2 flops=1
        %3 va = alias aten.view(%1) @fwd s1
        %4 vb = alias aten.view(%2) @fwd s2
        %5 v = compute mul(%3, %4) @fwd s3 fusible
        %6 view = alias aten.view(%5) @fwd s3
        %7 wall = compute mm(%0) @fwd s4 flops=1
        %8 last = compute mul(%6, %7) @fwd s5 fusible
        forward_outputs %8
        backward_outputs
    """)
    assert _held(graph, (1, 2, 3, 4, 5, 6, 7, 8)) == (5,)
    assert _held(graph, (1, 2, 3, 4, 7, 5, 6, 8)) == ()


def test_each_computation_of_a_value_is_looked_at() -> None:
    """v is near its reader in forward; in backward it is computed again, from a and b computed again, before the wall."""
    graph, forward = _late(), (1, 2, 4, 3, 5, 6)
    assert _held(graph, forward) == ()
    assert _held(graph, forward, (1, 2, 4, 3, 5)) == ()
    assert _held(graph, forward, (1, 2, 3, 4, 5)) == (3,)


def test_held_values_of_random_plans_are_legal() -> None:
    """The checker accepts them, ascending; they are fusible or products, and none is a result."""
    found = 0
    for seed in range(400):
        graph, plan, _ = random_case(seed, 40)
        hold = values_to_hold(graph, plan, [True] * len(graph.ops))
        check_plan(graph, replace(plan, hold=hold))
        assert list(hold) == sorted(set(hold))
        assert all(graph.ops[index].fusible or graph.ops[index].flops for index in hold)
        assert not set(hold) & {*graph.forward_outputs, *graph.backward_outputs}
        found += len(hold)
    assert found > 50


def test_what_is_made_of_folded_values_is_held_for_what_they_are_made_of() -> None:
    """a, b -> f, folded into v; wall; last reads v. f has 100 bytes, v 150; a and b, which v is made from in the end, 200."""
    graph = _late()
    folded = replace(graph.ops[3], name="f", inputs=(1, 2), storages=(len(graph.storages),))
    ops = (*graph.ops[:3], folded, replace(graph.ops[3], inputs=(3,)), *(_behind(op) for op in graph.ops[4:]))
    graph = replace(graph, ops=ops, storages=(*graph.storages, replace(graph.storages[1], size_bytes=100)), forward_outputs=(7,))
    check_graph(graph)
    plan = Plan("test", (1, 2, 3, 4, 5, 6, 7), ())
    check_plan(graph, plan)
    assert values_to_hold(graph, plan, [True] * len(ops)) == ()
    assert values_to_hold(graph, plan, [index != 3 for index in range(len(ops))]) == (4,)


def _behind(op: Op) -> Op:
    """The operation with one more put in at place 3."""
    return replace(op, inputs=tuple(source + (source >= 3) for source in op.inputs))
