"""Lowering of the joint graph to `ir.graph.Graph`, with the way back.

What enters: a prepared joint graph (``compat.aot.prepare_joint``). What leaves: the torch-free graph, and for each of its
operations the node it stands for. Storages are told apart as the trace sees them: a call that is no view has results of its own.

Not guaranteed: sizes under dynamic shapes are those of the example that was traced.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field, replace

import torch
from torch import fx

from graphckpt.compat import aot
from graphckpt.compat.fake import size_hint, tensor_bytes
from graphckpt.ir.graph import Graph, Op, OpKind, Origin, Phase, Storage
from graphckpt.trace import facts

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


@dataclass(frozen=True, slots=True)
class Lowered:
    """``nodes[i]`` is what operation ``i`` of ``graph`` was lowered from; ``index`` is the inverse, by node name."""

    graph: Graph
    nodes: tuple[fx.Node, ...]
    index: dict[str, int]


@dataclass(slots=True)
class _Builder:
    """Grows the graph: for each node its number, and the storage of each element of its value."""

    ops: list[Op] = field(default_factory=list)
    storages: list[Storage] = field(default_factory=list)
    nodes: list[fx.Node] = field(default_factory=list)
    number: dict[fx.Node, int] = field(default_factory=dict)
    elements: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)

    def allocate(self, value: object, *, external: bool) -> tuple[int, ...]:
        """A storage for each tensor of a value; -1 keeps the place of what is no tensor."""
        if isinstance(value, torch.Tensor):
            self.storages.append(Storage(tensor_bytes(value), external))
            return (len(self.storages) - 1,)
        if isinstance(value, (tuple, list)):
            return tuple(index for item in value for index in (self.allocate(item, external=external) or (-1,)))
        return ()


def lower_joint(joint: fx.GraphModule, num_forward_outputs: int) -> Lowered:
    """Lower a joint graph. Nodes keep their order, so operation numbers are topological."""
    builder = _Builder()
    mutated = set(facts.mutated_inputs(joint.graph))
    for node in joint.graph.nodes:
        if node.op != "output":
            _lower_node(builder, node, mutated)
    results = aot.joint_outputs(joint, num_forward_outputs)
    returned, gradients = (
        tuple(builder.number[out] for out in outs if isinstance(out, fx.Node)) for outs in (results.forward, results.backward)
    )
    tangents = (index for index, op in enumerate(builder.ops) if op.kind is OpKind.TANGENT)
    shared = {storage for index in (*returned, *tangents) for storage in builder.ops[index].storages}
    storages = tuple(replace(storage, shared=number in shared) for number, storage in enumerate(builder.storages))
    graph = Graph(tuple(builder.ops), storages, returned, gradients)
    return Lowered(graph, tuple(builder.nodes), {node.name: i for i, node in enumerate(builder.nodes)})


def _lower_node(builder: _Builder, node: fx.Node, mutated: set[fx.Node]) -> None:
    """Lower one node. ``mutated``: inputs that are written to, and the views of them found so far."""
    inputs = tuple(builder.number[source] for source in node.all_input_nodes)
    kind = _kind(node)
    value = aot.fake_value(node)
    call = node.op == "call_function"
    if kind is OpKind.ALIAS:
        elements = _alias_elements(builder, node)
    elif call and facts.written_inputs(node):
        elements = builder.elements[facts.written_inputs(node)[0]]
    else:
        elements = builder.allocate(value, external=kind is OpKind.INPUT)
    pinned = facts.why_pinned(node) if call else ""
    if call and any(source in mutated for source in node.all_input_nodes):
        if kind is OpKind.ALIAS:
            mutated.add(node)
        else:
            pinned = pinned or "reads an input that is mutated"
    late = kind is OpKind.TANGENT or aot.runs_only_in(node) == "backward"
    late = late or any(builder.ops[i].phase is Phase.BACKWARD for i in inputs)
    builder.number[node] = len(builder.ops)
    builder.elements[node] = elements
    builder.nodes.append(node)
    builder.ops.append(
        Op(
            name=node.name,
            target=str(node.target) if call else node.op,
            kind=kind,
            phase=Phase.BACKWARD if late else Phase.FORWARD,
            inputs=inputs,
            storages=tuple(dict.fromkeys(index for index in elements if index >= 0)),
            flops=facts.count_flops(node) if call else 0,
            pinned=pinned,
            fusible=call and facts.is_fusible(node),
            tag=aot.checkpoint_tag(node),
            origin=_origin(node, value),
        )
    )


def _kind(node: fx.Node) -> OpKind:
    if node.op == "call_function":
        return OpKind.ALIAS if facts.is_alias(node) else OpKind.COMPUTE
    return OpKind.TANGENT if aot.is_tangent(node) else OpKind.INPUT


def _alias_elements(builder: _Builder, node: fx.Node) -> tuple[int, ...]:
    if aot.is_symbolic(node) or not node.all_input_nodes:
        return ()
    base = node.all_input_nodes[0]
    elements = builder.elements[base]
    if node.target is operator.getitem and len(elements) > 1:
        position = node.args[1]
        if not isinstance(position, int):
            return elements
        return (elements[position],) if elements[position] >= 0 else ()
    return elements


def _origin(node: fx.Node, value: object) -> Origin:
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack") or {}
    module = next(reversed(stack.values()))[0] if stack else ""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    source = f"{frames[-1][0].rsplit('/', 1)[-1]}:{frames[-1][1]}" if frames else ""
    first = value[0] if isinstance(value, (tuple, list)) and value else value
    if not isinstance(first, torch.Tensor):
        return Origin(_short_module(module), source, (), "")
    shape = tuple(size_hint(size) for size in first.shape)
    return Origin(_short_module(module), source, shape, str(first.dtype).removeprefix("torch."))


def _short_module(path: str) -> str:
    """``L['self']._modules['model'].layers[0]`` as ``model.layers.0``."""
    path = re.sub(r"\._modules\['([^']+)'\]", r".\1", path)
    path = re.sub(r"\['?([^'\]]+)'?\]", r".\1", path)
    return re.sub(r"^L\.(self|fn|mod|model)\.?", "", path).replace("._orig_mod", "").strip(".")
