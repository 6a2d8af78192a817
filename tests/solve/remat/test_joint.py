"""A joint graph as a problem."""

from dataclasses import replace
from itertools import product

import pytest

from graphckpt.errors import InstanceError, PlanError
from graphckpt.ir.check import check_plan
from graphckpt.ir.graph import Graph, Op, OpKind, Origin, Phase, Storage
from graphckpt.ir.peak import timeline
from graphckpt.ir.plan import Plan, recomputed_values
from graphckpt.solve.remat.floors import peak_floor
from graphckpt.solve.remat.joint import END, RETURN, JointProblem, joint_problem
from graphckpt.solve.remat.proof import prove
from graphckpt.solve.remat.replay import replay
from graphckpt.solve.remat.search import Goal, Limits, Order, search
from graphckpt.solve.segments import is_element
from tests.graphs import random_case
from tests.joint import captured


def _op(kind: OpKind, inputs: tuple[int, ...], storages: tuple[int, ...], pinned: str = "") -> Op:
    backward = kind is OpKind.TANGENT
    phase = Phase.BACKWARD if backward else Phase.FORWARD
    return Op("", "", kind, phase, inputs, storages, 0, pinned, False, "", Origin("", "", (), ""))


def test_nodes_are_what_allocates_and_outputs_stay() -> None:
    """
    %0 weight -> %1 (s1) -> %2 view of %1 -> %3 random (s2) = the forward output
    %4 tangent (s3) -> %5 (s4) reads the view %2 and the tangent = the backward output
    """
    graph = Graph(
        ops=(
            _op(OpKind.INPUT, (), (0,)),
            _op(OpKind.COMPUTE, (0,), (1,)),
            _op(OpKind.ALIAS, (1,), (1,)),
            _op(OpKind.COMPUTE, (2,), (2,), "random"),
            _op(OpKind.TANGENT, (), (3,)),
            _op(OpKind.COMPUTE, (2, 4), (4,)),
        ),
        storages=(Storage(900, True), Storage(10, False), Storage(20, False), Storage(5, False), Storage(7, False)),
        forward_outputs=(3,),
        backward_outputs=(5,),
    )
    joint = joint_problem(graph, (0.0, 1.0, 0.0, 2.5, 9.0, 4.0), "small")
    instance = joint.instance
    # Nodes: %1, %3, the end of forward with the tangent, %5 and the last one, which reads what leaves.
    assert joint.ops == (1, 3, RETURN, 5, END)
    assert instance.inputs == ((), (0,), (1,), (0, 2), (1, 3))
    assert instance.size_bytes == (10, 20, 5, 7, 0)
    assert instance.cost == (1_000_000, 2_500_000, 0, 4_000_000, 0)
    assert instance.once == frozenset({1, 2, 4})
    assert replay(instance, range(5)).live_bytes == (10, 30, 35, 42, 27)
    assert joint.in_ops((0, 1, 2, 0, 3, 4)) == (1, 3, 1, 5)


def _two_tangents() -> Graph:
    """
    %0 input -> %1 (s1, 10) = the forward output          %2 tangent (s2, 100)      %3 tangent (s3, 4)
    %4 (s4, 80) reads %1 and %3 -> %5 (s5, 6) reads %4 -> %6 (s6, 6) reads %5 and %2 = the backward output
    """
    return Graph(
        ops=(
            _op(OpKind.INPUT, (), (0,)),
            _op(OpKind.COMPUTE, (0,), (1,)),
            _op(OpKind.TANGENT, (), (2,)),
            _op(OpKind.TANGENT, (), (3,)),
            _op(OpKind.COMPUTE, (1, 3), (4,)),
            _op(OpKind.COMPUTE, (4,), (5,)),
            _op(OpKind.COMPUTE, (5, 2), (6,)),
        ),
        storages=tuple(Storage(size, external) for size, external in ((9, True), *((s, False) for s in (10, 100, 4, 80, 6, 6)))),
        forward_outputs=(1,),
        backward_outputs=(6,),
    )


def test_all_tangents_are_there_when_backward_begins() -> None:
    """No order makes %2, which is read last, come later than it does; %3 is held as long as %2 is."""
    graph = _two_tangents()
    problem = joint_problem(graph, [1.0] * 7)
    start = problem.schedule_of(Plan("traced", (1,), (4, 5, 6)))
    found = search(problem.instance, 0, Limits(20, 4_000), Order.FREE, Goal.SMALLEST, start)
    peak_bytes = replay(problem.instance, found.schedule).peak_bytes
    assert peak_bytes == 10 + 104 + 86
    assert timeline(graph, problem.plan_of("found", found.schedule), problem.is_node).peak_bytes == 10 + 100 + 86


def test_what_stays_is_not_computed_again() -> None:
    """%1 stays: a plan that computes it again has a schedule that does not, and no search makes one that does."""
    graph = _two_tangents()
    problem = joint_problem(graph, [1.0] * 7)
    again, traced = (problem.schedule_of(Plan("", (1,), backward)) for backward in ((1, 4, 5, 6), (4, 5, 6)))
    assert again == traced
    assert {problem.ops[node] for node in problem.instance.once} == {1, RETURN, END}


# The joint graphs whose modules are planned in the tests of the rewrite.
NAMES = ("mlp", "attention", "dropout", "several results")


def _problem(graph: Graph, plan: Plan, folded: bool) -> JointProblem:
    """With every pointwise value folded into its readers, or none."""
    real = [not (folded and op.fusible) for op in graph.ops]
    return joint_problem(graph, [1.0] * len(graph.ops), plan=plan, is_real=real, kernels=True)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_stocks_plan_as_a_schedule_has_the_peak_of_the_timeline_and_comes_back(name: str, folded: bool) -> None:
    """Nothing in these graphs is shared or a tuple but where the problem says it may see more."""
    situation = captured(name).situation
    graph, stock = situation.graph, situation.stock
    problem = _problem(graph, stock, folded)
    schedule = problem.schedule_of(stock)
    back = problem.plan_of("back", schedule)
    check_plan(graph, back)
    ours, theirs = timeline(graph, back, problem.is_node), timeline(graph, stock, problem.is_node)
    assert ours.peak_bytes <= theirs.peak_bytes
    assert replay(problem.instance, schedule).peak_bytes >= ours.peak_bytes
    nodes = [index for index in recomputed_values(graph, stock) if problem.is_node[index]]
    assert [index for index in recomputed_values(graph, back) if problem.is_node[index]] == nodes


def test_a_schedule_of_any_order_is_a_legal_plan_that_peaks_no_higher() -> None:
    smaller = 0
    for name, folded, seed in product(NAMES, (False, True), range(3)):
        situation = captured(name).situation
        graph, stock = situation.graph, situation.stock
        problem = _problem(graph, stock, folded)
        start = problem.schedule_of(stock)
        found = search(problem.instance, 0, Limits(20, 4_000, seed), Order.FREE, Goal.SMALLEST, start)
        plan = problem.plan_of("found", found.schedule)
        check_plan(graph, plan)
        peak_bytes = replay(problem.instance, found.schedule).peak_bytes
        assert timeline(graph, plan, problem.is_node).peak_bytes <= peak_bytes
        smaller += peak_bytes < replay(problem.instance, start).peak_bytes
    assert smaller >= 3


def test_random_plans_peak_no_higher_than_their_schedules() -> None:
    """Left out: pinned views, which a plan may compute twice, and where the problem says it may see less. Workspaces are those of
    kernels."""
    compared = 0
    for seed in range(300):
        case, plan, real = random_case(seed)
        ops = zip(case.ops, real, strict=True)
        graph = replace(case, ops=tuple(replace(op, workspace_bytes=op.workspace_bytes * is_real) for op, is_real in ops))
        problem = joint_problem(graph, [1.0] * len(graph.ops), plan=plan, is_real=real, kernels=True)
        schedule, instance = problem.schedule_of(plan), problem.instance
        tangents = problem.ops.index(RETURN)
        if not instance.readers[tangents] and instance.size_bytes[tangents]:
            continue
        back = problem.plan_of("back", schedule)
        try:
            check_plan(graph, back)
        except PlanError:
            assert any(op.pinned and op.kind is OpKind.ALIAS for op in graph.ops)
            continue
        assert timeline(graph, back, problem.is_node).peak_bytes <= replay(problem.instance, schedule).peak_bytes
        compared += 1
    assert compared > 100


def test_what_is_folded_is_computed_again_behind_a_wall_and_tuples_are_picked_apart_in_place() -> None:
    """The readers of one pointwise value on both sides of a product have a copy each; elements stand behind their tuple."""
    situation = captured("several results").situation
    graph = situation.graph
    problem = _problem(graph, situation.stock, True)
    plan = problem.plan_of("back", problem.schedule_of(situation.stock))
    steps = plan.forward + plan.backward
    for step, index in enumerate(steps):
        if is_element(graph, index) and problem.is_node[graph.ops[index].inputs[0]]:
            before = [other for other in steps[:step] if not is_element(graph, other)]
            assert before[-1] == graph.ops[index].inputs[0]
    walls = [step for step, index in enumerate(steps) if graph.ops[index].kind is OpKind.COMPUTE and not graph.ops[index].fusible]
    for step, index in enumerate(steps):
        op = graph.ops[index]
        if op.kind is not OpKind.COMPUTE:
            continue
        for source in op.inputs:
            if graph.ops[source].kind is OpKind.COMPUTE and not problem.is_node[source]:
                made = max(at for at in range(step) if steps[at] == source)
                assert not any(made < wall < step for wall in walls)


def test_kernels_are_searched_alone() -> None:
    situation = captured("mlp").situation
    instance = _problem(situation.graph, situation.stock, False).instance
    with pytest.raises(InstanceError, match="came kernels"):
        prove(instance, 1, Limits(1))
    with pytest.raises(InstanceError, match="came kernels"):
        peak_floor(instance)
