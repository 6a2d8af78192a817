"""What is legal: each illegal graph or plan is one edit away from a legal one."""

import pytest

from graphckpt.errors import PlanError
from graphckpt.ir.check import check_graph, check_plan
from graphckpt.ir.plan import Plan
from graphckpt.ir.text import parse
from tests.graphs import random_case

GRAPH = """
s0 8B external
s1 10B
s2 20B
s3 1B
s4 2B
%0 = input x() @fwd s0
%1 draw = compute rand(%0) @fwd s1 pinned="random"
%2 = compute b(%1) @fwd s2
%3 write = compute copy_(%2) @fwd s0 pinned="mutation"
%4 = alias view(%2) @fwd s2
%5 = tangent t() @bwd s3
%6 = compute g(%5, %4) @bwd s4
forward_outputs %2
backward_outputs %6
"""
FORWARD, BACKWARD = (1, 2, 3, 4), (6,)


def test_the_graph_and_its_plan_are_legal() -> None:
    """x -> draw (pinned) -> b -> write (pinned), b -> view; t, view -> g."""
    graph = parse(GRAPH)
    check_graph(graph)
    check_plan(graph, Plan("stock", FORWARD, BACKWARD))
    check_plan(graph, Plan("again", (1, 2, 3), (2, 2, 4, 6)))
    check_plan(graph, Plan("late", (1, 2), (3, 4, 6)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("b(%1)", "b(%2)", r"'op2' \(%2, b\) reads %2"),
        ("b(%1)", "b(%-1)", "'op2'.* reads %-1"),
        ("b(%1) @fwd s2", "b(%1) @fwd s9", "'op2'.* lives in s9"),
        ("b(%1) @fwd s2", "b(%1) @fwd s2 s2", "'op2'.* names a storage twice"),
        ("b(%1) @fwd s2", "b(%1) @fwd s2 flops=-5", "'op2'.* has -5 flops"),
        ("b(%1) @fwd s2", "b(%1) @fwd s2 workspace=-5", "'op2'.* has a workspace of -5 bytes; wanted 0 or more"),
        ("view(%2) @fwd s2", "view(%2) @fwd s2 workspace=5", "'op4'.* has a workspace of 5 bytes, but alias runs no kernel"),
        ("s1 10B", "s1 -10B", "storage s1: .* came -10"),
        ("s0 8B external", "s0 8B", "'op0'.* must be external"),
        ("x() @fwd", "x() @bwd", "'op0'.* phase backward, wanted forward"),
        ("tangent t() @bwd", "tangent t() @fwd", "'op5'.* phase forward, wanted backward"),
        ("tangent t()", "tangent t(%0)", "'op5'.* may not read anything"),
        ("g(%5, %4) @bwd", "g(%5, %4) @fwd", "'op6'.* phase forward, wanted backward"),
        ("g(%5, %4) @bwd", "g(%4) @bwd", "'op6'.* phase backward, wanted forward"),
        ("view(%2) @fwd s2", "view(%2) @fwd s1", "'op4'.* alias in s1, but none of its inputs"),
        ("g(%5, %4) @bwd s4", "g(%5, %4) @bwd s2", r"'op6'.* allocates s2, but so does 'op2' \(%2\)"),
        ("g(%5, %4) @bwd s4", "g(%5, %4) @bwd s3", r"'op6'.* allocates s3, but so does 'op5' \(%5\)"),
        ("forward_outputs %2", "forward_outputs %6", "'op6'.* leaves the forward pass"),
        ("forward_outputs %2", "forward_outputs %7", "forward_outputs: .* came %7"),
    ],
)
def test_illegal_graphs(old: str, new: str, message: str) -> None:
    """The legal graph with one edit."""
    assert GRAPH.count(old) == 1
    with pytest.raises(PlanError, match=message):
        check_graph(parse(GRAPH.replace(old, new)))


@pytest.mark.parametrize(
    ("forward", "backward", "message"),
    [
        ((0, 1, 2), BACKWARD, "'op0'.* is of kind input, so never computed"),
        (FORWARD, (5, 6), "'op5'.* is of kind tangent, so never computed"),
        ((1, 2, 9), BACKWARD, "wanted operations 0 to 6, came %9"),
        ((2, 1, 4), BACKWARD, r"'op2'.* reads 'draw' \(%1\), which plan 'bad' has not computed yet"),
        ((1, 2), (6, 4), r"'op6'.* reads 'op4' \(%4\)"),
        ((1, 2, 4, 6), (), "'op6'.* depends on a tangent, but plan 'bad' computes it in the forward"),
        ((1,), (2, 4, 6), "'op2'.* leaves the forward pass"),
        ((1, 2), (), "'op6'.* leaves the backward pass"),
        (FORWARD, (1, 6), r"'draw'.* is pinned \(random\), but plan 'bad' computes it twice"),
    ],
)
def test_illegal_plans(forward: tuple[int, ...], backward: tuple[int, ...], message: str) -> None:
    """The legal graph with another plan."""
    with pytest.raises(PlanError, match=message):
        check_plan(parse(GRAPH), Plan("bad", forward, backward))


def test_pinned_operations_keep_their_order() -> None:
    """x -> first (pinned), x -> second (pinned): nothing but the pins orders them."""
    graph = parse("""
        s0 8B external
        %0 = input x() @fwd s0
        %1 first = compute copy_(%0) @fwd s0 pinned="mutates its argument"
        %2 second = compute copy_(%0) @fwd s0 pinned="mutates its argument"
        forward_outputs
        backward_outputs
    """)
    check_plan(graph, Plan("ok", (1, 2), ()))
    for forward, backward in (((1,), (2,)), ((1,), ())):
        with pytest.raises(PlanError, match=r"'second'.* but plan 'late' does not run it in the forward pass"):
            check_plan(graph, Plan("late", forward, backward))
    for forward, backward in (((2, 1), ()), ((2,), (1,))):
        with pytest.raises(PlanError, match=r"'first'.* comes before 'second' \(%2\), but plan 'bad' swaps them"):
            check_plan(graph, Plan("bad", forward, backward))


def test_an_input_or_a_tangent_may_be_an_output() -> None:
    """x leaves forward as it is, t leaves backward as it is."""
    graph = parse("""
        s0 8B external
        s1 8B
        %0 = input x() @fwd s0
        %1 = tangent t() @bwd s1
        forward_outputs %0
        backward_outputs %1 %0
    """)
    check_graph(graph)
    check_plan(graph, Plan("nothing", (), ()))


def test_dropping_a_needed_step_of_a_random_plan_is_found() -> None:
    """Random legal plans pass; without the only step that computes what something reads, they do not."""
    dropped = 0
    for seed in range(200):
        graph, plan, _ = random_case(seed)
        check_graph(graph)
        check_plan(graph, plan)
        needed = {source for index in plan.forward + plan.backward for source in graph.ops[index].inputs}
        for position, index in enumerate(plan.forward):
            if index in needed and (plan.forward + plan.backward).count(index) == 1:
                cut = Plan("cut", plan.forward[:position] + plan.forward[position + 1 :], plan.backward)
                with pytest.raises(PlanError):
                    check_plan(graph, cut)
                dropped += 1
                break
    assert dropped > 100
