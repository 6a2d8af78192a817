"""Plans annealed from the smallest of a frontier: legal, the same every time, and where a frontier is short of them, smaller."""

from dataclasses import replace

import pytest

from graphckpt.cost.roofline import SCALED
from graphckpt.ir.check import check_plan
from graphckpt.ir.graph import Graph
from graphckpt.ir.plan import Plan
from graphckpt.session.pipeline import is_legal, rank_plans, ranker_for, repaired
from graphckpt.solve.frontier import Ranked, Ranker
from graphckpt.solve.refine import _just_over, _smallest, _Whole, refined_plans
from tests.joint import captured
from tests.solve.chains import chain


def _ranked(graph: Graph, stock: Plan) -> tuple[Ranker, tuple[Ranked, ...]]:
    ranker = ranker_for(graph, stock, [True] * len(graph.ops), 100.0, SCALED)
    return ranker, rank_plans(graph, stock, ranker, None)


def _refined(graph: Graph, stock: Plan) -> tuple[tuple[Ranked, ...], list[Ranked]]:
    ranker, frontier = _ranked(graph, stock if is_legal(graph, stock) else repaired(graph, stock))
    return frontier, [ranker.rank(plan) for plan in refined_plans(ranker, frontier, graph)]


def _check_each_is_legal_and_new(graph: Graph, frontier: tuple[Ranked, ...], refined: list[Ranked]) -> None:
    """Each is legal, and faster than whatever was known to be as small."""
    known = list(frontier)
    for entry in refined:
        check_plan(graph, entry.plan)
        as_small = [other.time_us for other in known if other.estimated_peak_bytes <= entry.estimated_peak_bytes]
        assert not as_small or entry.time_us < min(as_small)
        known.append(entry)


@pytest.mark.parametrize("name", ["attention", "fused attention", "convolution", "dropout", "several results", "buffer"])
def test_refined_plans_are_legal_and_smaller_or_faster_than_all_that_was_known(name: str) -> None:
    """The first is smaller than the smallest; each further one is faster than whatever is as small."""
    situation = captured(name).situation
    frontier, refined = _refined(situation.graph, situation.stock)
    _check_each_is_legal_and_new(situation.graph, frontier, refined)


@pytest.mark.parametrize("name", ["attention", "fused attention", "convolution"])
def test_what_no_set_of_saved_values_reaches_is_reached_by_order_and_copies(name: str) -> None:
    situation = captured(name).situation
    frontier, refined = _refined(situation.graph, situation.stock)
    least_bytes = min(entry.estimated_peak_bytes for entry in frontier)
    assert refined[0].estimated_peak_bytes < 0.95 * least_bytes


def test_what_is_pinned_keeps_its_place() -> None:
    """Two normalisations that count, and draws: first computations stand in the order of the plan that was started from."""
    for name in ("convolution", "dropout", "buffer"):
        situation = captured(name).situation
        graph, stock = situation.graph, situation.stock
        frontier, refined = _refined(graph, stock)
        smallest = min(frontier, key=lambda entry: entry.estimated_peak_bytes).plan
        for plan in (entry.plan for entry in refined):
            for half, start in ((plan.forward, smallest.forward), (plan.backward, smallest.backward)):
                assert [i for i in half if graph.ops[i].pinned] == [i for i in start if graph.ops[i].pinned]


@pytest.mark.parametrize("pinned", ["", "random"])
def test_what_a_few_layers_learn_is_done_in_all(pinned: str) -> None:
    """24 equal layers, with three of them pinned to their places or without: from the plan that keeps everything, a legal one of a
    smaller peak that keeps the pinned ones' order."""
    deep = chain(24)
    ops = tuple(replace(op, pinned=pinned if op.name in ("a0", "a1", "a23") else op.pinned) for op in deep.graph.ops)
    graph = replace(deep.graph, ops=ops)
    ranker, _ = _ranked(graph, deep.keep)
    start = ranker.rank(deep.keep)
    whole = _Whole.of(ranker, start, graph)
    assert whole.layers is not None
    lifted = ranker.rank(whole.problem.plan_of("lifted", whole.layers.smallest.schedule))
    assert lifted.estimated_peak_bytes < start.estimated_peak_bytes
    _, found = _smallest(ranker, whole)
    assert found.estimated_peak_bytes <= lifted.estimated_peak_bytes
    for plan in (lifted.plan, found.plan):
        check_plan(graph, plan)
        if pinned:
            order = [index for index in dict.fromkeys(plan.forward) if index in deep.keep.forward]
            assert order == [index for index in deep.keep.forward if index in order]


def test_few_layers_are_searched_whole() -> None:
    few = chain(8)
    ranker, _ = _ranked(few.graph, few.keep)
    whole = _Whole.of(ranker, ranker.rank(few.keep), few.graph)
    assert whole.layers is None
    assert len(list(_smallest(ranker, whole))) == 1


def test_plans_of_a_deep_graph_are_legal_and_faster_than_all_that_was_known() -> None:
    """Each rung of the ladder is begun from what a few of 24 layers do within it."""
    deep = chain(24)
    frontier, refined = _refined(deep.graph, deep.keep)
    _check_each_is_legal_and_new(deep.graph, frontier, refined)
    assert len(refined) > 2


def test_a_plan_that_nearly_fits_is_begun_from_too() -> None:
    """The smallest of those over the budget, if by a twentieth at most."""
    sizes = (110, 104, 103, 100)
    known = [Ranked(Plan(str(size), (), ()), size, 1.0) for size in sizes]
    found = {budget: [entry.estimated_peak_bytes for entry in _just_over(known, budget)] for budget in (100, 103, 98, 95, 104)}
    assert found == {100: [103], 103: [104], 98: [100], 95: [], 104: []}


def test_the_same_plans_every_time() -> None:
    eight = chain(8)
    assert _refined(eight.graph, eight.keep) == _refined(eight.graph, eight.keep)


def test_what_the_user_wants_computed_again_is_left_as_it_is() -> None:
    four = chain(4)
    ops = tuple(replace(op, tag="recompute" if op.name == "a1" else "") for op in four.graph.ops)
    graph = replace(four.graph, ops=ops)
    ranker, frontier = _ranked(four.graph, four.keep)
    assert list(refined_plans(ranker, frontier, graph)) == []
