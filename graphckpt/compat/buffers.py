"""How large the buffers of a graph being lowered are, as Inductor will allocate them, and what its aten kernels take beside.

Read in torch 2.11, 2.13, 2.14 and 2.15.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import fx
from torch._inductor import ir as inductor_ir
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V

from graphckpt.compat.fake import extent, size_hint
from graphckpt.compat.wrapper import BufferFacts
from graphckpt.errors import UnsupportedGraph

MeasureFn = Callable[[object, Sequence[object], Mapping[str, object]], int]


def buffer_facts(graph: GraphLowering, measure: MeasureFn) -> BufferFacts:
    """Bytes and workspaces of the buffers that aten kernels allocate, from the lowered graph."""
    elements: dict[str, list[tuple[str, int]]] = {}
    for name, buffer in graph.name_to_buffer.items():
        if isinstance(buffer, inductor_ir.MultiOutput):
            parent: Any = buffer.inputs[0]
            elements.setdefault(parent.get_name(), []).append((name, layout_bytes(buffer)))

    def allocated(name: str) -> tuple[tuple[str, int], ...]:
        buffer = graph.name_to_buffer.get(name)
        if name in elements or buffer is None:
            return tuple(elements.get(name, ()))
        return ((name, layout_bytes(buffer)),)

    def scratch_bytes(name: str) -> int:
        buffer = graph.name_to_buffer.get(name)
        call = _call_of(buffer)
        if call is None:
            # What is not found is not taken to need nothing: it is measured as a name, which nobody can run.
            return measure(_unknown(buffer), (), {}) if _may_allocate(buffer) else 0
        peak_bytes = measure(call.target, *_fake_arguments(graph, call.node))
        return max(0, peak_bytes - sum(size_bytes for _, size_bytes in allocated(name)))

    writers: dict[str, list[str]] = {}
    for name, buffer in graph.name_to_buffer.items():
        for written in buffer.get_mutation_names() if isinstance(buffer, inductor_ir.ExternKernel) else ():
            writers.setdefault(written, []).append(name)

    def writer_scratch_bytes(name: str) -> int:
        return max(map(scratch_bytes, writers.get(name, ())), default=0)

    return BufferFacts(allocated, _known_symbols(graph), scratch_bytes, writer_scratch_bytes)


def called_node(buffer: object) -> fx.Node | None:
    """The traced node whose aten kernel fills this buffer; None where it is not one node's."""
    if not isinstance(buffer, inductor_ir.ExternKernel):
        return None
    target = getattr(buffer, "op_overload", None)
    made_from = [node for node in buffer.get_origins() if node.op == "call_function" and node.target is target]
    return made_from[0] if len(made_from) == 1 else None


class _Call(NamedTuple):
    """What an aten kernel runs, and the traced node that has its arguments: its own, or that of the same call out of place."""

    target: object
    node: fx.Node


def _call_of(buffer: object) -> _Call | None:
    """The call behind an aten kernel: ``mm`` where the kernel is ``mm.out``, ``index_put_`` where the node says ``index_put``."""
    if not isinstance(buffer, inductor_ir.ExternKernel):
        return None
    target = getattr(buffer, "op_overload", None)
    if not isinstance(target, torch._ops.OpOverload):
        return None
    name = target._schema.name
    traced = [node for node in buffer.get_origins() if isinstance(node.target, torch._ops.OpOverload)]
    same = [node for node in traced if node.target._schema.name.rstrip("_") == name.rstrip("_")]
    if len(same) != 1:
        return None
    return _Call(target if name.endswith("_") else same[0].target, same[0])


def _may_allocate(buffer: object) -> bool:
    """Whether a buffer is filled by an operator. The kernel that makes seeds is one that is known: it fills what it is given."""
    if not isinstance(buffer, inductor_ir.ExternKernel) or isinstance(buffer, inductor_ir.RandomSeeds):
        return False
    return isinstance(getattr(buffer, "op_overload", None), torch._ops.OpOverload)


def _unknown(buffer: Any) -> str:
    return str(buffer.op_overload)


def _known_symbols(graph: GraphLowering) -> dict[str, int]:
    """Values of the size symbols in this trace."""
    values = cast(Mapping[object, Any], graph.sizevars.backed_var_to_val)
    try:
        return {str(symbol): int(value) for symbol, value in values.items()}
    except TypeError as error:
        # The length of a jagged tensor is known when it runs, and never as a number.
        raise UnsupportedGraph("nested tensor", "the lengths of its rows are not known when it is compiled") from error


def buffer_bytes(name: str) -> int:
    """What the buffer or input of this name takes in the graph that is being lowered; 0 where it is part of another one."""
    buffer = V.graph.try_get_buffer(name)
    return 0 if buffer is None else layout_bytes(cast(Any, buffer))


def _hint(size: object) -> int:
    """A size as a number, at the sizes of this trace."""
    return int(V.graph.sizevars.optimization_hint(cast(Any, size)))


def layout_bytes(buffer: inductor_ir.Buffer) -> int:
    """From the first to the last element; 0 for what has no memory of its own."""
    layout = buffer.get_output_spec()
    if not isinstance(layout, (inductor_ir.FixedLayout, inductor_ir.FlexibleLayout)):
        return 0
    return extent([_hint(n) for n in layout.size], [_hint(s) for s in layout.stride]) * int(layout.dtype.itemsize)


def _fake_arguments(graph: GraphLowering, node: fx.Node) -> tuple[Any, Any]:
    """The node's arguments with the strides that Inductor chose, as (shape, stride, dtype, device) tensors without data."""

    def value(argument: fx.Node) -> object:
        fake = argument.meta.get("val")
        box = graph.env.get(argument)
        if not isinstance(fake, torch.Tensor) or not isinstance(box, inductor_ir.TensorBox):
            return fake
        try:
            stride = [_hint(s) for s in box.get_stride()]
        except (AttributeError, NotImplementedError):
            return fake
        return torch.empty_strided([size_hint(n) for n in fake.shape], stride, dtype=fake.dtype, device="meta")

    return fx.map_arg(node.args, cast(Any, value)), fx.map_arg(node.kwargs, cast(Any, value))
