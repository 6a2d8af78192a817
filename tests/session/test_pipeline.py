"""The steps of planning on small models, with a lowerer that takes what is saved for the peak.

    joint graph -> stock's cut -> fits? -> done
                              '-> frontier -> choose -> rewrite
"""

import gc
from dataclasses import dataclass, replace

import pytest
import torch
from torch import fx

from graphckpt.compat import aot
from graphckpt.compat.ordering import ROOM_BYTES
from graphckpt.config import Options, resolve
from graphckpt.cost.roofline import SCALED
from graphckpt.errors import OptionError
from graphckpt.inductor import DryStep
from graphckpt.ir.check import check_graph, check_plan
from graphckpt.ir.graph import Graph
from graphckpt.ir.plan import Plan, recomputed_values, saved_values
from graphckpt.report.record import Budget
from graphckpt.session.allowance import NO_LIMIT_BYTES
from graphckpt.session.buffers import materialised_ops
from graphckpt.session.pipeline import (
    JointGraph,
    Planned,
    is_legal,
    plan_joint,
    plan_of_modules,
    rank_plans,
    ranker_for,
    repaired,
    stock_only,
)
from graphckpt.solve.segments import base_of
from tests.joint import captured, raw_joint
from tests.session.lowerers import FakeLowerer, joint_graph, limit


@dataclass
class Spending(FakeLowerer):
    """A plan that has room takes two bytes of it."""

    def lower(self, forward: fx.GraphModule, backward: fx.GraphModule, *, hold_order: bool) -> DryStep:
        step = super().lower(forward, backward, hold_order=hold_order)
        has_room = any(node.meta.get(ROOM_BYTES) for node in backward.graph.nodes)
        return replace(step, peak=replace(step.peak, backward_bytes=step.peak.backward_bytes + 2 * has_room))


def _plan(name: str, allowance_bytes: int = NO_LIMIT_BYTES, **options: object) -> tuple[Planned, FakeLowerer]:
    given, lowerer = joint_graph(name)
    planned = plan_joint(given, Options(**options), lowerer, lambda _: limit(allowance_bytes))  # type: ignore[arg-type]
    return planned, lowerer


def _placeholders(planned: Planned) -> list[torch.fx.Node]:
    return planned.backward.graph.find_nodes(op="placeholder")


def _results(planned: Planned) -> list[torch.fx.Node]:
    return list(planned.forward.graph.find_nodes(op="output")[0].args[0])


def test_what_fits_is_stocks_cut_lowered_once() -> None:
    """No frontier is built, and the modules are those of Inductor's own partition."""
    planned, lowerer = _plan("attention")
    assert (planned.choice.index, planned.choice.fits, lowerer.runs) == (0, True, 1)
    assert [entry.plan for entry in planned.frontier] == [planned.stock]
    assert planned.step is planned.stock_step
    given, _ = joint_graph("attention")
    for ours, stocks in zip((planned.forward, planned.backward), stock_only(given), strict=True):
        assert [node.name for node in ours.graph.nodes] == [node.name for node in stocks.graph.nodes]


def test_the_limit_may_depend_on_what_no_budget_would_need() -> None:
    """Half of it: `budget_for` is asked with stock's peak."""
    given, lowerer = joint_graph("attention")
    asked: list[int] = []
    planned = plan_joint(given, Options(), lowerer, lambda peak: asked.append(peak) or limit(peak // 2))
    assert asked == [planned.stock_step.peak.peak_bytes]
    assert planned.choice.fits
    assert planned.step.peak.peak_bytes <= asked[0] // 2


def test_a_tight_budget_recomputes_and_the_modules_are_the_plan() -> None:
    """Two attentions in half of the bytes: the chosen plan is legal, and what crosses is what it saves."""
    free, _ = _plan("attention")
    planned, lowerer = _plan("attention", free.step.peak.peak_bytes // 2)
    graph, plan = planned.lowered.graph, planned.frontier[planned.choice.index].plan
    check_graph(graph)
    check_plan(graph, plan)
    assert planned.choice.index > 0
    assert recomputed_values(graph, plan)
    assert planned.step.peak.peak_bytes == planned.choice.peak_bytes <= free.step.peak.peak_bytes // 2
    assert lowerer.runs == len(planned.choice.looked_at)
    crossing = {node.name for node in _placeholders(planned)} & {graph.ops[i].name for i in plan.forward}
    assert crossing == {graph.ops[i].name for i in saved_values(graph, plan)}


def _rooms(planned: Planned) -> set[int]:
    nodes = (node for module in (planned.forward, planned.backward) for node in module.graph.nodes)
    return {node.meta[ROOM_BYTES] for node in nodes if ROOM_BYTES in node.meta}


def test_what_a_budget_leaves_may_be_spent_and_without_one_nothing() -> None:
    """The same attention: under a budget just below its bytes nodes have room, none more than that; by name they have none."""
    free, _ = _plan("attention")
    less_bytes = free.step.peak.peak_bytes - 1
    budgeted, _ = _plan("attention", less_bytes, activation_budget=str(less_bytes))
    assert budgeted.choice.fits
    assert 0 < max(_rooms(budgeted)) <= less_bytes
    for policy in ("smallest", "full"):
        assert _rooms(_plan("attention", policy=policy)[0]) == {0}


def test_no_plan_is_faster_than_the_least_time() -> None:
    """By the model: of the budget that was kept, and of a named policy's own peak; stock's plan alone is held against nothing."""
    free, _ = _plan("attention")
    half_bytes = free.step.peak.peak_bytes // 2
    for planned in (_plan("attention", half_bytes, activation_budget=str(half_bytes))[0], _plan("attention", policy="full")[0]):
        assert planned.least_time_us is not None
        assert 0 < planned.least_time_us <= planned.frontier[planned.choice.index].time_us
    assert free.least_time_us is None


def test_nothing_fits() -> None:
    """What is live already leaves less than nothing: the smallest plan that was lowered, and word that it does not fit."""
    planned, _ = _plan("attention", -1)
    assert not planned.choice.fits
    assert planned.choice.peak_bytes == min(peak for _, peak in planned.choice.looked_at)


@pytest.mark.parametrize(
    ("options", "saves"),
    [({}, False), ({"activation_budget": "1GiB"}, True), ({"activation_budget": "1GiB", "checkpoints": "honour"}, False)],
)
def test_regions_of_the_user(options: dict[str, str], saves: bool) -> None:
    """checkpoint(tanh(exp(x @ w) @ w)): backward reads inputs alone; planned anew under a roomy budget, it is saved again."""
    given, lowerer = joint_graph("checkpointed")
    resolved = resolve(options, {}, inner_option_names=()).options
    planned = plan_joint(given, resolved, lowerer, lambda _: limit(NO_LIMIT_BYTES))
    assert bool(planned.step.peak.saved_bytes) == saves


def test_the_lowered_graph_is_shown_before_it_is_planned() -> None:
    """To whoever wants to keep it, with stock's own plan, which may be illegal; nothing is lowered dry by then."""
    given, lowerer = joint_graph("buffer")
    shown: list[tuple[Graph, Plan, int]] = []
    planned = plan_joint(
        given, Options(), lowerer, lambda _: limit(0), lambda graph, stock: shown.append((graph, stock, lowerer.runs))
    )
    ((graph, stock, runs),) = shown
    assert (graph, runs) == (planned.lowered.graph, 0)
    assert not is_legal(graph, stock)


@pytest.mark.parametrize("name", ["buffer", "buffer through a view"])
def test_an_illegal_cut_of_stock_is_repaired(name: str) -> None:
    """buf -> exp -> mul; buf <- copy_: stock reads buf again in backward. Repaired, exp is saved, without any budget."""
    joint = captured(name)
    graph, stock = joint.lowered.graph, joint.situation.stock
    assert not is_legal(graph, stock)
    legal = repaired(graph, stock)
    check_plan(graph, legal)
    assert set(saved_values(graph, stock)) & set(saved_values(graph, legal))
    planned, lowerer = _plan(name)
    check_plan(planned.lowered.graph, planned.stock)
    assert lowerer.runs == 1
    exp = planned.lowered.index["exp"]
    assert exp in saved_values(planned.lowered.graph, planned.stock)
    assert "exp" in {node.name for node in _placeholders(planned)}
    assert planned.repaired_stock


def test_a_legal_plan_repaired_saves_the_same() -> None:
    joint = captured("mlp")
    graph, stock = joint.lowered.graph, joint.situation.stock
    assert saved_values(graph, repaired(graph, stock)) == saved_values(graph, stock)
    assert not _plan("mlp")[0].repaired_stock


@pytest.mark.parametrize("policy", ["stock", "full", "sqrt", "every_2", "selective"])
def test_a_named_policy_stands_whatever_it_needs(policy: str) -> None:
    """The frontier is stock and the policy; the budget has no say."""
    planned, _ = _plan("attention", 1, policy=policy)
    assert planned.frontier[planned.choice.index].plan.name == policy
    assert planned.choice.index == len(planned.frontier) - 1 == (policy != "stock")


def test_a_plan_by_name_that_is_over_for_what_it_spent_is_lowered_without() -> None:
    """A byte above what the plan saves: with room its peak is 2 bytes more, so it is lowered again, and fits."""
    free, _ = _plan("attention", policy="full")
    allowance_bytes = free.choice.peak_bytes + 1
    given, plain = joint_graph("attention")
    lowerer = Spending(plain.num_outputs)
    options = Options(policy="full", activation_budget=str(allowance_bytes))  # type: ignore[arg-type]
    planned = plan_joint(given, options, lowerer, lambda _: limit(allowance_bytes))
    assert (planned.choice.fits, planned.choice.peak_bytes, lowerer.runs) == (True, free.choice.peak_bytes, 3)


def test_the_collector_rests_while_a_graph_is_planned() -> None:
    """Where the graph is shown, it is off; where a lowering allocates for real, it is on."""
    given, lowerer = joint_graph("mlp")
    seen: list[bool] = []

    def look(*_: object) -> Budget:
        seen.append(gc.isenabled())
        return limit(1)

    plan_joint(given, Options(), lowerer, look, look)
    assert seen == [False, True]


@pytest.mark.parametrize("folds", [False, True])
@pytest.mark.parametrize("name", ["mlp", "attention", "fused attention", "convolution", "dropout", "branches"])
def test_at_a_policys_own_peak_nothing_slower_is_in_the_frontier(name: str, folds: bool) -> None:
    """To the byte, for every N of every_N: the first plan of the frontier that is no larger than the policy's takes no longer."""
    joint = captured(name)
    graph, stock = joint.lowered.graph, joint.situation.stock
    ranker = ranker_for(graph, stock, [not (folds and op.fusible) for op in graph.ops], 100.0, SCALED)
    frontier = rank_plans(graph, stock, ranker, None)
    every = [f"every_{step}" for step in range(1, len(joint.situation.layers) + 1)]
    for policy in ("stock", "full", "sqrt", "selective", *every):
        named = rank_plans(graph, stock, ranker, policy)[-1]
        if is_legal(graph, named.plan) and named.time_us >= frontier[0].time_us:
            taken = next(entry for entry in frontier if entry.estimated_peak_bytes <= named.estimated_peak_bytes)
            assert taken.time_us <= named.time_us, policy


def test_the_smallest_plan_by_name_and_the_frontier_by_number() -> None:
    smallest, _ = _plan("attention", policy="smallest")
    assert smallest.choice.peak_bytes == min(peak for _, peak in smallest.choice.looked_at)
    for index, entry in enumerate(smallest.frontier):
        numbered, _ = _plan("attention", policy=f"index:{index}")
        assert numbered.choice.index == index
        assert numbered.frontier[index].plan == entry.plan
    beyond = len(smallest.frontier)
    with pytest.raises(OptionError, match=f"'index:{beyond}' was wanted, but the frontier of this graph has {beyond} plans"):
        _plan("attention", policy=f"index:{beyond}")


@pytest.mark.parametrize("policy", ["full", "smallest"])
@pytest.mark.parametrize("name", ["several results", "convolution", "fused attention", "branches", "writing op"])
def test_tensors_cross_and_no_tuples(name: str, policy: str) -> None:
    """sort -> (values, indices): each element that backward reads is picked out in forward. Inductor takes no tuples."""
    planned, _ = _plan(name, policy=policy)
    for node in (*_placeholders(planned), *_results(planned)):
        value = aot.fake_value(node) if isinstance(node, torch.fx.Node) else None
        assert not isinstance(value, (tuple, list)), node


@pytest.mark.parametrize("name", ["mlp", "dropout", "convolution"])
def test_the_same_model_gives_the_same_plan(name: str) -> None:
    first, second = (_plan(name, 1)[0] for _ in range(2))
    assert first.choice == second.choice
    assert [entry.plan for entry in first.frontier] == [entry.plan for entry in second.frontier]


def test_the_plan_of_a_pair_of_modules() -> None:
    """Nodes keep their names through the cut."""
    joint = captured("mlp")
    assert plan_of_modules(joint.lowered, "stock", *joint.stock_modules) == joint.situation.stock


def test_buffers_are_read_from_stocks_lowering() -> None:
    """A product always has one; a pointwise value if Inductor gave it one, or if stock never computes it."""
    planned, _ = _plan("mlp")
    graph, step = planned.lowered.graph, planned.stock_step
    nothing = {part: replace(getattr(step, part), materialised=frozenset()) for part in ("forward", "backward")}
    folded = replace(step, **nothing)
    computed = {*planned.stock.forward, *planned.stock.backward}
    flags = materialised_ops(graph, planned.stock, folded)
    kept = {base_of(graph)[index] for index in saved_values(graph, planned.stock)}
    folded_by_stock = [op.fusible and index in computed and index not in kept for index, op in enumerate(graph.ops)]
    assert list(flags) == [not is_folded for is_folded in folded_by_stock]
    assert 0 < sum(flags) < len(flags)
    assert all(materialised_ops(graph, planned.stock, step))


def test_policies_are_there_however_little_time_there_is() -> None:
    """Of the planner's own plans one is made; the summary is told, and that without a limit nothing was left out."""
    hurried, patient = (_plan("attention", policy="smallest", solver_seconds=seconds)[0] for seconds in (1e-9, None))
    assert (hurried.ran_out_of_time, patient.ran_out_of_time) == (True, False)
    own = [[entry.plan.name for entry in planned.frontier if ":" in entry.plan.name] for planned in (hurried, patient)]
    assert len(own[0]) <= 1 < len(own[1])
    assert min(entry.estimated_peak_bytes for entry in hurried.frontier) < hurried.frontier[0].estimated_peak_bytes


@dataclass
class _Holding(FakeLowerer):
    """A held order takes less."""

    def lower(self, forward: fx.GraphModule, backward: fx.GraphModule, *, hold_order: bool) -> DryStep:
        step = super().lower(forward, backward, hold_order=hold_order)
        return replace(step, peak=replace(step.peak, backward_bytes=600 if hold_order else 1000))


@pytest.mark.parametrize(("allowance_bytes", "policy"), [(700, None), (500, None), (10**9, "smallest")])
def test_stock_is_never_looked_at_in_an_order_that_is_not_held_for_it(allowance_bytes: int, policy: str | None) -> None:
    """A graph that has stock's plan alone: what was seen of it is what is compiled."""
    raw = raw_joint(lambda w: w.sum(), torch.rand(4, 4, requires_grad=True))
    given = JointGraph(raw.module, raw.inputs, raw.num_outputs, raw.static)
    planned = plan_joint(given, Options(policy=policy), _Holding(raw.num_outputs), lambda _: limit(allowance_bytes))
    assert len(planned.frontier) == 1
    assert planned.step is planned.stock_step
    assert (planned.choice.peak_bytes, planned.choice.fits) == (1000, allowance_bytes >= 1000)
