"""The way of one training graph, as a list of steps: joint graph in, forward and backward modules out, with a record.

    prepare -> stock's cut -> lower to IR -> stock lowered dry -> frontier -> choose (dry lowerings) -> rewrite -> record

Nothing here rewrites or solves; each step is a function of a lower floor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import NamedTuple, Protocol

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
from graphckpt.solve.demand import plan_from_saved
from graphckpt.solve.frontier import Choice, ExactPeak, Ranked, Ranker, choose, last_resort, pareto
from graphckpt.solve.order import values_to_hold
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
    """The chosen plan as modules, with everything the record tells about the choice. ``least_time_us``: no plan within the budget
    takes less by the model (without a budget: no plan of this peak); None if stock's own plan was kept without asking."""

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
    least_time_us: float | None

    @property
    def holds_order(self) -> bool:
        """Whether Inductor must keep the modules' order: always, but for stock's own plan."""
        return self.choice.index != 0


class Lowerer(Protocol):
    """What tells the exact peak of a pair of modules: Inductor's dry lowering, or node-by-node execution."""

    runs: int
    seconds: float

    @property
    def spec(self) -> DeviceSpec:
        """The device that modelled times are for."""

    def lower(self, forward: fx.GraphModule, backward: fx.GraphModule, *, hold_order: bool) -> DryStep:
        """The step that executes both modules, in their order if it is to be held."""


class _Candidate(NamedTuple):
    plan: Plan
    modules: aot.Partition
    step: DryStep


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
    outputs = joint_graph.num_forward_outputs
    # Stock's duplicates and dead code go first; the user's checkpoint regions go if they are to be planned anew.
    joint = aot.prepare_joint(joint_graph.module, drop_checkpoint_tags=replans_regions(options))
    # Stock's own cut is always a candidate.
    modules = aot.stock_partition(joint, joint_graph.inputs, outputs, joint_graph.static_inputs, is_prepared=True)
    started = time.perf_counter()
    lowered = lower_joint(joint, outputs)
    stock = plan_of_modules(lowered, "stock", *modules)
    when_lowered(lowered.graph, stock)
    check_graph(lowered.graph)
    repairs = not is_legal(lowered.graph, stock)
    if repairs:
        # Stock may read a buffer in backward that was overwritten since; save what may not be computed again, keep the rest.
        stock = repaired(lowered.graph, stock)
        check_plan(lowered.graph, stock)
        modules = split_by_plan(joint, lowered, stock, outputs)
    plan_seconds = time.perf_counter() - started
    # What no budget would need, and which values Inductor gives a buffer.
    candidates = {0: _Candidate(stock, modules, lowerer.lower(*modules, hold_order=False))}
    stock_step = candidates[0].step
    allowance_bytes = budget_for(stock_step.peak.peak_bytes).allowance_bytes

    if options.policy is None and stock_step.peak.peak_bytes <= allowance_bytes:
        alone = (Ranked(stock, stock_step.peak.peak_bytes, stock_step.time_us),)
        fits = Choice(0, stock_step.peak.peak_bytes, True, ((0, stock_step.peak.peak_bytes),))
        return Planned(*modules, lowered, stock, stock, stock_step, stock_step, alone, fits, plan_seconds, repairs, None)

    # The frontier, from the model; then the budget's choice among it, by exact peaks.
    started = time.perf_counter()
    materialised = materialised_ops(lowered.graph, stock, stock_step)
    ranker = ranker_for(lowered.graph, stock, materialised, stock_step.time_us, lowerer.spec)
    frontier = rank_plans(lowered.graph, stock, ranker, options.policy)
    plan_seconds += time.perf_counter() - started
    # Estimates that are too small make room look larger than it is.
    trust = min(1.0, frontier[0].estimated_peak_bytes / max(1, stock_step.peak.peak_bytes))

    def exact_peak(index: int, may_spend: bool) -> int:
        # Fusions over a distance are what may be bought; a plan that is asked for by its name is to be small.
        limit_bytes = trust * allowance_bytes if may_spend and is_budgeted(options) else 0
        plan = frontier[index].plan
        plan = replace(plan, hold=values_to_hold(lowered.graph, plan))
        check_plan(lowered.graph, plan)
        split = split_by_plan(joint, lowered, plan, outputs, ranker.room_bytes(plan, limit_bytes))
        candidates[index] = _Candidate(plan, split, lowerer.lower(*split, hold_order=True))
        return candidates[index].step.peak.peak_bytes

    choice = _choose(frontier, options.policy, allowance_bytes, exact_peak, stock_step.peak.peak_bytes)
    chosen = candidates[choice.index]
    started = time.perf_counter()
    least_us = ranker.time_bound().time_us(allowance_bytes if is_budgeted(options) else choice.peak_bytes)
    plan_seconds += time.perf_counter() - started
    return Planned(
        *chosen.modules, lowered, chosen.plan, stock, stock_step, chosen.step, frontier, choice, plan_seconds, repairs, least_us
    )


def replans_regions(options: Options) -> bool:
    """Whether the user's checkpoint regions are planned anew; without a budget or a policy they stay what they are."""
    return is_limited(options) and options.checkpoints == "replan"


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
    graph: Graph, stock: Plan, materialised: Sequence[bool], stock_time_us: float, spec: DeviceSpec
) -> Ranker:
    """What gives plans of one graph the model's figures."""
    again_us = recompute_times_us(graph, materialised, spec)
    write_us = saving_times_us(graph, materialised, spec)
    # The caller drops its outputs when forward returns, all but the loss: they are not part of the peak of backward.
    held = tuple(out for out in graph.forward_outputs if value_bytes(graph, [out]) <= _LOSS_BYTES)
    return Ranker(replace(graph, forward_outputs=held), stock, stock_time_us, materialised, again_us, write_us)


def rank_plans(graph: Graph, stock: Plan, ranker: Ranker, policy: str | None) -> tuple[Ranked, ...]:
    """The plans of one graph from fastest to smallest, as the model sees them; with a named policy, stock's and that one."""
    situation = survey(graph, stock)
    if policy is None or policy == "smallest" or policy.startswith("index:"):
        problem = state_saving(graph, stock, situation.always_saved, ranker.again_us, ranker.write_us)
        plans = chain(candidate_plans(situation), saving_plans(situation, problem))
        return pareto([ranker.rank(plan) for plan in plans], partial(is_legal, graph))
    named = [stock] if policy == "stock" else [stock, named_plan(situation, policy)]
    return tuple(ranker.rank(plan) for plan in named)


def materialised_ops(graph: Graph, stock: Plan, step: DryStep) -> tuple[bool, ...]:
    """Which values get a buffer of their own, read from stock's dry lowering; what stock never computes is taken to get one."""
    in_forward, in_backward = frozenset(stock.forward), frozenset(stock.backward)
    flags = []
    for index, op in enumerate(graph.ops):
        if not op.fusible:
            flags.append(True)
        elif index in in_forward:
            flags.append(op.name in step.forward.materialised)
        else:
            flags.append(index not in in_backward or op.name in step.backward.materialised)
    return tuple(flags)


def _choose(
    frontier: Sequence[Ranked],
    policy: str | None,
    allowance_bytes: int,
    exact_peak: ExactPeak,
    stock_peak_bytes: int,
) -> Choice:
    """The budget's choice, or the one a policy names."""
    if policy is None:
        return choose(frontier, allowance_bytes, exact_peak, stock_peak_bytes)
    if policy == "smallest":
        smallest = last_resort(frontier, 0, exact_peak, {0: stock_peak_bytes})
        return replace(smallest, fits=smallest.peak_bytes <= allowance_bytes)
    index = int(policy.removeprefix("index:")) if policy.startswith("index:") else len(frontier) - 1
    if index >= len(frontier):
        count = len(frontier)
        raise OptionError(f"policy {policy!r} was wanted, but the frontier of this graph has {count} plans, from index:0 on")
    peak_bytes = exact_peak(index, True) if index else stock_peak_bytes
    return Choice(index, peak_bytes, peak_bytes <= allowance_bytes, ((index, peak_bytes),))
