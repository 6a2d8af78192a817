"""Products of gradients moved to where they are due, and values that must get a buffer at their own place.

Sizes are in bytes; `mm` with flops is a product, and a kernel that nothing is fused into.
"""

import random
from dataclasses import replace

import pytest

from graphckpt.ir.check import check_graph, check_plan
from graphckpt.ir.graph import Graph, Op, OpKind, Phase
from graphckpt.ir.peak import timeline
from graphckpt.ir.plan import Plan
from graphckpt.ir.text import parse
from graphckpt.solve.order import LargeGradient, gradients_early, gradients_last, large_gradients, values_to_hold
from tests.graphs import random_case, random_graph
from tests.joint import captured

# t -> g -> dx = mm(g) -> e,    view(g) -> dw = mm(view, x): the view and dw are listed last.
LAYER = """
    s0 8B external
    s1 8B
    s2 8B
    s3 8B
    s4 8B
    s5 8B
    s6 8B
    %0 x = input placeholder() @fwd s0
    %1 t = tangent placeholder() @bwd s1
    %2 g = compute mul(%1, %0) @bwd s2 fusible
    %3 dx = compute mm(%2, %0) @bwd s3 flops=1
    %4 e = compute mul(%3, %0) @bwd s4 fusible
    %5 view = alias aten.permute(%2) @bwd s2 {view}
    %6 dw = compute mm(%5, %0) @bwd s5 flops=1 {dw}
    {last}
    forward_outputs
    backward_outputs %4 {outputs}
"""


def _layer(last: str = "", *, view: str = "", dw: str = "", outputs: str = "%6") -> Graph:
    """``last``: an operation that reads dw, by its kind."""
    line = f"%7 last = {last}" if last else ""
    graph = parse(LAYER.format(view=view, dw=dw, last=line, outputs=outputs))
    check_graph(graph)
    return graph


@pytest.mark.parametrize(
    ("graph", "wanted"),
    [
        (_layer(), (2, 5, 6, 3, 4)),
        (_layer("compute aten.add.Tensor(%6) @bwd s6 fusible", outputs="%7"), (2, 5, 6, 3, 4, 7)),
        (_layer("compute aten.add.Tensor(%6) @bwd s6 fusible", outputs="%6 %7"), (2, 5, 6, 3, 4, 7)),
        (_layer("compute mm(%6) @bwd s6 flops=1", outputs="%7"), (2, 5, 6, 7, 3, 4)),
    ],
    ids=["a result", "in a sum", "a result, and in a sum", "in a product"],
)
def test_a_gradients_product_comes_right_behind_what_it_reads(graph: Graph, wanted: tuple[int, ...]) -> None:
    """Before the product that goes on to the layer below, and with the view that it reads; others keep their places."""
    assert gradients_early(graph, sorted(wanted)) == wanted
    assert gradients_early(graph, wanted) == wanted


def test_of_several_products_the_one_listed_first_comes_first() -> None:
    """t -> g -> dx, e, and 30 products of g listed last: all of them follow g, as they stood."""
    storages = "".join(f"s{k} 8B\n" for k in range(1, 5 + 30))
    products = "".join(f"%{k} w{k} = compute mm(%2, %0) @bwd s{k} flops=1\n" for k in range(5, 35))
    graph = parse(f"""
        s0 8B external
        {storages}
        %0 x = input placeholder() @fwd s0
        %1 t = tangent placeholder() @bwd s1
        %2 g = compute mul(%1, %0) @bwd s2 fusible
        %3 dx = compute mm(%2, %0) @bwd s3 flops=1
        %4 e = compute mul(%3, %0) @bwd s4 fusible
        {products}
        forward_outputs
        backward_outputs %4 {" ".join(f"%{k}" for k in range(5, 35))}
    """)
    check_graph(graph)
    assert gradients_early(graph, range(2, 35)) == (2, *range(5, 35), 3, 4)


@pytest.mark.parametrize(
    "graph",
    [
        _layer("compute mul(%6) @bwd s6 fusible", outputs="%7"),
        _layer("compute mul(%6) @bwd s6 fusible", outputs="%6 %7"),
        _layer("compute sort(%6) @bwd s6", outputs="%7"),
        _layer(dw='pinned="random"'),
        _layer(outputs=""),
    ],
    ids=["read by other work", "a result, and read by other work", "read by a kernel", "pinned", "read by nobody"],
)
def test_other_products_stay(graph: Graph) -> None:
    """Something else than sums and products of gradients is made from them, or nothing, or they run in their place."""
    backward = range(2, len(graph.ops))
    assert gradients_early(graph, backward) == tuple(backward)


def test_a_pinned_view_stays_and_its_product_behind_it() -> None:
    """The view has an effect that is not known: it does not come before dx and e, nor does what reads it."""
    assert gradients_early(_layer(view='pinned="effects unknown"'), range(2, 7)) == (2, 3, 4, 5, 6)


def test_both_products_of_a_tied_weight_come_early_and_their_sum_stays() -> None:
    """t -> g -> d -> h; p = mm(g), q = mm(h), p + q is the gradient: p does not wait for q."""
    graph = parse("""
        s0 8B external
        s1 8B
        s2 8B
        s3 8B
        s4 8B
        s5 8B
        s6 8B
        s7 8B
        %0 x = input placeholder() @fwd s0
        %1 t = tangent placeholder() @bwd s1
        %2 g = compute mul(%1, %0) @bwd s2 fusible
        %3 d = compute mm(%2, %0) @bwd s3 flops=1
        %4 h = compute mul(%3, %0) @bwd s4 fusible
        %5 p = compute mm(%2, %0) @bwd s5 flops=1
        %6 q = compute mm(%4, %0) @bwd s6 flops=1
        %7 both = compute aten.add.Tensor(%5, %6) @bwd s7 fusible
        forward_outputs
        backward_outputs %7
    """)
    assert gradients_early(graph, (2, 3, 4, 5, 6, 7)) == (2, 5, 3, 4, 6, 7)


def _with_products(rng: random.Random, graph: Graph) -> Graph:
    """Half of what is computed are products, a third sums, and a third of what backward makes are results."""
    ops = tuple(
        replace(op, flops=rng.randint(0, 1), target="aten.add.Tensor" if rng.random() < 0.3 else op.target)
        for op in graph.ops
    )
    late = [index for index, op in enumerate(ops) if op.phase is Phase.BACKWARD]
    return replace(graph, ops=ops, backward_outputs=tuple(rng.sample(late, len(late) // 3)))


def test_random_backward_passes_stay_legal() -> None:
    """Each operation once and after what it reads; what is neither a product nor a view keeps its order."""
    moved = postponed = 0
    for seed in range(800):
        rng = random.Random(seed)
        graph = _with_products(rng, random_graph(rng, rng.randint(4, 40)))
        made = [i for i, op in enumerate(graph.ops) if op.kind in (OpKind.COMPUTE, OpKind.ALIAS)]
        forward = tuple(i for i in made if graph.ops[i].phase is Phase.FORWARD)
        before = tuple(i for i in made if graph.ops[i].phase is Phase.BACKWARD)
        after = gradients_early(graph, before)
        assert sorted(after) == sorted(before)
        check_plan(graph, Plan("early", forward, after))
        assert _fixed(graph, after) == _fixed(graph, before)
        moved += after != before
        large = large_gradients(graph, after)
        last = gradients_last(after, large, forward)
        assert sorted(last) == sorted(before)
        check_plan(graph, Plan("late", forward, last))
        late = {step for gradient in large for step in gradient.steps}
        assert [i for i in last if i not in late] == [i for i in after if i not in late]
        postponed += last != after
    assert moved > 40
    assert postponed > 10


@pytest.mark.parametrize(
    ("size", "last", "outputs", "steps"),
    [
        (9, "", "%6", (6,)),
        (8, "", "%6", ()),
        (9, "alias view(%6) @bwd s5", "%7", (6, 7)),
        (9, "alias view(%6) @bwd s5", "%6", ()),
        (9, "compute aten.add.Tensor(%6, %5) @bwd s6 fusible", "%7", ()),
        (9, "compute mm(%6) @bwd s6 flops=1", "%7", ()),
        (9, "compute mul(%6) @bwd s6 fusible", "%6 %7", ()),
    ],
    ids=["larger", "as large", "a view of it", "a view of it that nobody reads", "in a sum", "in a product", "read by other work"],
)
def test_a_gradient_larger_than_what_it_is_made_from(size: int, last: str, outputs: str, steps: tuple[int, ...]) -> None:
    """dw reads g, of 8 bytes, through the view, and x, which is there anyway. A sum or a product would free it early."""
    graph = _layer(last, outputs=outputs)
    storages = tuple(replace(held, size_bytes=size) if k == 5 else held for k, held in enumerate(graph.storages))
    found = large_gradients(replace(graph, storages=storages), range(2, len(graph.ops)))
    assert [gradient.steps for gradient in found] == [steps] * bool(steps)
    assert all(not gradient.reads for gradient in found)


# x -> h -> v (a view of h) -> y;  t -> g -> dx, dw = mm(g, v), of 90 bytes, -> end, of 50, while 60 bytes of dx are alive.
HEAD = parse("""
    s0 8B external
    s1 8B
    s2 30B
    s3 8B
    s4 8B
    s5 60B
    s6 90B
    s7 50B
    %0 x = input placeholder() @fwd s0
    %1 h = compute mm(%0) @fwd s1 flops=1
    %2 v = alias view(%1) @fwd s1
    %3 y = compute mm(%2) @fwd s2 flops=1
    %4 t = tangent placeholder() @bwd s3
    %5 g = compute mul(%4, %0) @bwd s4 fusible
    %6 dx = compute mm(%5, %0) @bwd s5 flops=1
    %7 dw = compute mm(%5, %2) @bwd s6 flops=1
    %8 end = compute mm(%6) @bwd s7 flops=1
    forward_outputs %3
    backward_outputs %7 %8
""")


def test_a_large_gradient_comes_last_where_what_it_reads_is_saved() -> None:
    """Early, dw is there while end is computed from dx; last, g and h are. h made again so late would keep what it is made of."""
    check_graph(HEAD)
    large = large_gradients(HEAD, (5, 6, 7, 8))
    assert large == (LargeGradient((7,), frozenset({1})),)
    assert gradients_last((5, 6, 7, 8), large, ()) == (5, 6, 7, 8)
    last = gradients_last((5, 6, 7, 8), large, {1})
    assert last == (5, 6, 8, 7)
    graph = replace(HEAD, forward_outputs=())
    early_bytes, last_bytes = (timeline(graph, Plan("p", (1, 2, 3), late)).backward_peak_bytes for late in ((5, 6, 7, 8), last))
    assert (early_bytes, last_bytes) == (60 + 90 + 50, 8 + 8 + 90 + 50)


def test_a_shared_weights_products_stay_where_they_are() -> None:
    """Of three layers each is larger than what it reads, but together they make one gradient: all they read would wait for it."""
    assert captured("shared weight").situation.large == ()
    assert captured("mlp").situation.large != ()


def _fixed(graph: Graph, steps: tuple[int, ...]) -> list[int]:
    ops = graph.ops
    return [i for i in steps if ops[i].kind is OpKind.COMPUTE and (not ops[i].flops or ops[i].pinned)]


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
