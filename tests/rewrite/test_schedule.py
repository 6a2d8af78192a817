"""Whatever a plan recomputes, outputs, gradients and written inputs are those of the joint graph, bit for bit.

    joint graph --stock--> fw, bw --run--> (outputs, gradients, inputs) == the joint graph, run from top to bottom
                --plan---> fw, bw --run--> the same

Stock is not an oracle: for a buffer that is read and then written to, its cut reads the buffer again in backward.
"""

import random
from collections.abc import Callable

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from graphckpt.compat import aot
from graphckpt.compat.ordering import ROOM_BYTES
from graphckpt.errors import PlanError
from graphckpt.ir.check import check_graph, check_plan
from graphckpt.ir.graph import OpKind, Phase
from graphckpt.ir.plan import Plan, recomputed_values
from graphckpt.rewrite.schedule import split_by_plan, traced_name
from graphckpt.solve.demand import plan_from_saved
from graphckpt.solve.policies import candidate_plans, checkpoint_first, survey
from graphckpt.solve.segments import cut_at
from graphckpt.trace.lower import lower_joint
from tests.joint import Joint, assert_same, captured, run_joint, run_split
from tests.rewrite.models import MODELS, Linear, Stack

STOCK_READS_WRITTEN = ("buffer", "buffer through a view")
CUTS_BY_STOCK = [name for name in MODELS if name not in STOCK_READS_WRITTEN]


def _split(joint: Joint, plan: Plan) -> aot.Partition:
    return split_by_plan(joint.module, joint.lowered, plan, joint.num_outputs)


def _policies(joint: Joint) -> list[Plan]:
    """Every candidate but stock's own plan, which is the first."""
    return list(candidate_plans(joint.situation))[1:]


def _random_plan(joint: Joint, rng: random.Random) -> Plan:
    """Any forward values saved, the forward order cut anywhere."""
    graph, order = joint.lowered.graph, joint.situation.order
    share = rng.choice([0.0, 0.2, 0.6])
    saved = {
        index
        for index, op in enumerate(graph.ops)
        if op.phase is Phase.FORWARD and op.kind in (OpKind.COMPUTE, OpKind.ALIAS) and rng.random() < share
    }
    cuts = sorted(rng.sample(range(len(order)), min(len(order), rng.randint(0, 3))))
    of_op = cut_at(graph, order, cuts).of_op
    return plan_from_saved(graph, "random", saved, of_op, joint.situation.backward_order)


def test_nodes_know_the_room_at_their_step() -> None:
    """A plan that saves nothing, with room for 100 bytes at its first step, 101 at the next, and so on."""
    joint = captured("mlp")
    plan = plan_from_saved(joint.lowered.graph, "p", (), [0] * len(joint.lowered.graph.ops), joint.situation.backward_order)
    room = range(100, 100 + len(plan.forward) + len(plan.backward))
    modules = split_by_plan(joint.module, joint.lowered, plan, joint.num_outputs, room)
    assert recomputed_values(joint.lowered.graph, plan)
    for module, steps, first in ((modules[0], plan.forward, 100), (modules[1], plan.backward, 100 + len(plan.forward))):
        noted = {node.name: node.meta.get(ROOM_BYTES) for node in module.graph.nodes}
        seen = set(plan.forward) if module is modules[1] else set[int]()
        for place, step in enumerate(steps):
            name = joint.lowered.graph.ops[step].name
            assert noted[f"{name}_again" if step in seen else name] == first + place
        assert {noted[node.name] for node in module.graph.find_nodes(op="placeholder")} == {None}


def test_stock_is_no_oracle_for_a_buffer_that_is_read_and_then_written_to() -> None:
    """scale -> exp -> mul (saved by us, read again by stock); scale <- copy_."""
    joint = captured("buffer")
    with pytest.raises(PlanError, match=r"reads an input that is mutated.* computes it twice"):
        check_plan(joint.lowered.graph, joint.situation.stock)
    with pytest.raises(AssertionError, match="gradients"):
        assert_same(run_split(joint, *joint.stock_modules), run_joint(joint))


@pytest.mark.parametrize("name", CUTS_BY_STOCK)
def test_stocks_cut_and_stocks_plan_rewritten(name: str) -> None:
    """The harness agrees with torch's own cut; our rewrite of stock's plan computes the same."""
    joint, wanted = captured(name), run_joint(captured(name))
    check_plan(joint.lowered.graph, joint.situation.stock)
    assert_same(run_split(joint, *joint.stock_modules), wanted)
    assert_same(run_split(joint, *_split(joint, joint.situation.stock)), wanted)


@pytest.mark.parametrize("name", MODELS)
def test_every_policy_computes_the_same(name: str) -> None:
    """All candidate plans of one model; a model without one would test nothing."""
    joint, wanted = captured(name), run_joint(captured(name))
    check_graph(joint.lowered.graph)
    plans = _policies(joint)
    assert plans
    for plan in plans:
        check_plan(joint.lowered.graph, plan)
        assert_same(run_split(joint, *_split(joint, plan)), wanted)


@pytest.mark.parametrize("name", MODELS)
def test_random_plans_compute_the_same(name: str) -> None:
    """Saved values and cuts drawn at random; a few draws recompute something."""
    joint, wanted, rng = captured(name), run_joint(captured(name)), random.Random(1)
    recomputed = 0
    for _ in range(8):
        plan = _random_plan(joint, rng)
        check_plan(joint.lowered.graph, plan)
        assert_same(run_split(joint, *_split(joint, plan)), wanted)
        recomputed += bool(recomputed_values(joint.lowered.graph, plan))
    assert recomputed or name in ("sorted gradient",)


@pytest.mark.parametrize("name", ["mlp", "attention", "convolution", "dropout"])
def test_modules_stand_in_the_plans_order(name: str) -> None:
    """Forward and backward list the plan's steps; elements of tuples may move up to their tuple."""
    joint = captured(name)
    for plan in _policies(joint):
        forward, backward = _split(joint, plan)
        assert _order(joint, forward) == [step for step in plan.forward if _is_placed(joint, step)]
        assert _order(joint, backward) == [step for step in plan.backward if _is_placed(joint, step)]


def _is_placed(joint: Joint, step: int) -> bool:
    return "getitem" not in joint.lowered.graph.ops[step].target


def _order(joint: Joint, module: torch.fx.GraphModule) -> list[int]:
    calls = [node for node in module.graph.nodes if node.op == "call_function"]
    steps = [joint.lowered.index[node.name.partition("_again")[0]] for node in calls]
    assert [joint.lowered.nodes[step].target for step in steps] == [node.target for node in calls]
    return [step for step in steps if _is_placed(joint, step)]


def test_copies_are_named_again() -> None:
    """Two segments of a four-layer chain: what backward computes a second time, and only that, is named so."""
    joint = captured("mlp")
    plan = next(plan for plan in _policies(joint) if plan.name == "every_2")
    forward, backward = _split(joint, plan)
    again = [node.name for node in backward.graph.nodes if "_again" in node.name]
    first = set(plan.forward)
    assert len(again) == sum(step in first or step in plan.backward[:k] for k, step in enumerate(plan.backward))
    assert not [node.name for node in forward.graph.nodes if "_again" in node.name]
    for module in (forward, backward):
        names = [node.name for node in module.graph.nodes]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["mul_3", "view", "again"])
def test_what_is_added_to_a_name_can_be_taken_off(name: str) -> None:
    """Of the first copy, of a third, and of their fences."""
    for added in ("", "_again", "_again_2", "_held", "_again_held", "_again_2_held"):
        assert traced_name(name + added) == name


@pytest.mark.parametrize("name", ["mlp", "convolution", "several results"])
def test_the_joint_graph_is_not_touched(name: str) -> None:
    """Text and node metadata before and after the rewrite of every candidate."""
    joint = captured(name)
    before = str(joint.module.graph), [(node.name, dict(node.meta)) for node in joint.module.graph.nodes]
    for plan in _policies(joint):
        _split(joint, plan)
    assert before == (str(joint.module.graph), [(node.name, dict(node.meta)) for node in joint.module.graph.nodes])


def test_a_forward_copy_is_what_backward_reads() -> None:
    """An operation listed twice in forward: its second result is the one that is saved."""
    joint = captured("shared weight")
    stock, graph = joint.situation.stock, joint.lowered.graph
    tanh = joint.lowered.index["tanh"]
    plan = Plan("twice", (*stock.forward, tanh), stock.backward)
    check_plan(graph, plan)
    forward, backward = _split(joint, plan)
    assert any(node.name == "tanh_again" for node in forward.graph.nodes)
    assert_same(run_split(joint, forward, backward), run_joint(joint))


def _full_checkpointing(joint: torch.fx.GraphModule, _: object, *, num_fwd_outputs: int, **__: object) -> aot.Partition:
    prepared = aot.prepare_joint(joint, drop_checkpoint_tags=False)
    lowered = lower_joint(prepared, num_fwd_outputs)
    forward = tuple(i for i, op in enumerate(lowered.graph.ops) if op.kind not in (OpKind.INPUT, OpKind.TANGENT))
    late = tuple(i for i in forward if lowered.graph.ops[i].phase is Phase.BACKWARD)
    everything = Plan("keep", tuple(i for i in forward if i not in late), late)
    situation = survey(lowered.graph, everything)
    segments = cut_at(lowered.graph, situation.order, situation.layers)
    plan = checkpoint_first(situation, "full", segments, segments.count)
    assert recomputed_values(lowered.graph, plan)
    return split_by_plan(prepared, lowered, plan, num_fwd_outputs)


def test_autograd_runs_the_two_modules() -> None:
    """Eager against AOTAutograd with our split and nothing compiled: the same gradients, from the runtime's own conventions."""
    model, x = Stack(*(Linear() for _ in range(3))), torch.rand(4, 8)

    def keep(module: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        return make_boxed_func(module.forward)

    backend = aot_autograd(fw_compiler=keep, partition_fn=_full_checkpointing)
    model(x).backward()
    wanted = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    torch.compile(model, backend=backend)(x).backward()
    torch.compiler.reset()
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        assert torch.equal(parameter.grad, gradient)
