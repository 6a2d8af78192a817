"""Gradient of a bias of queries times keys that batches or heads share: one tile of it, over all that share it, in ascending order.

No atomics: nobody else writes the tile. Scores are computed once more for it, which costs two products of backward's seven.
"""

from __future__ import annotations

import triton
import triton.language as tl

from graphckpt.kernels.attention.triton.device import MASKED, SPREAD, empty_in, keys_of, load_parts, product
from graphckpt.kernels.attention.triton.gradients import known_of, load_row, of_tile


@triton.jit
def shared_bias(
    call,
    grad_out,
    lse,
    mean,
    found,
    bias_heads,
    batches_sharing,
    heads_sharing,
    WIDTH: tl.constexpr,
    SPAN: tl.constexpr,
    REST: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    VALUE_SPAN: tl.constexpr,
    VALUE_REST: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    PASSES: tl.constexpr,
):
    """``found``: dense (B or 1, H or 1, Q, K); ``batches_sharing`` and ``heads_sharing`` are summed for one of its tiles."""
    row_tiles = tl.cdiv(call.row_count, ROWS)
    key_tiles = tl.cdiv(call.key_count, KEYS)
    index = tl.program_id(0) // (row_tiles * key_tiles)
    first = tl.program_id(0) % row_tiles * ROWS
    first_key = tl.program_id(0) // row_tiles % key_tiles * KEYS
    rows = first + tl.arange(0, ROWS)
    keys = first_key + tl.arange(0, KEYS)
    last = tl.minimum(first + ROWS, call.row_count) - 1
    start, _, _, stop = keys_of(call.masks, first, last, call.key_count, KEYS)
    shape: tl.constexpr = (WIDTH, SPAN, REST, VALUE_WIDTH, VALUE_SPAN, VALUE_REST, ROWS, KEYS)
    acc = tl.zeros([ROWS, KEYS], tl.float32)
    first_batch = index // bias_heads * batches_sharing
    first_head = index % bias_heads * heads_sharing
    for past_batch in tl.range(0, batches_sharing):
        for past_head in tl.range(0, heads_sharing):
            batch = first_batch + past_batch
            head = first_head + past_head
            if (first_key >= start) & (first_key < stop):
                acc += _of_head(call, grad_out, lse, mean, batch, head, first, first_key, MASKED, PRECISION, shape)
            # A condition of the compiler, and one of data: they cannot be one.
            if PASSES:  # noqa: SIM102
                if tl.max(empty_in(call.masks, batch, rows, call.row_count).to(tl.int32), 0) > 0:
                    acc += _of_head(call, grad_out, lse, mean, batch, head, first, first_key, SPREAD, PRECISION, shape)
    at = found + (index.to(tl.int64) * call.row_count + rows)[:, None] * call.key_count + keys[None, :]
    within = (rows[:, None] < call.row_count) & (keys[None, :] < call.key_count)
    tl.store(at, acc.to(found.dtype.element_ty), mask=within)


@triton.jit
def _of_head(
    call,
    grad_out,
    lse,
    mean,
    batch,
    head,
    first,
    first_key,
    MODE: tl.constexpr,
    PRECISION: tl.constexpr,
    SHAPE: tl.constexpr,
):
    """The gradient of the exponents of one tile of one head."""
    q, q_rest = load_parts(call.q, batch, head, first, call.row_count, SHAPE[6], SHAPE[0], SHAPE[1], SHAPE[2], True)
    k, k_rest = load_parts(
        call.k, batch, head // call.group, first_key, call.key_count, SHAPE[7], SHAPE[0], SHAPE[1], SHAPE[2], True
    )
    products = product(q, q_rest, k, k_rest, SHAPE[2], PRECISION)
    grad, grad_rest = load_parts(
        grad_out, batch, head, first, call.row_count, SHAPE[6], SHAPE[3], SHAPE[4], SHAPE[5], True
    )
    v, v_rest = load_parts(
        call.v, batch, head // call.group, first_key, call.key_count, SHAPE[7], SHAPE[3], SHAPE[4], SHAPE[5], True
    )
    grads = product(grad, grad_rest, v, v_rest, SHAPE[5], PRECISION)
    rows = first + tl.arange(0, SHAPE[6])
    known = known_of(lse, batch, head, call.heads, rows, call.row_count, q.dtype == tl.float32)
    means = load_row(mean, batch, head, call.heads, rows, call.row_count, 0.0)
    _, of_z, _ = of_tile(
        products,
        grads,
        call,
        batch,
        head,
        first,
        first_key,
        known,
        means,
        SHAPE[6],
        SHAPE[7],
        MODE,
        False,
        q.dtype == tl.float32,
    )
    return of_z
