"""Products of gradients moved to where they are due.

Sizes are in bytes; `mm` with flops is a product, and a kernel that nothing is fused into.
"""

import random
from dataclasses import replace

import pytest

from graphckpt.ir.check import check_graph, check_plan
from graphckpt.ir.graph import Graph, OpKind, Phase
from graphckpt.ir.peak import timeline
from graphckpt.ir.plan import Plan
from graphckpt.ir.text import parse
from graphckpt.solve.order import LargeGradient, gradients_early, gradients_last, large_gradients
from tests.graphs import random_graph
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
