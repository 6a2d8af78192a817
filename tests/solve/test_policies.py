"""The named policies: on a chain planned by hand (drawn in `tests.solve.chains.chain`), on random graphs, on captured ones."""

import random

import pytest

from graphckpt.errors import OptionError
from graphckpt.ir.check import check_plan
from graphckpt.ir.graph import Graph, OpKind
from graphckpt.ir.plan import Plan, recomputed_values, saved_values
from graphckpt.ir.text import parse
from graphckpt.solve.policies import attention_interior, candidate_plans, named_plan, survey
from graphckpt.solve.segments import base_of, cut_at
from tests.graphs import random_graph, random_plan
from tests.joint import captured
from tests.rewrite.models import MODELS
from tests.solve.chains import chain
from tests.solve.orders import check_order

NAMED = ("stock", "full", "every_1", "every_2", "every_3", "sqrt", "selective", "valleys")


def test_full_saves_exactly_the_boundaries() -> None:
    """h0 a0 | h1 a1 | h2 a2 | h3 a3 | loss: the four a are saved, and each h is computed again with the mask."""
    case = chain(4)
    situation = survey(case.graph, case.keep)
    plan = named_plan(situation, "full")
    assert frozenset(saved_values(case.graph, plan)) == case.numbers("a0", "a1", "a2", "a3")
    again = case.names(recomputed_values(case.graph, plan))
    assert again == ["h3", "mask", "h2", "mask", "h1", "mask", "h0", "mask"]


def test_every_second_layer() -> None:
    """h0 a0 h1 a1 | h2 a2 h3 a3 | loss: a1 and a3 are saved, a0 and a2 come back with the h."""
    case = chain(4)
    plan = named_plan(survey(case.graph, case.keep), "every_2")
    assert frozenset(saved_values(case.graph, plan)) == case.numbers("a1", "a3")
    again = [name for name in case.names(recomputed_values(case.graph, plan)) if name != "mask"]
    assert again == ["h2", "a2", "h3", "h0", "a0", "h1"]


def test_sqrt_takes_the_root_of_the_number_of_layers() -> None:
    """Nine layers and the head are ten starts: the root is 3."""
    case = chain(9)
    situation = survey(case.graph, case.keep)
    assert named_plan(situation, "sqrt").backward == named_plan(situation, "every_3").backward
    assert frozenset(saved_values(case.graph, named_plan(situation, "sqrt"))) == case.numbers("a2", "a5", "a8")


def test_the_first_segments_alone() -> None:
    """mask | h0 a0 | h1 a1 | h2 a2 | h3 a3 | loss: of three segments h0 and h1 come back, the rest is as stock keeps it."""
    case = chain(4)
    plan = next(p for p in candidate_plans(survey(case.graph, case.keep)) if p.name == "full:first_3")
    again = [name for name in case.names(recomputed_values(case.graph, plan)) if name != "mask"]
    assert again == ["h1", "h0"]
    assert case.numbers("h2", "a2", "h3", "a3") <= frozenset(saved_values(case.graph, plan))


@pytest.mark.parametrize(("layers", "counts"), [(4, [1, 2, 3, 4]), (40, [5, 10, 15, 20, 25, 30, 35, 40])])
def test_between_stock_and_full_lie_a_few_plans(layers: int, counts: list[int]) -> None:
    """mask | h0 a0 | ... | loss: of `full` alone some first segments are offered, eight times at most, evenly spread."""
    case = chain(layers)
    names = [plan.name for plan in candidate_plans(survey(case.graph, case.keep))]
    assert [name for name in names if ":first_" in name] == [f"full:first_{count}" for count in counts]
    assert len(set(names)) == len(names)


def test_stock_is_first_and_unchanged() -> None:
    """The very object that went in."""
    case = chain(4)
    situation = survey(case.graph, case.keep)
    assert next(iter(candidate_plans(situation))) is case.keep
    assert named_plan(situation, "stock") is case.keep


def test_an_unknown_policy_is_refused() -> None:
    """The known ones are listed."""
    case = chain(2)
    with pytest.raises(OptionError, match=r"'fastest' is not known; known are stock, every_N"):
        named_plan(survey(case.graph, case.keep), "fastest")


ATTENTION = """
s0 8B external
s1 8B
s2 8B
s3 64B
s4 64B
s5 64B
s6 8B
s7 64B
s8 8B
s9 8B
s10 8B
%0 x = input placeholder() @fwd s0
%1 q = compute aten.mm.default(%0) @fwd s1 flops=1
%2 v = compute aten.mm.default(%0) @fwd s2 flops=1
%3 scores = compute aten.bmm.default(%1) @fwd s3 flops=1
%4 shifted = compute aten.sub.Tensor(%3) @fwd s4 fusible
%5 exp = compute aten.exp.default(%4) @fwd s5 fusible
%6 total = compute aten.sum.default(%5) @fwd s6 fusible
%7 soft = compute aten.div.Tensor(%5, %6) @fwd s7 fusible
%8 out = compute aten.bmm.default(%7, %2) @fwd s8 flops=1
%9 t = tangent placeholder() @bwd s9
%10 g = compute back(%9, %7, %5) @bwd s10
forward_outputs %8
backward_outputs %10
"""


def test_selective_drops_what_lies_between_the_products() -> None:
    """q -> scores -> shifted -> exp -> soft -> out, exp -> total -> soft: total is small, so it is not inside."""
    graph = parse(ATTENTION)
    names = {graph.ops[index].name for index in attention_interior(graph)}
    assert names == {"scores", "shifted", "exp", "soft"}
    keep = Plan("keep", (1, 2, 3, 4, 5, 6, 7, 8), (10,))
    plan = named_plan(survey(graph, keep), "selective")
    check_plan(graph, plan)
    assert not set(saved_values(graph, plan)) & attention_interior(graph)
    assert {graph.ops[i].name for i in recomputed_values(graph, plan)} >= {"scores", "exp", "soft"}


def test_an_exponential_outside_of_attention_has_no_interior() -> None:
    """The same without the product after it: a softmax in a loss."""
    graph = parse(ATTENTION.replace("flops=1\n%9", "\n%9"))
    assert attention_interior(graph) == frozenset()


def _pinned_twice(graph: Graph, plan: Plan) -> list[int]:
    steps = plan.forward + plan.backward
    return [index for index, op in enumerate(graph.ops) if op.pinned and steps.count(index) > 1]


def test_random_graphs_get_legal_plans_that_run_pinned_operations_once() -> None:
    """Hundreds of random graphs with a random legal plan for stock's; all of what the policies offer besides."""
    offered = 0
    for seed in range(300):
        rng = random.Random(seed)
        graph = random_graph(rng, rng.randint(2, 30))
        stock = random_plan(rng, graph)
        for plan in candidate_plans(survey(graph, stock)):
            check_plan(graph, plan)
            assert not _pinned_twice(graph, plan)
            offered += plan is not stock
    assert offered > 600


@pytest.mark.parametrize("name", MODELS)
def test_named_policies_are_legal_on_captured_graphs(name: str) -> None:
    """Every policy on every small model; all of a backward pass is kept, in its order, but for large gradients."""
    situation = captured(name).situation
    graph = situation.graph
    for policy in NAMED[1:]:
        plan = named_plan(situation, policy)
        check_plan(graph, plan)
        assert plan.name == policy
        check_order(situation, plan)


@pytest.mark.parametrize("name", ["mlp", "attention", "convolution", "dropout"])
def test_full_saves_the_boundaries_of_captured_graphs(name: str) -> None:
    """What `full` saves enters a layer, is pinned or too small to drop, or is stock's choice in the head after the last layer."""
    situation = captured(name).situation
    graph, plan = situation.graph, named_plan(situation, "full")
    segments = cut_at(graph, situation.order, situation.layers)
    allowed = situation.always_saved.union(*segments.crossing)
    allowed |= {index for index in situation.stock_saved if segments.of_op[index] == segments.count - 1}
    allowed |= {index for index, op in enumerate(graph.ops) if op.pinned}
    base = base_of(graph)
    assert {base[i] for i in saved_values(graph, plan) if graph.ops[base[i]].kind is not OpKind.INPUT} <= allowed
    assert recomputed_values(graph, plan)
