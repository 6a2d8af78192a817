"""Inductor: compile with our partitioner, and lower a graph *dry*: everything up to its generated source, nothing compiled.

Read in torch 2.13. A dry lowering runs the very path of a real one (``compile_fx_inner``) and stops where the generated source
would be loaded, so post-grad passes, fusion, ordering, buffer reuse and every ``del`` are those of the real compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import fx
from torch._inductor import compile_fx as inductor_compile
from torch._inductor import config as inductor_config
from torch._inductor import ir as inductor_ir
from torch._inductor.custom_graph_pass import CustomPartitionerFn
from torch._inductor.graph import GraphLowering
from torch._inductor.utils import count_tangents
from torch._inductor.virtualized import V

from graphckpt.compat.wrapper import BufferFacts, read_program
from graphckpt.ir.program import Program

PartitionFn = Callable[..., tuple[fx.GraphModule, fx.GraphModule]]
MeasureFn = Callable[[object, Sequence[object], Mapping[str, object]], int]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch after fusion: arithmetic, bytes of the buffers it reads and writes, and the traced nodes it was made from."""

    flops: int
    moved_bytes: int
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DryLowering:
    """What Inductor will do with a graph: its memory program, its kernels, and the traced nodes that get a buffer of their own."""

    program: Program
    kernels: tuple[Kernel, ...]
    materialised: frozenset[str]
    source: str


class _Lowered(BaseException):
    """Ends a dry lowering with its source; not an `Exception`, so that Inductor does not wrap it."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source


class _Partitioner(CustomPartitionerFn):  # type: ignore[misc]
    """Hands Inductor's joint graph to ``partition``; ``key`` stands for everything the plan depends on in compile caches."""

    def __init__(self, partition: PartitionFn, key: str) -> None:
        self._partition = partition
        self._key = key

    def __call__(self, gm: fx.GraphModule, joint_inputs: Sequence[object], **kwargs: Any) -> Any:
        return self._partition(gm, joint_inputs, **kwargs)

    def uuid(self) -> str:
        return self._key


def option_names() -> frozenset[str]:
    """The options that ``torch.compile(options=...)`` may hand on to Inductor."""
    return frozenset(cast(Any, inductor_config).get_config_copy())


def compile_with(
    module: fx.GraphModule, inputs: Sequence[object], partition: PartitionFn, key: str, patches: Mapping[str, object]
) -> Callable[..., object]:
    """Compile ``module`` with Inductor, its joint graph split by ``partition``. ``key`` enters the compile caches."""
    all_patches = {**patches, "custom_partitioner_fn": _Partitioner(partition, key)}
    return cast(Callable[..., object], inductor_compile.compile_fx(module, inputs, config_patches=all_patches))


def compile_plain(
    module: fx.GraphModule, inputs: Sequence[object], patches: Mapping[str, object]
) -> Callable[..., object]:
    """Compile ``module`` as stock Inductor does."""
    return cast(Callable[..., object], inductor_compile.compile_fx(module, inputs, config_patches=dict(patches)))


def mode_options(mode: str | None, dynamic: bool | None = None) -> dict[str, object]:
    """The Inductor options that a ``mode=`` of torch.compile stands for."""
    return dict(torch._inductor.list_mode_options(mode, dynamic)) if mode else {}


def lower_dry(
    module: fx.GraphModule, *, is_backward: bool, num_user_outputs: int, num_static: int, measure: MeasureFn
) -> DryLowering:
    """Lower a copy of ``module`` without compiling it.

    ``num_user_outputs``: how many leading forward outputs go to the caller; ``num_static``: leading forward inputs with fixed
    addresses; ``measure``: peak bytes an aten kernel allocates, outputs included, from its target and fake arguments.
    """
    module = fx.GraphModule(module, torch.fx.Graph.__deepcopy__(module.graph))
    output = module.graph.find_nodes(op="output")[0]
    output.meta["user_visible_output_idxs"] = (
        []
        if is_backward
        else [i for i, value in enumerate(output.args[0][:num_user_outputs]) if isinstance(value, fx.Node)]
    )
    inductor_compile._recursive_record_user_visible_output_idxs(module)
    inputs = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
    static = list(range(count_tangents(module))) if is_backward else inductor_compile.get_static_input_idxs(num_static)
    launched: list[Kernel] = []
    collect = _collector(launched)
    graphs: list[GraphLowering] = []
    with _stop_before_loading(graphs), inductor_config.patch(force_disable_caches=True, _post_fusion_custom_pass=collect):
        try:
            inductor_compile.compile_fx_inner(
                module, inputs, static_input_idxs=static, is_backward=is_backward, is_inference=False
            )
        except _Lowered as lowered:
            source = lowered.source
    graph = graphs[0]
    with V.set_graph_handler(graph):
        facts = _buffer_facts(graph, measure)
        program = read_program(source, facts)
    results = [value.name if isinstance(value, fx.Node) else "" for value in output.args[0]]
    program = replace(program, outputs=tuple((n, block) for n, (_, block) in zip(results, program.outputs, strict=True)))
    return DryLowering(program, tuple(launched), _materialised(graph), source)


@contextmanager
def _stop_before_loading(graphs: list[GraphLowering]) -> Iterator[None]:
    """Make lowering stop where generated source would be compiled and loaded."""

    def stop(graph: GraphLowering) -> None:
        source, _ = graph.codegen()
        graphs.append(graph)
        raise _Lowered(source.value)

    loading = GraphLowering.compile_to_module
    GraphLowering.compile_to_module = stop
    try:
        yield
    finally:
        GraphLowering.compile_to_module = loading


def _collector(launched: list[Kernel]) -> Callable[[list[Any]], list[Any]]:
    """A pass over the fused schedule that notes each kernel and changes nothing."""

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


def _materialised(graph: GraphLowering) -> frozenset[str]:
    """Names of the traced nodes whose value gets a buffer of its own."""
    names = set()
    for name, buffer in graph.name_to_buffer.items():
        if name in graph.removed_buffers:
            continue
        origin = getattr(buffer, "origin_node", None)
        if origin is not None:
            names.add(origin.name)
    return frozenset(names)


def _buffer_facts(graph: GraphLowering, measure: MeasureFn) -> BufferFacts:
    """Bytes and workspaces of the buffers that aten kernels allocate, from the lowered graph."""
    children: dict[str, int] = {}
    for buffer in graph.name_to_buffer.values():
        if isinstance(buffer, inductor_ir.MultiOutput):
            parent = buffer.inputs[0].get_name()
            children[parent] = children.get(parent, 0) + _layout_bytes(buffer)

    def size_bytes(name: str) -> int:
        buffer = graph.name_to_buffer.get(name)
        if name in children or buffer is None:
            return children.get(name, 0)
        return _layout_bytes(buffer)

    def scratch_bytes(name: str) -> int:
        buffer = graph.name_to_buffer.get(name)
        if not isinstance(buffer, inductor_ir.ExternKernel):
            return 0
        target = getattr(buffer, "op_overload", None)
        made_from = [node for node in buffer.get_origins() if node.op == "call_function" and node.target is target]
        if len(made_from) != 1:
            return 0
        return measure(target, *_fake_arguments(graph, made_from[0]))

    symbols = {str(symbol): int(value) for symbol, value in _known_symbols(graph).items()}
    return BufferFacts(size_bytes, symbols, scratch_bytes)


def _known_symbols(graph: GraphLowering) -> Mapping[object, object]:
    """Values of the size symbols in this trace; the attribute was renamed in torch 2.12."""
    sizes: Any = graph.sizevars
    return cast(Mapping[object, object], sizes.backed_var_to_val if hasattr(sizes, "backed_var_to_val") else sizes.var_to_val)


def _hint(graph: GraphLowering, size: object) -> int:
    """A size as a number; the method was renamed in torch 2.12."""
    sizes: Any = graph.sizevars
    return int(sizes.optimization_hint(size) if hasattr(sizes, "optimization_hint") else sizes.size_hint(size))


def _layout_bytes(buffer: inductor_ir.Buffer) -> int:
    layout = buffer.get_output_spec()
    if not isinstance(layout, (inductor_ir.FixedLayout, inductor_ir.FlexibleLayout)):
        return 0
    size = [_hint(V.graph, n) for n in layout.size]
    if 0 in size:
        return 0
    stride = [_hint(V.graph, s) for s in layout.stride]
    return (sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1) * int(layout.dtype.itemsize)


def _fake_arguments(graph: GraphLowering, node: fx.Node) -> tuple[tuple[object, ...], dict[str, object]]:
    """The node's arguments with the strides that Inductor chose, as (shape, stride, dtype, device) tensors without data."""

    def value(argument: fx.Node) -> object:
        fake = argument.meta.get("val")
        box = graph.env.get(argument)
        if not isinstance(fake, torch.Tensor) or not isinstance(box, inductor_ir.TensorBox):
            return fake
        try:
            stride = [_hint(graph, s) for s in box.get_stride()]
        except (AttributeError, NotImplementedError):
            return fake
        return torch.empty_strided([int(n) for n in fake.shape], stride, dtype=fake.dtype, device="meta")

    return (
        tuple(fx.map_arg(node.args, value)),
        dict(fx.map_arg(node.kwargs, value)),
    )
