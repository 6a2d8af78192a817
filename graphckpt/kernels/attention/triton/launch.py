"""From a call of attention to kernels on a grid: allocates results, picks tiles, starts.

Everything is deterministic: no atomics, each number is summed by one program in a fixed order. Beside results backward holds one
number a row (B, H, Q), and of a bias that rows or keys share one a row or key and head.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from graphckpt.errors import AttentionError
from graphckpt.kernels.attention.meaning import PASSES, Attention, Gradients, empty_heads_last
from graphckpt.kernels.attention.triton import arguments, bias, delta, forward, keys_values, queries
from graphckpt.kernels.attention.triton.choice import INTERPRETER, architecture_of
from graphckpt.kernels.attention.triton.parts import parts_of
from graphckpt.kernels.attention.triton.tiles import INTERPRETED, Tiling, Tilings, load_of, tilings_of


class Start(NamedTuple):
    """One start of one kernel: programs of its grid, arguments by name, warps and stages."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]
    warps: int
    stages: int


class Known(NamedTuple):
    """What backward is given besides the call: results of forward and the gradients of both."""

    out: Tensor
    lse: Tensor
    grad_out: Tensor
    grad_lse: Tensor | None


Starter = Callable[[Start], None]
# A tile, and flags of the kernel.
Way = tuple[Tiling, dict[str, bool]]
# Rows that are read once and summed, and tiles of which only masks are read.
_SUMMED_ROWS = 64
_EMPTY_TILE = (32, 64)


def start(it: Start) -> None:
    """Run it on the device of its tensors."""
    run = partial(it.kernel[(it.programs,)], **it.arguments, num_warps=it.warps, num_stages=it.stages)
    if it.arguments.get("DESCRIBED"):
        copy_context().run(_with_memory, run)
    else:
        run()


def _with_memory(run: Callable[[], object]) -> None:
    # Descriptors are written by the programs, into memory that Triton asks of whoever starts them: not for longer than that.
    triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device="cuda"))
    run()


def attention(call: Attention, tilings: Tilings | None = None, starter: Starter = start) -> tuple[Tensor, Tensor]:
    """``out`` (B, H, Q, Dv), heads last in memory, in the type of q, and ``lse`` (B, H, Q) in fp32."""
    sizes = call.sizes
    out = empty_heads_last(call.q, (sizes.batch, sizes.heads, sizes.rows, sizes.value_width))
    lse = call.q.new_empty(sizes.batch, sizes.heads, sizes.rows, dtype=torch.float32)
    tiles = tilings or _tilings(call)
    with torch.cuda.device_of(call.q):
        given = arguments.call_of(call, _empty_rows(call, starter))
        named = {"call": given, "out": out, "lse": lse}
        ways = _ways(tiles.forward, tiles.rare_forward, tiles.described_forward if _may_describe(call) else None)
        _once_and_again(forward.forward, call, ways, named, starter)
    return out, lse


def gradients(
    call: Attention, known: Known, of_bias: bool = True, tilings: Tilings | None = None, starter: Starter = start
) -> Gradients:
    """All gradients, that of a bias if ``of_bias``, each in the type and shape of its tensor; those of q, k and v with heads last
    in memory."""
    known = known._replace(lse=known.lse.contiguous())
    sizes, tiles = call.sizes, tilings or _tilings(call)
    found = [empty_heads_last(tensor, tensor.shape) for tensor in (call.q, call.k, call.v)]
    with torch.cuda.device_of(call.q):
        empty = _empty_rows(call, starter)
        given = arguments.call_of(call, empty)
        mean, sinks = _means(call, given, known, starter)
        shared = {"call": given, "grad_out": arguments.strided(known.grad_out), "lse": known.lse, "mean": mean}
        passes = {"PASSES": empty is not None and call.uniform == PASSES}
        bias_found = _BiasGradient.of(call) if of_bias else _BiasGradient()
        keyed = {"k_found": found[1], "v_found": found[2], "bias_found": bias_found.keys, **passes}
        may_describe = _may_describe(call, known.grad_out)
        ways = _ways(tiles.keys_values, tiles.rare_keys_values, tiles.described_keys_values if may_describe else None)
        for tiling, way in ways[: 1 + (empty is not None)]:
            programs = triton.cdiv(sizes.keys, tiling.keys) * sizes.batch * sizes.key_heads
            starter(_started(keys_values.keys_values, programs, call, tiling, {**shared, **keyed, **way}))
        rowed = {"found": found[0], "bias_found": bias_found.whole, "bias_rows_found": bias_found.rows, **passes}
        ways = _ways(tiles.queries, tiles.rare_queries, tiles.described_queries if may_describe else None)
        _once_and_again(queries.queries, call, ways, {**shared, **rowed}, starter)
        if bias_found.shared is not None:
            starter(_of_shared_bias(call, tiles.shared_bias, {**shared, **passes}, bias_found.shared))
    return Gradients(found[0], found[1], found[2], bias_found.result(call) if of_bias else None, sinks)


class _BiasGradient(NamedTuple):
    """Where the gradient of a bias is put: one of these, or none. ``keys`` (B, H, K) where rows share it, ``rows`` (B, H, Q) where
    keys do, ``whole`` (B, H, Q, K), ``shared`` as the bias, where batches or heads share what is of queries times keys."""

    keys: Tensor | None = None
    rows: Tensor | None = None
    whole: Tensor | None = None
    shared: Tensor | None = None

    @staticmethod
    def of(call: Attention) -> _BiasGradient:
        if call.bias is None:
            return _BiasGradient()
        sizes, shape = call.sizes, call.bias.shape
        if shape[2] == 1:
            return _BiasGradient(keys=call.q.new_empty(sizes.batch, sizes.heads, sizes.keys, dtype=torch.float32))
        if shape[3] == 1:
            return _BiasGradient(rows=call.q.new_empty(sizes.batch, sizes.heads, sizes.rows, dtype=torch.float32))
        if tuple(shape[:2]) == (sizes.batch, sizes.heads):
            # Tiles outside of the band are not visited.
            return _BiasGradient(whole=call.bias.new_zeros(shape))
        return _BiasGradient(shared=call.bias.new_empty(shape))

    def result(self, call: Attention) -> Tensor | None:
        if call.bias is None or self.whole is not None or self.shared is not None:
            return self.whole if self.whole is not None else self.shared
        found = (
            self.keys[:, :, None, :]
            if self.keys is not None
            else self.rows[:, :, :, None]
            if self.rows is not None
            else None
        )
        assert found is not None
        dims = [dim for dim in range(4) if call.bias.shape[dim] == 1 and found.shape[dim] != 1]
        return (found.sum(dims, keepdim=True) if dims else found).to(call.bias.dtype)


def _of_shared_bias(call: Attention, tiling: Tiling, shared: dict[str, Any], found: Tensor) -> Start:
    sizes = call.sizes
    batches, heads = found.shape[:2]
    given = {"found": found, "bias_heads": heads}
    sharing = {"batches_sharing": sizes.batch // batches, "heads_sharing": sizes.heads // heads}
    programs = batches * heads * triton.cdiv(sizes.rows, tiling.rows) * triton.cdiv(sizes.keys, tiling.keys)
    return _started(bias.shared_bias, programs, call, tiling, {**shared, **given, **sharing})


def _means(call: Attention, given: arguments.Call, known: Known, starter: Starter) -> tuple[Tensor, Tensor | None]:
    """The mean gradient of each row, and the gradient of the sinks."""
    sizes = call.sizes
    tiles = triton.cdiv(sizes.rows, _SUMMED_ROWS)
    mean = call.q.new_empty(sizes.batch, sizes.heads, sizes.rows, dtype=torch.float32)
    sinks = None if call.sinks is None else call.q.new_empty(sizes.batch, sizes.heads, tiles, dtype=torch.float32)
    # A row of a head is a vector: as a tensor of four dimensions its last is one long.
    of_lse = arguments.ABSENT if known.grad_lse is None else arguments.strided(known.grad_lse[..., None])
    wide = parts_of(sizes.value_width)
    named = {
        "call": given,
        "out": arguments.strided(known.out),
        "grad_out": arguments.strided(known.grad_out),
        "lse": known.lse,
        "grad_lse": of_lse,
        "found": mean,
        "sinks_found": sinks,
        "VALUE_WIDTH": wide.width,
        "VALUE_SPAN": wide.span,
        "VALUE_REST": wide.rest,
        "ROWS": _SUMMED_ROWS,
    }
    starter(Start(delta.delta, tiles * sizes.batch * sizes.heads, named, 4, 1))
    if sinks is None or call.sinks is None:
        return mean, None
    return mean, sinks.sum((0, 2), dtype=torch.float64).to(call.sinks.dtype)


def _empty_rows(call: Attention, starter: Starter) -> Tensor | None:
    """int8 (B, Q), the rows that may attend to nothing, None where there are none."""
    if not arguments.may_be_empty(call):
        return None
    sizes, (rows, keys) = call.sizes, _EMPTY_TILE
    found = call.q.new_empty(sizes.batch, sizes.rows, dtype=torch.int8)
    named = {"call": arguments.call_of(call, None), "found": found, "ROWS": rows, "KEYS": keys}
    starter(Start(delta.empty_rows, triton.cdiv(sizes.rows, rows) * sizes.batch, named, 4, 1))
    return found


def _may_describe(call: Attention, *more: Tensor) -> bool:
    # What is empty would be one more thing to read.
    has_empty = arguments.may_be_empty(call)
    return not has_empty and load_of(call) == "plain" and arguments.is_describable(call.q, call.k, call.v, *more)


def _ways(plain: Tiling, rare: Tiling, described: Tiling | None) -> list[Way]:
    """Tiles and flags of a kernel, by descriptors where there is a tile for that, and of the same for what is rare."""
    first = {"RARE": False, "DESCRIBED": described is not None}
    return [(described or plain, first), (rare, {"RARE": True, "DESCRIBED": False})]


def _once_and_again(kernel: Any, call: Attention, ways: list[Way], named: dict[str, Any], starter: Starter) -> None:
    """A kernel of rows, and where there are masks the same for what it left word of: tiles, or rows if it reads by descriptors."""
    (first, how), (again, how_again) = ways
    sizes, told = call.sizes, 1 if how["DESCRIBED"] else first.rows
    heads = sizes.batch * sizes.heads
    masked = arguments.has_masks(call)
    rare = call.q.new_empty(heads * triton.cdiv(sizes.rows, told), dtype=torch.int8) if masked else None
    # Both are powers of two: what is done again lies within one tile that left word.
    small = again if told == 1 else again._replace(rows=min(again.rows, told))
    for tiling, way in ((first, how), (small, how_again))[: 1 + masked]:
        programs = triton.cdiv(sizes.rows, tiling.rows) * heads
        starter(_started(kernel, programs, call, tiling, {**named, **way, "rare": rare, "TOLD": told}))


def _started(kernel: Any, programs: int, call: Attention, tiling: Tiling, named: dict[str, Any]) -> Start:
    wide, value_wide = parts_of(call.q.shape[3]), parts_of(call.v.shape[3])
    sizes = {
        "WIDTH": wide.width,
        "SPAN": wide.span,
        "REST": wide.rest,
        "VALUE_WIDTH": value_wide.width,
        "VALUE_SPAN": value_wide.span,
        "VALUE_REST": value_wide.rest,
        "ROWS": tiling.rows,
        "KEYS": tiling.keys,
        "PRECISION": precision_of(call.q.dtype),
    }
    return Start(kernel, programs, {**named, **sizes}, tiling.warps, tiling.stages)


def precision_of(dtype: torch.dtype) -> str:
    """How fp32 is multiplied: by three products of tf32, which keep its precision, on the units for matrices. Halves have one
    way."""
    return "tf32x3" if dtype == torch.float32 else "ieee"


def _tilings(call: Attention) -> Tilings:
    architecture, why_not = architecture_of(call.q.device)
    compiled = isinstance(forward.forward, triton.JITFunction)
    if not architecture or (architecture == INTERPRETER) == compiled:
        came = (
            why_not
            or f"{call.q.device.type} tensors, and kernels that were imported {'with' if compiled else 'without'}out it"
        )
        raise AttentionError(
            "implementation", "tensors on a GPU, or TRITON_INTERPRET=1 before the first call", f"triton: {came}"
        )
    return INTERPRETED if architecture == INTERPRETER else tilings_of(call, architecture)
