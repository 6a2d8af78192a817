"""How a pair of passes runs without a compiler: node by node, each value dropped after its last reader.

The counterpart of `graphckpt.inductor` for ``inner="eager"``: the same interface, no lowering, no fusion. For tests, and for models
that Inductor cannot compile.

Not modelled: workspaces inside of aten kernels.
"""

from __future__ import annotations

import operator
import time
from dataclasses import dataclass

import torch
from torch import fx

from graphckpt.compat import aot
from graphckpt.compat.dry import DryLowering, Kernel
from graphckpt.compat.fake import tensor_bytes, tree_leaves
from graphckpt.cost.roofline import DeviceSpec
from graphckpt.inductor import DryStep, step_of
from graphckpt.ir.program import Event, Program
from graphckpt.trace import facts


@dataclass(slots=True)
class EagerLowerer:
    """Reads the peak of pairs of modules off their nodes. ``runs`` stays 0: nothing is lowered."""

    spec: DeviceSpec
    num_forward_outputs: int
    runs: int = 0
    seconds: float = 0.0

    def lower(self, forward: fx.GraphModule, backward: fx.GraphModule, *, hold_order: bool) -> DryStep:
        """The step that runs both modules as they are; their order always holds."""
        del hold_order
        started = time.perf_counter()
        passes = read_nodes(forward), read_nodes(backward)
        step = step_of(*passes, (forward, backward), self.num_forward_outputs, self.spec)
        self.seconds += time.perf_counter() - started
        return step


def read_nodes(module: fx.GraphModule) -> DryLowering:
    """The memory program and the kernels of a module that is run node by node."""
    nodes = list(module.graph.nodes)
    blocks = _blocks(nodes)
    last_read = {block: k for k, node in enumerate(nodes) for read in node.all_input_nodes for block in blocks[read]}
    events: list[Event] = []
    kernels = []
    for k, node in enumerate(nodes):
        if node.op != "call_function":
            continue
        own = () if facts.is_alias(node) else blocks[node]
        sizes = dict(zip(own, _sizes(node), strict=True)) if own else {}
        events += [Event(block, size_bytes, 0, node.name) for block, size_bytes in sizes.items() if size_bytes]
        ended = {block for read in node.all_input_nodes for block in blocks[read] if last_read[block] == k}
        ended |= {block for block in own if block not in last_read}
        events += [Event(block, 0, 0, node.name) for block in sorted(ended)]
        if own:
            read_bytes = sum(sum(_sizes(read)) for read in node.all_input_nodes)
            kernels.append(Kernel(facts.count_flops(node), read_bytes + sum(sizes.values()), (node.name,)))
    inputs = tuple((node.name, blocks[node][0]) for node in nodes if node.op == "placeholder" and blocks[node])
    results = nodes[-1].args[0]
    outputs = tuple(_output(value, blocks) if isinstance(value, fx.Node) else ("", -1) for value in results)
    names = frozenset(node.name for node in nodes if node.op == "call_function" and not facts.is_alias(node))
    return DryLowering(Program(inputs, tuple(events), outputs), tuple(kernels), names, {}, module.code)


def _output(value: fx.Node, blocks: dict[fx.Node, tuple[int, ...]]) -> tuple[str, int]:
    return (value.name, blocks[value][0]) if blocks[value] else (value.name, -1)


def _blocks(nodes: list[fx.Node]) -> dict[fx.Node, tuple[int, ...]]:
    """The blocks a node's value lives in: new ones, or those of what it is a view of."""
    blocks: dict[fx.Node, tuple[int, ...]] = {}
    count = 0
    for node in nodes:
        if node.op == "call_function" and facts.is_alias(node):
            base = node.all_input_nodes[0] if node.all_input_nodes else None
            held = blocks[base] if base is not None else ()
            position = node.args[1] if node.target is operator.getitem else None
            blocks[node] = (held[position],) if isinstance(position, int) and len(held) > position >= 0 < len(held) - 1 else held
        elif node.op in ("call_function", "placeholder"):
            size = len(_sizes(node))
            blocks[node] = tuple(range(count, count + size))
            count += size
        else:
            blocks[node] = ()
    return blocks


def _sizes(node: fx.Node) -> list[int]:
    """Bytes of each tensor of a node's value."""
    return [tensor_bytes(leaf) if isinstance(leaf, torch.Tensor) else 0 for leaf in _tensors(node)]


def _tensors(node: fx.Node) -> list[object]:
    value = aot.fake_value(node)
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor) or leaf is None]
