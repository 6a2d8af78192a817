"""What backward needs of every row beforehand: its mean gradient, its part of the sinks' gradient, and whether it is empty."""

from __future__ import annotations

import triton
import triton.language as tl

from graphckpt.kernels.attention.triton.device import LOG2E, allowed_in, keys_of, load_parts


@triton.jit
def delta(
    call,
    out,
    grad_out,
    lse,
    grad_lse,
    found,
    sinks_found,
    VALUE_WIDTH: tl.constexpr,
    VALUE_SPAN: tl.constexpr,
    VALUE_REST: tl.constexpr,
    ROWS: tl.constexpr,
):
    """``found`` (B, H, Q): <grad_out, out> less the gradient of lse. ``sinks_found`` (B, H, tiles): what each tile of rows gives
    to its head's sink."""
    tiles = tl.cdiv(call.row_count, ROWS)
    tile = tl.program_id(0) % tiles
    index = tl.program_id(0) // tiles
    batch = index // call.heads
    head = index % call.heads
    rows = tile * ROWS + tl.arange(0, ROWS)
    mine, mine_rest = load_parts(
        out, batch, head, tile * ROWS, call.row_count, ROWS, VALUE_WIDTH, VALUE_SPAN, VALUE_REST, True
    )
    grad, grad_rest = load_parts(
        grad_out, batch, head, tile * ROWS, call.row_count, ROWS, VALUE_WIDTH, VALUE_SPAN, VALUE_REST, True
    )
    mean = tl.sum(mine.to(tl.float32) * grad.to(tl.float32), 1)
    if VALUE_REST:
        mean += tl.sum(mine_rest.to(tl.float32) * grad_rest.to(tl.float32), 1)
    at = index.to(tl.int64) * call.row_count + rows
    if grad_lse.data is not None:
        where = grad_lse.data + batch.to(tl.int64) * grad_lse.batch + head.to(tl.int64) * grad_lse.head
        mean -= tl.load(where + rows.to(tl.int64) * grad_lse.row, mask=rows < call.row_count, other=0.0).to(tl.float32)
    tl.store(found + at, mean, mask=rows < call.row_count)
    if call.sinks is not None:
        sink = tl.load(call.sinks + head).to(tl.float32)
        known = tl.load(lse + at, mask=rows < call.row_count, other=float("inf"))
        known = tl.where(known == float("-inf"), float("inf"), known)
        weight = tl.exp2((sink - known) * LOG2E)
        tl.store(sinks_found + tl.program_id(0), -tl.sum(tl.where(weight == 0.0, 0.0, weight * mean), 0))


@triton.jit
def empty_rows(call, found, ROWS: tl.constexpr, KEYS: tl.constexpr):
    """``found`` int8 (B, Q): 1 for rows that may attend to nothing."""
    tiles = tl.cdiv(call.row_count, ROWS)
    tile = tl.program_id(0) % tiles
    batch = tl.program_id(0) // tiles
    first = tile * ROWS
    rows = first + tl.arange(0, ROWS)
    last = tl.minimum(first + ROWS, call.row_count) - 1
    start, _, _, stop = keys_of(call.masks, first, last, call.key_count, KEYS)
    seen = tl.zeros([ROWS], tl.int32)
    for first_key in tl.range(start, stop, KEYS):
        keys = first_key + tl.arange(0, KEYS)
        allowed = allowed_in(call.masks, batch, rows[:, None], keys[None, :], call.row_count, call.key_count)
        seen = tl.maximum(seen, tl.max(allowed.to(tl.int32), 1))
    at = found + batch.to(tl.int64) * call.row_count + rows
    tl.store(at, (1 - seen).to(tl.int8), mask=rows < call.row_count)
