"""What is legal. Both checkers take linear time and raise `PlanError` naming the operation, what must hold and what came.

Not checked: that sizes, flops and ``fusible`` are true of the traced program, and that a plan fits a budget.
"""

from __future__ import annotations

from typing import NoReturn

from graphckpt.errors import PlanError
from graphckpt.ir.graph import Graph, Op, OpKind, Phase
from graphckpt.ir.plan import Plan

# Reasons of `Op.pinned` that order operations among each other; the others (random, ties) only forbid a second computation.
_ORDERED = {
    "mutates its argument": "memory",
    "reads an input that is mutated": "memory",
    "collective": "collectives",
    "higher-order operator": "effects",
    "effects unknown": "effects",
}


def check_graph(graph: Graph) -> None:
    """Inputs come before readers, storages exist and have one owner, aliases live where inputs live, phases follow tangents.

    A pinned operation may be of the backward phase without depending on a tangent: some effects are tied to it.
    """
    for index, storage in enumerate(graph.storages):
        if storage.size_bytes < 0:
            raise PlanError(f"storage s{index}: wanted 0 bytes or more, came {storage.size_bytes}")
    owners: dict[int, int] = {}
    for index, op in enumerate(graph.ops):
        _check_references(graph, index, op)
        _check_storages(graph, index, op, owners)
        _check_phase(graph, index, op)
    for phase, outputs in (("forward", graph.forward_outputs), ("backward", graph.backward_outputs)):
        for index in outputs:
            if not 0 <= index < len(graph.ops):
                raise PlanError(f"{phase}_outputs: wanted operations 0 to {len(graph.ops) - 1}, came %{index}")
    for index in graph.forward_outputs:
        if graph.ops[index].phase is Phase.BACKWARD:
            _refuse(graph, index, "leaves the forward pass, so it may not depend on a tangent")


def check_plan(graph: Graph, plan: Plan) -> None:
    """Every value is there when it is read, pinned operations run at most once, all outputs are computed. What has an effect runs
    exactly once, in its pass, and in order among its like.

    The graph itself is taken to be legal.
    """
    there = [op.kind is OpKind.INPUT for op in graph.ops]
    lanes: dict[str, int] = {}
    for index in plan.forward:
        _check_listed(graph, plan, index)
        if graph.ops[index].phase is Phase.BACKWARD:
            _refuse(graph, index, f"depends on a tangent, but plan {plan.name!r} computes it in the forward pass")
        _check_step(graph, plan, index, there, lanes)
    for index in graph.forward_outputs:
        if not there[index]:
            _refuse(graph, index, f"leaves the forward pass, but plan {plan.name!r} does not compute it there")
    for index, op in enumerate(graph.ops):
        if op.kind is OpKind.TANGENT:
            there[index] = True
    for index in plan.backward:
        _check_listed(graph, plan, index)
        _check_step(graph, plan, index, there, lanes)
    for index in graph.backward_outputs:
        if not there[index]:
            _refuse(graph, index, f"leaves the backward pass, but plan {plan.name!r} never computes it")
    ran = {Phase.FORWARD: frozenset(plan.forward), Phase.BACKWARD: frozenset(plan.backward)}
    for index, op in enumerate(graph.ops):
        if op.has_effect and op.kind is OpKind.COMPUTE and index not in ran[op.phase]:
            _refuse(graph, index, f"is pinned ({op.pinned}), but plan {plan.name!r} does not run it in the {op.phase.value} pass")
    for index in plan.hold:
        _check_listed(graph, plan, index)
        if not there[index] or graph.ops[index].kind is not OpKind.COMPUTE:
            _refuse(graph, index, f"is held by plan {plan.name!r}, wanted something that it computes")


def _check_references(graph: Graph, index: int, op: Op) -> None:
    for source in op.inputs:
        if not 0 <= source < index:
            _refuse(graph, index, f"reads %{source}, but an operation reads only operations with smaller numbers")
    for storage in op.storages:
        if not 0 <= storage < len(graph.storages):
            _refuse(graph, index, f"lives in s{storage}, but there are storages s0 to s{len(graph.storages) - 1}")
    if len(set(op.storages)) != len(op.storages):
        _refuse(graph, index, f"names a storage twice: {op.storages}")
    if op.flops < 0:
        _refuse(graph, index, f"has {op.flops} flops; wanted 0 or more")
    if op.workspace_bytes < 0:
        _refuse(graph, index, f"has a workspace of {op.workspace_bytes} bytes; wanted 0 or more")
    if op.workspace_bytes and op.kind is not OpKind.COMPUTE:
        _refuse(graph, index, f"has a workspace of {op.workspace_bytes} bytes, but {op.kind.value} runs no kernel")


def _check_storages(graph: Graph, index: int, op: Op, owners: dict[int, int]) -> None:
    if op.kind is OpKind.ALIAS:
        inputs = {storage for source in op.inputs for storage in graph.ops[source].storages}
        for storage in op.storages:
            if storage not in inputs:
                _refuse(graph, index, f"is an alias in s{storage}, but none of its inputs lives there")
        return
    for storage in op.storages:
        if graph.storages[storage].external:
            continue
        if op.kind is OpKind.INPUT:
            _refuse(graph, index, f"is an input, so s{storage} must be external: it is there before the step")
        owner = owners.setdefault(storage, index)
        if owner != index and (op.kind is OpKind.COMPUTE or graph.ops[owner].kind is OpKind.COMPUTE):
            _refuse(graph, index, f"allocates s{storage}, but so does {graph.ops[owner].name!r} (%{owner})")


def _check_phase(graph: Graph, index: int, op: Op) -> None:
    if op.kind in (OpKind.INPUT, OpKind.TANGENT):
        if op.inputs:
            _refuse(graph, index, f"is of kind {op.kind.value}, so it may not read anything, but reads {op.inputs}")
        wanted = Phase.FORWARD if op.kind is OpKind.INPUT else Phase.BACKWARD
    else:
        tied = bool(op.pinned) and op.phase is Phase.BACKWARD
        late = tied or any(graph.ops[source].phase is Phase.BACKWARD for source in op.inputs)
        wanted = Phase.BACKWARD if late else Phase.FORWARD
    if op.phase is not wanted:
        why = "it depends on a tangent" if wanted is Phase.BACKWARD else "it depends on no tangent"
        _refuse(graph, index, f"is of phase {op.phase.value}, wanted {wanted.value}: {why}")


def _check_listed(graph: Graph, plan: Plan, index: int) -> None:
    if not 0 <= index < len(graph.ops):
        raise PlanError(f"plan {plan.name!r}: wanted operations 0 to {len(graph.ops) - 1}, came %{index}")
    op = graph.ops[index]
    if op.kind in (OpKind.INPUT, OpKind.TANGENT):
        _refuse(graph, index, f"is of kind {op.kind.value}, so never computed, but plan {plan.name!r} lists it")


def _check_step(graph: Graph, plan: Plan, index: int, there: list[bool], lanes: dict[str, int]) -> None:
    """Mark one operation as computed; ``lanes`` holds the last operation of each order that must be kept."""
    op = graph.ops[index]
    for source in op.inputs:
        if not there[source]:
            missing = f"{graph.ops[source].name!r} (%{source})"
            _refuse(graph, index, f"reads {missing}, which plan {plan.name!r} has not computed yet")
    if op.pinned:
        if there[index]:
            _refuse(graph, index, f"is pinned ({op.pinned}), but plan {plan.name!r} computes it twice")
        lane = _ORDERED.get(op.pinned, "")
        last = lanes.get(lane, -1)
        if lane and index < last:
            before = f"{graph.ops[last].name!r} (%{last})"
            _refuse(
                graph, index, f"is pinned ({op.pinned}) and comes before {before}, but plan {plan.name!r} swaps them"
            )
        lanes[lane] = index
    there[index] = True


def _refuse(graph: Graph, index: int, reason: str) -> NoReturn:
    raise PlanError(f"{graph.ops[index].name!r} (%{index}, {graph.ops[index].target}) {reason}")
