"""A graph lowered *dry*: everything up to its generated source, nothing compiled.

Read in torch 2.11, 2.13, 2.14 and 2.15. A dry lowering runs the very path of a real one (``compile_fx_inner``) and stops where the
generated source would be loaded, so post-grad passes, fusion, ordering, buffer reuse and every ``del`` are those of the real
compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from torch._inductor import compile_fx as inductor_compile
from torch._inductor import config as inductor_config
from torch._inductor.graph import GraphLowering
from torch._inductor.utils import count_tangents
from torch._inductor.virtualized import V

from graphckpt.compat import aot
from graphckpt.compat.buffers import MeasureFn, buffer_facts, called_node
from graphckpt.compat.takeover import NO_CACHE, KeptLowering, Lowerings, StoppedDry, lowering_kept
from graphckpt.compat.wrapper import read_program
from graphckpt.ir.program import Program


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch after fusion: arithmetic, bytes of the buffers it reads and writes, and the traced nodes it was made from."""

    flops: int
    moved_bytes: int
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DryLowering:
    """What Inductor will do with a graph: its memory program, its kernels, the traced nodes that get a buffer of their own, and the
    strides it chose for the results, where they are known numbers. ``key``: what it is kept under, "" where nothing was lowered."""

    program: Program
    kernels: tuple[Kernel, ...]
    materialised: frozenset[str]
    output_strides: Mapping[str, tuple[int, ...]]
    source: str
    key: str = ""


def lower_dry(
    module: fx.GraphModule,
    lowerings: Lowerings,
    *,
    is_backward: bool,
    num_user_outputs: int,
    static_inputs: Sequence[int],
    input_strides: Mapping[str, tuple[int, ...]],
    measure: MeasureFn,
    hold_order: bool,
) -> DryLowering:
    """Lower a copy of ``module`` without compiling it; ``lowerings`` keeps the work for a real compilation of the same graph.

    ``num_user_outputs``: how many leading forward outputs go to the caller; ``static_inputs``: forward inputs with fixed addresses;
    ``input_strides``: those that the forward pass gives backward's inputs; ``measure``: peak bytes an aten kernel allocates,
    outputs included, from its target and fake arguments; ``hold_order``: keep the order of the nodes (`graphckpt.compat.ordering`).
    """
    module = aot.copy_module(module)
    output = module.graph.find_nodes(op="output")[0]
    values = list(output.args[0])
    results = [value.name if isinstance(value, fx.Node) else "" for value in values]
    shown = len(values) if is_backward and _shows_gradients() else 0 if is_backward else num_user_outputs
    output.meta["user_visible_output_idxs"] = [i for i in range(shown) if isinstance(values[i], fx.Node)]
    inductor_compile._recursive_record_user_visible_output_idxs(module)
    inputs = [_restrided(node, input_strides) for node in module.graph.find_nodes(op="placeholder")]
    static = list(range(count_tangents(module))) if is_backward else list(static_inputs)
    launched: list[Kernel] = []
    found: list[KeptLowering] = []
    # A graph found in a cache would not be lowered.
    settings = inductor_config.patch({**NO_CACHE, "_post_fusion_custom_pass": _collector(launched)})
    with lowering_kept(lowerings, found, hold_order=hold_order), settings, suppress(StoppedDry):
        inductor_compile.compile_fx_inner(
            module, inputs, static_input_idxs=static, is_backward=is_backward, is_inference=False
        )
    if not found:
        # A pass without a call is not lowered at all: it hands on what it got.
        blocks = {node.name: k for k, node in enumerate(module.graph.find_nodes(op="placeholder"))}
        untouched = Program(tuple(blocks.items()), (), tuple((name, blocks.get(name, -1)) for name in results))
        return DryLowering(untouched, (), frozenset(), {}, "")
    graph, source = found[0].graph, found[0].result.source_code
    with V.set_graph_handler(graph):
        program = read_program(source, buffer_facts(graph, measure))
    made_from = _made_from(graph)
    program = replace(
        program,
        events=tuple(replace(event, name=made_from.get(event.name, event.name)) for event in program.events),
        outputs=tuple((name, block) for name, (_, block) in zip(results, program.outputs, strict=True)),
    )
    strides = _known_strides(results, found[0].result.output_strides)
    return DryLowering(program, tuple(launched), frozenset(made_from.values()), strides, source, found[0].key)


def _shows_gradients() -> bool:
    """Whether Inductor keeps the strides of gradients as eager has them."""
    return bool(inductor_config.bw_outputs_user_visible)


def _restrided(node: fx.Node, strides: Mapping[str, tuple[int, ...]]) -> Any:
    """The fake input of a placeholder, laid out as the forward pass will hand it over."""
    value = node.meta["val"]
    stride = strides.get(node.name)
    if not isinstance(value, torch.Tensor) or stride is None or tuple(value.stride()) == stride:
        return value
    return value.as_strided(value.size(), stride)


def _known_strides(names: Sequence[str], strides: Sequence[tuple[str, ...] | None] | None) -> dict[str, tuple[int, ...]]:
    """Inductor's output strides (expressions as text) by result name; those with size symbols are left out."""
    known = {}
    for name, stride in zip(names, strides or (), strict=False):
        if name and stride is not None and all(part.isdecimal() for part in map(str, stride)):
            known[name] = tuple(int(part) for part in stride)
    return known


def _collector(launched: list[Kernel]) -> Callable[[list[Any]], list[Any]]:
    """A pass over the fused schedule that notes each kernel and changes nothing.

    It stands in for the caller's own pass, which is shown the schedule once, when the lowering is taken over.
    """

    def collect(nodes: list[Any]) -> list[Any]:
        for node in nodes:
            if type(node).__name__ == "NopKernelSchedulerNode":
                continue
            origins = tuple(
                origin.name
                for snode in node.get_nodes()
                if snode.node is not None
                for origin in sorted(snode.node.get_origins(), key=lambda n: n.name)
            )
            launched.append(Kernel(int(node.estimate_flops() or 0), int(node.get_read_write_buffers_sizes()), origins))
        return nodes

    return collect


def _made_from(graph: GraphLowering) -> dict[str, str]:
    """The traced node whose value each allocated buffer holds, by buffer name, where Inductor knows one."""
    origins = {}
    for name, buffer in graph.name_to_buffer.items():
        # What a kernel gives as a tuple is the call's, its elements are their own.
        origin = getattr(buffer, "origin_node", None) or called_node(buffer)
        if origin is not None and name not in graph.removed_buffers:
            origins[name] = origin.name
    return origins
