"""The way of one training graph, as a list of steps: joint graph in, forward and backward modules out, with a record.

    prepare -> stock's cut -> lower to IR -> stock lowered dry -> frontier -> refine where memory is short -> choose (dry lowerings)
    -> rewrite -> record

Nothing here rewrites or solves; each step is a function of a lower floor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from torch import fx

from graphckpt.compat import aot
from graphckpt.config import Options
from graphckpt.cost.roofline import DeviceSpec, recompute_times_us, saving_times_us
from graphckpt.errors import OptionError, PlanError, UnsupportedGraph
from graphckpt.inductor import DryStep
from graphckpt.ir.check import check_graph, check_plan
from graphckpt.ir.graph import Graph, Phase, value_bytes
from graphckpt.ir.plan import Plan, saved_values
from graphckpt.report.record import Budget
from graphckpt.rewrite.schedule import split_by_plan
from graphckpt.session.buffers import inputs_laid_out, materialised_ops, with_workspaces
from graphckpt.session.looks import Candidate, Looks, Lowerer
from graphckpt.session.patience import Patience
from graphckpt.session.pause import collection_paused
from graphckpt.session.refining import is_short, one_policy, refined
from graphckpt.solve.demand import plan_from_saved
from graphckpt.solve.frontier import Choice, Ranked, Ranker, choose, first_correction, last_resort, pareto
from graphckpt.solve.planner import saving_plans
from graphckpt.solve.policies import candidate_plans, named_plan, survey
from graphckpt.solve.saving import state_saving
from graphckpt.trace.lower import Lowered, lower_joint

_LOSS_BYTES = 16


@dataclass(frozen=True, slots=True)
class JointGraph:
    """What Inductor hands to a partitioner."""

    module: fx.GraphModule
    inputs: Sequence[object]
    num_forward_outputs: int
    static_inputs: Sequence[int] | None


@dataclass(frozen=True, slots=True)
class Planned:
    """The chosen plan as modules, with everything the record tells about the choice.

    ``smallest_peak_bytes``: the smallest that a plan is known for; None where the smallest plan was not lowered as small as it
    gets, or where a named policy was asked for. ``least_time_us``: no plan within the budget takes less by the model, nor, where
    nothing fits or there is no budget, one of this peak; None where stock's plan was taken unseen. ``ran_out_of_time``: plans were
    left out for ``solver_seconds``.
    """

    forward: fx.GraphModule
    backward: fx.GraphModule
    lowered: Lowered
    plan: Plan
    stock: Plan
    stock_step: DryStep
    step: DryStep
    frontier: tuple[Ranked, ...]
    choice: Choice
    plan_seconds: float
    repaired_stock: bool
    smallest_peak_bytes: int | None = None
    least_time_us: float | None = None
    ran_out_of_time: bool = False

    @property
    def holds_order(self) -> bool:
        """Whether Inductor must keep the modules' order: always, but for stock's own plan."""
        return self.choice.index != 0


class _Cut(NamedTuple):
    lowered: Lowered
    plan: Plan
    modules: aot.Partition
    is_repaired: bool


def plan_joint(
    joint_graph: JointGraph,
    options: Options,
    lowerer: Lowerer,
    budget_for: Callable[[int], Budget],
    when_lowered: Callable[[Graph, Plan], None] = lambda graph, stock: None,
) -> Planned:
    """Plan one graph.

    ``budget_for(unbudgeted_peak_bytes)`` gives the limit; it may depend on what no budget would need. The plan may not fit:
    ``choice.fits`` tells, and what to do about it is the caller's decision. ``when_lowered`` sees the graph and stock's plan before
    anything can go wrong with them.
    """
    with collection_paused():
        # Stock's duplicates and dead code go first; the user's checkpoint regions go if they are to be planned anew.
        joint = aot.prepare_joint(joint_graph.module, drop_checkpoint_tags=replans_regions(options))
        # Stock's own cut is always a candidate.
        modules = aot.stock_partition(
            joint, joint_graph.inputs, joint_graph.num_forward_outputs, joint_graph.static_inputs, is_prepared=True
        )
        started = time.perf_counter()
        stock = _lower_stock(joint, modules, joint_graph.num_forward_outputs, when_lowered)
        plan_seconds = time.perf_counter() - started
    # What no budget would need, and which values Inductor gives a buffer.
    stock_step = lowerer.lower(*stock.modules, hold_order=False)
    stock_look = Candidate(stock.plan, stock.modules, stock_step)
    stock_peak_bytes = stock_step.peak.peak_bytes
    allowance_bytes = budget_for(stock_peak_bytes).allowance_bytes

    if options.policy is None and stock_peak_bytes <= allowance_bytes:
        alone = (Ranked(stock.plan, stock_peak_bytes, stock_step.time_us),)
        fits = Choice(0, stock_peak_bytes, True, ((0, stock_peak_bytes),))
        return _planned(stock_look, stock, stock_step, alone, fits, plan_seconds)

    # The frontier, from the model; then the budget's choice among it, by exact peaks.
    started = time.perf_counter()
    graph = stock.lowered.graph
    materialised = materialised_ops(graph, stock.plan, stock_step)
    laid_out = inputs_laid_out(graph, stock_step.forward.program, joint_graph.num_forward_outputs)
    ranker = ranker_for(with_workspaces(graph, stock_step), stock.plan, materialised, stock_step.time_us, lowerer.spec, laid_out)
    patience = Patience(options.solver_seconds)
    with collection_paused():
        frontier = rank_plans(graph, stock.plan, ranker, options.policy, patience)
    plan_seconds += time.perf_counter() - started
    looks = Looks(joint, joint_graph.num_forward_outputs, stock.lowered, lowerer, ranker, frontier, stock_look)
    if not patience.is_over and is_short(options, allowance_bytes, looks):
        started, lowering_seconds = time.perf_counter(), lowerer.seconds
        looks = refined(looks, patience, partial(is_legal, graph))
        plan_seconds += time.perf_counter() - started - (lowerer.seconds - lowering_seconds)
    choice = _choose(looks.frontier, options, allowance_bytes, looks)
    started = time.perf_counter()
    # The bound is on the model's peaks.
    within_bytes = max(choice.peak_bytes, looks.estimated_peak(choice.index), allowance_bytes if is_budgeted(options) else 0)
    least_us = ranker.time_bound().time_us(within_bytes)
    plan_seconds += time.perf_counter() - started
    chosen = looks.candidates[choice.index]
    assert chosen.step.peak.peak_bytes == choice.peak_bytes, "what is handed out is what was chosen"
    planned = _planned(chosen, stock, stock_step, tuple(looks.frontier), choice, plan_seconds)
    smallest_bytes = None if one_policy(options.policy) else looks.smallest_peak_bytes
    return replace(planned, smallest_peak_bytes=smallest_bytes, least_time_us=least_us, ran_out_of_time=patience.is_over)


def _planned(
    chosen: Candidate, stock: _Cut, stock_step: DryStep, frontier: tuple[Ranked, ...], choice: Choice, plan_seconds: float
) -> Planned:
    return Planned(
        *chosen.modules,
        stock.lowered,
        chosen.plan,
        stock.plan,
        stock_step,
        chosen.step,
        frontier,
        choice,
        plan_seconds,
        stock.is_repaired,
    )


def _lower_stock(
    joint: fx.GraphModule, modules: aot.Partition, num_outputs: int, when_lowered: Callable[[Graph, Plan], None]
) -> _Cut:
    """The joint graph as operations and stock's cut of it as a plan, repaired if it is illegal."""
    lowered = lower_joint(joint, num_outputs)
    stock = plan_of_modules(lowered, "stock", *modules)
    when_lowered(lowered.graph, stock)
    check_graph(lowered.graph)
    if is_legal(lowered.graph, stock):
        return _Cut(lowered, stock, modules, False)
    # Stock may read a buffer in backward that was overwritten since; save what may not be computed again, keep the rest.
    stock = repaired(lowered.graph, stock)
    check_plan(lowered.graph, stock)
    return _Cut(lowered, stock, split_by_plan(joint, lowered, stock, num_outputs), True)


def replans_regions(options: Options) -> bool:
    """Whether the user's checkpoint regions are planned anew; without a budget or a policy they stay what they are."""
    return is_limited(options) and options.checkpoints == "replan"


def regions_note(options: Options) -> str:
    """What a record says of a graph with checkpoint regions."""
    return f"regions of torch.utils.checkpoint are {'planned anew' if replans_regions(options) else 'honoured'}"


def is_limited(options: Options) -> bool:
    """Whether a budget or a policy was asked for; otherwise the graph is Inductor's own."""
    return is_budgeted(options) or options.policy is not None


def is_budgeted(options: Options) -> bool:
    """Whether there is a number of bytes to keep."""
    return options.budget is not None or options.activation_budget is not None


def stock_only(joint_graph: JointGraph) -> aot.Partition:
    """Inductor's own partition, for a graph that cannot be planned."""
    return aot.stock_partition(
        joint_graph.module, joint_graph.inputs, joint_graph.num_forward_outputs, joint_graph.static_inputs
    )


def is_legal(graph: Graph, plan: Plan) -> bool:
    """Whether the checker accepts a plan."""
    try:
        check_plan(graph, plan)
    except PlanError:
        return False
    return True


def repaired(graph: Graph, plan: Plan) -> Plan:
    """A legal plan that saves what ``plan`` saves and whatever may not be computed again."""
    backward = [index for index in plan.backward if graph.ops[index].phase is Phase.BACKWARD]
    return plan_from_saved(graph, plan.name, saved_values(graph, plan), [0] * len(graph.ops), backward)


def plan_of_modules(lowered: Lowered, name: str, forward: fx.GraphModule, backward: fx.GraphModule) -> Plan:
    """The plan that a pair of modules cut from the joint graph executes: nodes keep their names through the cut."""
    calls = [[node for node in module.graph.nodes if node.op == "call_function"] for module in (forward, backward)]
    for node in (*calls[0], *calls[1]):
        if node.name not in lowered.index:
            raise UnsupportedGraph(str(node.target), f"the partition added {node.name}, which the joint graph does not have")
    passes = (tuple(lowered.index[node.name] for node in nodes) for nodes in calls)
    return Plan(name, *passes)


def ranker_for(
    graph: Graph,
    stock: Plan,
    materialised: Sequence[bool],
    stock_time_us: float,
    spec: DeviceSpec,
    laid_out: Mapping[int, int] = MappingProxyType({}),
) -> Ranker:
    """What gives plans of one graph the model's figures; ``laid_out`` as `Ranker` takes it."""
    again_us = recompute_times_us(graph, materialised, spec)
    write_us = saving_times_us(graph, materialised, spec)
    # The caller drops its outputs when forward returns, all but the loss: they are not part of the peak of backward.
    held = tuple(out for out in graph.forward_outputs if value_bytes(graph, [out]) <= _LOSS_BYTES)
    graph = replace(graph, forward_outputs=held)
    return Ranker(graph, stock, stock_time_us, materialised, again_us, write_us, laid_out)


def rank_plans(
    graph: Graph, stock: Plan, ranker: Ranker, policy: str | None, patience: Patience | None = None
) -> tuple[Ranked, ...]:
    """The plans of one graph from fastest to smallest, as the model sees them; with a named policy, stock's and that one.

    ``patience``: policies are always there, the planner's own plans as far as it goes.
    """
    situation = survey(graph, stock)
    name = one_policy(policy)
    if name is not None:
        named = [stock] if name == "stock" else [stock, named_plan(situation, name)]
        return tuple(ranker.rank(plan) for plan in named)
    problem = state_saving(graph, stock, situation.always_saved, ranker.again_us, ranker.write_us)
    policies = [ranker.rank(plan) for plan in candidate_plans(situation)]
    others = [ranker.rank(plan) for plan in (patience or Patience()).within(saving_plans(situation, problem))]
    return pareto(policies, others, partial(is_legal, graph))


def _choose(frontier: Sequence[Ranked], options: Options, allowance_bytes: int, looks: Looks) -> Choice:
    """The budget's choice, or the one a policy names."""
    policy, looked_at = options.policy, looks.exact_peaks()
    stock_peak_bytes = looked_at[0]
    if policy is None:
        afresh = looks.over(looks.frontier)
        choice = choose(len(frontier), allowance_bytes, looks, looked_at, afresh)
        looks.adopt(afresh, dict(choice.looked_at))
        return choice
    if policy == "smallest":
        smallest = last_resort(len(frontier), 0, looks, looked_at)
        return replace(smallest, fits=smallest.peak_bytes <= allowance_bytes)
    index = int(policy.removeprefix("index:")) if policy.startswith("index:") else len(frontier) - 1
    if index >= len(frontier):
        count = len(frontier)
        raise OptionError(f"policy {policy!r} was wanted, but the frontier of this graph has {count} plans, from index:0 on")
    if not index:
        return Choice(0, stock_peak_bytes, stock_peak_bytes <= allowance_bytes, ((0, stock_peak_bytes),))
    limit_bytes = allowance_bytes / first_correction(looks, stock_peak_bytes) if is_budgeted(options) else 0
    peak_bytes = looks.exact_peak(index, limit_bytes)
    if limit_bytes and peak_bytes > allowance_bytes:
        peak_bytes = looks.exact_peak(index, 0)
    return Choice(index, peak_bytes, peak_bytes <= allowance_bytes, ((index, peak_bytes),))
