"""Random legal graphs and plans, for tests that compare two ways to compute the same."""

from __future__ import annotations

import random
from typing import NamedTuple

from graphckpt.ir.graph import Graph, Op, OpKind, Origin, Phase, Storage
from graphckpt.ir.plan import Plan


class Case(NamedTuple):
    """A graph, a legal plan for it, and which operations are materialised."""

    graph: Graph
    plan: Plan
    materialised: tuple[bool, ...]


def random_case(seed: int, op_count: int = 30) -> Case:
    """Aliases, several results, shared and external storages, tangents, virtual and pinned operations, repeats."""
    rng = random.Random(seed)
    graph = random_graph(rng, rng.randint(2, op_count))
    plan = random_plan(rng, graph)
    materialised = tuple(not (op.fusible and rng.random() < 0.5) for op in graph.ops)
    return Case(graph, plan, materialised)


def random_graph(rng: random.Random, op_count: int) -> Graph:
    """A graph of this many operations that `check_graph` accepts."""
    ops: list[Op] = []
    storages: list[Storage] = []
    workspaces = random.Random(op_count)
    tangent_from = rng.randint(1, op_count)
    for index in range(op_count):
        kind = _kind(rng, index, tangent_from)
        reads = kind in (OpKind.COMPUTE, OpKind.ALIAS)
        inputs = tuple(rng.choices(range(max(0, index - 8), index), k=rng.randint(1, 3))) if reads else ()
        late = kind is OpKind.TANGENT or any(ops[source].phase is Phase.BACKWARD for source in inputs)
        if kind is OpKind.ALIAS:
            there = sorted({s for source in inputs for s in ops[source].storages})
            own = tuple(rng.sample(there, rng.randint(min(1, len(there)), min(2, len(there)))))
        else:
            own = _new_storages(rng, kind, storages)
        if kind is OpKind.TANGENT and rng.random() < 0.3:
            own += tuple(s for op in ops if op.kind is OpKind.TANGENT for s in op.storages if s not in own)[:1]
        ops.append(
            Op(
                name=f"node_{index}",
                target="aten.any",
                kind=kind,
                phase=Phase.BACKWARD if late else Phase.FORWARD,
                inputs=inputs,
                storages=own,
                flops=rng.choice([0, 0, 123]),
                pinned="random" if reads and (late or index < tangent_from) and rng.random() < 0.1 else "",
                fusible=kind is OpKind.COMPUTE and rng.random() < 0.6,
                tag="",
                origin=Origin("", "", (), ""),
                workspace_bytes=workspaces.choice([0, 0, 8, 64]) if kind is OpKind.COMPUTE else 0,
            )
        )
    early = [index for index, op in enumerate(ops) if op.phase is Phase.FORWARD]
    forward_outputs = rng.sample(early, min(len(early), rng.randint(0, 3)))
    backward_outputs = rng.sample(range(op_count), min(op_count, rng.randint(0, 3)))
    return Graph(tuple(ops), tuple(storages), tuple(forward_outputs), tuple(backward_outputs))


def random_plan(rng: random.Random, graph: Graph) -> Plan:
    """A plan that `check_plan` accepts: some operations late, some again, some never."""
    there = {index for index, op in enumerate(graph.ops) if op.kind is OpKind.INPUT}
    forward: list[int] = []
    for index, op in enumerate(graph.ops):
        wanted = op.pinned or index in graph.forward_outputs or rng.random() < 0.7
        if op.phase is Phase.FORWARD and wanted:
            _emit(rng, graph, index, there, forward, again=0.1)
    there.update(index for index, op in enumerate(graph.ops) if op.kind is OpKind.TANGENT)
    backward: list[int] = []
    for index, op in enumerate(graph.ops):
        wanted = op.pinned or rng.random() < 0.8
        if index in graph.backward_outputs or (op.phase is Phase.BACKWARD and wanted):
            _emit(rng, graph, index, there, backward, again=0.3)
    return Plan("random", tuple(forward), tuple(backward))


def _kind(rng: random.Random, index: int, tangent_from: int) -> OpKind:
    if index == 0:
        return OpKind.INPUT
    if index == tangent_from or (index > tangent_from and rng.random() < 0.1):
        return OpKind.TANGENT
    return rng.choices([OpKind.INPUT, OpKind.COMPUTE, OpKind.ALIAS], weights=[1, 7, 3])[0]


def _new_storages(rng: random.Random, kind: OpKind, storages: list[Storage]) -> tuple[int, ...]:
    first = len(storages)
    for _ in range(rng.choice([0, 1, 1, 1, 1, 2, 3])):
        external = kind is OpKind.INPUT or rng.random() < 0.1
        storages.append(Storage(rng.choice([0, 4, 4, 4, 16, 100]), external, shared=rng.random() < 0.1))
    return tuple(range(first, len(storages)))


def _emit(rng: random.Random, graph: Graph, index: int, there: set[int], steps: list[int], *, again: float) -> None:
    op = graph.ops[index]
    repeat = not op.pinned and rng.random() < again
    if op.kind in (OpKind.INPUT, OpKind.TANGENT) or (index in there and not repeat):
        return
    for source in op.inputs:
        _emit(rng, graph, source, there, steps, again=again)
    if index in there and not repeat:
        return
    there.add(index)
    steps.append(index)
