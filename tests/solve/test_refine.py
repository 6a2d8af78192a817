"""Plans annealed from the smallest of a frontier: legal, the same every time, and where a frontier is short of them, smaller."""

from dataclasses import replace

import pytest

from graphckpt.cost.roofline import SCALED
from graphckpt.ir.check import check_plan
from graphckpt.ir.graph import Graph
from graphckpt.ir.plan import Plan
from graphckpt.session.pipeline import rank_plans, ranker_for
from graphckpt.solve.frontier import Ranked, Ranker
from graphckpt.solve.refine import refined_plans
from tests.joint import captured
from tests.solve.chains import chain


def _ranked(graph: Graph, stock: Plan) -> tuple[Ranker, tuple[Ranked, ...]]:
    ranker = ranker_for(graph, stock, [True] * len(graph.ops), 100.0, SCALED)
    return ranker, rank_plans(graph, stock, ranker, None)


def _refined(graph: Graph, stock: Plan) -> tuple[tuple[Ranked, ...], list[Ranked]]:
    ranker, frontier = _ranked(graph, stock)
    return frontier, [ranker.rank(plan) for plan in refined_plans(ranker, frontier, graph)]


@pytest.mark.parametrize("name", ["attention", "mlp", "dropout", "several results"])
def test_refined_plans_are_legal_and_none_is_larger_or_slower_than_what_it_was_made_from(name: str) -> None:
    """The first is no larger than the smallest; each further one is no slower than the fastest known of its peak or less."""
    situation = captured(name).situation
    frontier, refined = _refined(situation.graph, situation.stock)
    assert len(refined) == 6
    for entry in refined:
        check_plan(situation.graph, entry.plan)
    least_bytes = min(entry.estimated_peak_bytes for entry in frontier)
    assert refined[0].estimated_peak_bytes <= least_bytes
    known = [*frontier, refined[0]]
    for entry in refined[1:]:
        fitting = [other.time_us for other in known if other.estimated_peak_bytes <= entry.estimated_peak_bytes]
        assert entry.time_us <= min(fitting) + 1e-6 or entry.estimated_peak_bytes > min(e.estimated_peak_bytes for e in known)
        known.append(entry)


@pytest.mark.parametrize("name", ["attention", "fused attention", "convolution"])
def test_what_no_set_of_saved_values_reaches_is_reached_by_order_and_copies(name: str) -> None:
    situation = captured(name).situation
    frontier, refined = _refined(situation.graph, situation.stock)
    least_bytes = min(entry.estimated_peak_bytes for entry in frontier)
    assert refined[0].estimated_peak_bytes < 0.95 * least_bytes


def test_the_same_plans_every_time() -> None:
    eight = chain(8)
    assert _refined(eight.graph, eight.keep) == _refined(eight.graph, eight.keep)


def test_what_the_user_wants_computed_again_is_left_as_it_is() -> None:
    four = chain(4)
    ops = tuple(replace(op, tag="recompute" if op.name == "a1" else "") for op in four.graph.ops)
    graph = replace(four.graph, ops=ops)
    ranker, frontier = _ranked(four.graph, four.keep)
    assert list(refined_plans(ranker, frontier, graph)) == []
