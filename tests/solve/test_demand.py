"""Plans from saved values, on a chain (drawn in `tests.solve.chains.chain`), and on random graphs."""

import random
from dataclasses import replace

import pytest

from graphckpt.errors import PlanError
from graphckpt.ir.check import check_plan
from graphckpt.ir.graph import Graph, OpKind, Phase
from graphckpt.ir.plan import Plan, recomputed_values, saved_values
from graphckpt.ir.text import parse
from graphckpt.solve.demand import Demand, plan_from_saved
from graphckpt.solve.segments import cut_at, forward_order
from tests.graphs import random_graph, random_plan
from tests.solve.chains import Chain, chain, pinned_view


def _plan(case: Chain, saved: tuple[str, ...], cuts: tuple[int, ...] = ()) -> Plan:
    of_op = cut_at(case.graph, forward_order(case.graph), cuts).of_op
    plan = plan_from_saved(case.graph, "p", case.numbers(*saved), of_op, case.keep.backward)
    check_plan(case.graph, plan)
    return plan


def test_everything_saved_recomputes_nothing() -> None:
    """mask h0 a0 h1 a1 loss | s g1 w1 g0 w0."""
    case = chain(2)
    assert _plan(case, ("mask", "h0", "a0", "h1", "a1")) == replace(case.keep, name="p")


def test_what_is_dropped_comes_back_just_before_it_is_read() -> None:
    """a1 saved alone: s reads it; before g1 come h0, the mask, a0 and h1, and nothing is computed a second time."""
    case = chain(2)
    assert case.names(_plan(case, ("a1",)).backward) == ["s", "h0", "mask", "a0", "h1", "g1", "w1", "g0", "w0"]


def test_each_segment_has_its_own_copy_of_what_is_cheap() -> None:
    """mask h0 a0 | h1 a1 loss with a0, a1 saved: the mask is made for g1, and again for g0."""
    case = chain(2)
    assert case.names(_plan(case, ("a0", "a1"), cuts=(3,)).backward) == [
        *("s", "h1", "mask", "g1", "w1"),
        *("h0", "mask", "g0", "w0"),
    ]
    saved = _plan(case, ("mask", "a0", "a1"), cuts=(3,))
    assert case.names(saved.backward) == ["s", "h1", "g1", "w1", "h0", "g0", "w0"]


def test_what_is_not_cheap_is_computed_once_for_all_segments() -> None:
    """x -> h -> p (segment 0), h -> q (segment 1): both are read in backward, h is computed again for q and kept for p."""
    graph = parse("""
        s0 8B external
        s1 8B
        s2 8B
        s3 8B
        s4 8B
        s5 8B
        s6 8B
        %0 x = input placeholder() @fwd s0
        %1 h = compute mm(%0) @fwd s1 flops=1
        %2 p = compute exp(%1) @fwd s2 fusible
        %3 q = compute sin(%1, %2) @fwd s3 fusible
        %4 t = tangent placeholder() @bwd s4
        %5 gq = compute mul(%4, %3) @bwd s5 fusible
        %6 gp = compute mul(%5, %2) @bwd s6 fusible
        forward_outputs %3
        backward_outputs %6
    """)
    of_op = cut_at(graph, forward_order(graph), (2,)).of_op
    plan = plan_from_saved(graph, "p", (), of_op, (5, 6))
    assert plan.backward == (1, 2, 3, 5, 6)


@pytest.mark.parametrize(("saved", "closed"), [((), {1, 2}), ((3,), {1, 2, 3}), ((4,), {1, 2, 4, 5})])
def test_pinned_tagged_and_elements_of_saved_tuples_are_saved_too(saved: tuple[int, ...], closed: set[int]) -> None:
    """x -> draw (pinned), x -> kept (the user's wish), x -> view, x -> pair -> left (element)."""
    graph = parse("""
        s0 8B external
        s1 8B
        s2 8B
        s3 8B
        %0 x = input placeholder() @fwd s0
        %1 draw = compute rand(%0) @fwd s1 pinned="random"
        %2 kept = compute mm(%0) @fwd s2 tag=save
        %3 view = alias aten.view(%0) @fwd s0
        %4 pair = compute aten.split(%0) @fwd s3
        %5 left = alias "<built-in function getitem>"(%4) @fwd s3
        forward_outputs %1
        backward_outputs
    """)
    assert Demand(graph).close(saved) == closed


def test_saved_values_that_forward_does_not_need_are_computed_there() -> None:
    """x -> y (output); x -> u -> v, read by backward alone: saved, v and what it needs move into forward."""
    graph = parse("""
        s0 8B external
        s1 8B
        s2 8B
        s3 8B
        s4 8B
        s5 8B
        %0 x = input placeholder() @fwd s0
        %1 y = compute mm(%0) @fwd s1
        %2 u = compute mm(%0) @fwd s2
        %3 v = compute mm(%2) @fwd s3
        %4 t = tangent placeholder() @bwd s4
        %5 g = compute mul(%4, %3) @bwd s5
        forward_outputs %1
        backward_outputs %5
    """)
    of_op = cut_at(graph, forward_order(graph), ()).of_op
    assert plan_from_saved(graph, "p", {3}, of_op, (5,)) == Plan("p", (1, 2, 3), (5,))
    assert plan_from_saved(graph, "p", (), of_op, (5,)) == Plan("p", (1,), (2, 3, 5))


def test_what_only_backward_reads_stands_behind_what_it_is_made_from() -> None:
    """x -> h -> a -> y (output); h -> r -> d, traced behind y and read by backward: saved, d needs no h at the end of forward."""
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
        %1 h = compute mm(%0) @fwd s1
        %2 a = compute mm(%1) @fwd s2
        %3 y = compute mm(%2) @fwd s3
        %4 r = compute rsqrt(%1) @fwd s4 fusible
        %5 d = compute div(%4) @fwd s5 fusible
        %6 t = tangent placeholder() @bwd s6
        %7 g = compute mul(%6, %5) @bwd s7
        forward_outputs %3
        backward_outputs %7
    """)
    of_op = cut_at(graph, forward_order(graph), ()).of_op
    assert plan_from_saved(graph, "p", {5}, of_op, (7,)) == Plan("p", (1, 4, 5, 2, 3), (7,))


def test_a_pinned_view_that_is_not_at_hand_is_refused_by_name() -> None:
    """x -> view (pinned) -> y; backward reads the view."""
    graph = pinned_view()
    of_op = cut_at(graph, forward_order(graph), ()).of_op
    with pytest.raises(PlanError, match=r"view may run only once \(runs only in forward\)"):
        plan_from_saved(graph, "p", (), of_op, (4,))


def _random_saved(rng: random.Random, graph: Graph) -> set[int]:
    early = [i for i, op in enumerate(graph.ops) if op.phase is Phase.FORWARD and op.kind is not OpKind.INPUT]
    return {index for index in early if rng.random() < 0.4}


def test_random_plans_are_legal_and_save_what_they_were_told_to() -> None:
    """What was to be saved is not computed again, nothing pinned is, and backward keeps its order; a few draws are refused."""
    made = recomputed = 0
    for seed in range(300):
        rng = random.Random(seed)
        graph = random_graph(rng, rng.randint(2, 30))
        keep = random_plan(rng, graph)
        backward = tuple(dict.fromkeys(i for i in keep.backward if graph.ops[i].phase is Phase.BACKWARD))
        saved, order = _random_saved(rng, graph), forward_order(graph)
        cuts = sorted(rng.sample(range(len(order)), min(len(order), 2)))
        try:
            plan = plan_from_saved(graph, "p", saved, cut_at(graph, order, cuts).of_op, backward)
            check_plan(graph, plan)
        except PlanError as error:
            assert "may run only once" in str(error) or "swaps them" in str(error)
            continue
        made += 1
        again = recomputed_values(graph, plan)
        recomputed += len(again)
        assert not set(again) & saved
        assert not [index for index in again if graph.ops[index].pinned]
        kept = {index for index in saved_values(graph, plan) if graph.ops[index].kind is OpKind.COMPUTE}
        assert kept <= Demand(graph).close(saved)
        assert [i for i in plan.backward if graph.ops[i].phase is Phase.BACKWARD] == list(backward)
    assert made > 200
    assert recomputed > 100
