"""Gradients of k and v: one tile of keys over the rows that may attend to it, of all heads that share it, in ascending order.

Scores are computed turned, (keys, rows), so that what is multiplied next lies in registers. Of a bias that is the same in all
rows, the gradient of each head is summed here too.
"""

from __future__ import annotations

import triton
import triton.language as tl

from graphckpt.kernels.attention.triton.device import (
    FREE,
    MASKED,
    SPREAD,
    empty_in,
    product,
    read_parts,
    rows_of,
    store_parts,
    tiles_of,
)
from graphckpt.kernels.attention.triton.gradients import known_of, load_row, of_tile


@triton.jit
def keys_values(
    call,
    grad_out,
    lse,
    mean,
    k_found,
    v_found,
    bias_found,
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
    RARE: tl.constexpr,
    DESCRIBED: tl.constexpr,
):
    """``k_found`` and ``v_found`` as k and v, heads last. ``bias_found``: (B, H, K), or None. RARE: of batches with rows that are
    empty, which attend to every key. DESCRIBED as in forward."""
    tiles = tl.cdiv(call.key_count, KEYS)
    tile = tl.program_id(0) % tiles
    index = tl.program_id(0) // tiles
    key_heads = call.heads // call.group
    batch = index // key_heads
    key_head = index % key_heads
    if RARE:  # noqa: SIM102
        if any_empty(call.masks, batch, call.row_count) == 0:
            return
    first_key = tile * KEYS
    keys = first_key + tl.arange(0, KEYS)
    k_tiles = tiles_of(call.k, batch, key_head, call.key_count, KEYS, SPAN, DESCRIBED)
    k, k_rest = read_parts(k_tiles, call.k, batch, key_head, first_key, call.key_count, KEYS, WIDTH, SPAN, REST, True)
    v_tiles = tiles_of(call.v, batch, key_head, call.key_count, KEYS, VALUE_SPAN, DESCRIBED)
    v, v_rest = read_parts(
        v_tiles, call.v, batch, key_head, first_key, call.key_count, KEYS, VALUE_WIDTH, VALUE_SPAN, VALUE_REST, True
    )
    last = tl.minimum(first_key + KEYS, call.key_count) - 1
    start, stop = rows_of(call.masks, first_key, last, call.row_count, ROWS)
    shape: tl.constexpr = (WIDTH, SPAN, REST, VALUE_WIDTH, VALUE_SPAN, VALUE_REST, ROWS, KEYS, DESCRIBED)
    mine = (k, k_rest, v, v_rest, first_key)
    theirs = (grad_out, lse, mean)
    k_acc = tl.zeros([KEYS, SPAN], tl.float32)
    k_acc_rest = k_acc
    if REST:
        k_acc_rest = tl.zeros([KEYS, REST], tl.float32)
    v_acc = tl.zeros([KEYS, VALUE_SPAN], tl.float32)
    v_acc_rest = v_acc
    if VALUE_REST:
        v_acc_rest = tl.zeros([KEYS, VALUE_REST], tl.float32)
    for member in tl.range(0, call.group):
        head = key_head * call.group + member
        accs = (k_acc, k_acc_rest, v_acc, v_acc_rest, tl.zeros([KEYS], tl.float32))
        # One walk, masked throughout where there are masks: two hold more registers than the masks cost.
        if (
            call.masks.left is not None
            or call.masks.right is not None
            or call.masks.keys is not None
            or call.masks.q_documents is not None
        ):
            accs = _walk(accs, mine, theirs, call, batch, head, start, stop, MASKED, PASSES, PRECISION, shape)
        else:
            accs = _walk(accs, mine, theirs, call, batch, head, start, stop, FREE, PASSES, PRECISION, shape)
        if RARE:
            accs = _walk(accs, mine, theirs, call, batch, head, 0, call.row_count, SPREAD, PASSES, PRECISION, shape)
        k_acc, k_acc_rest, v_acc, v_acc_rest, sums = accs
        if bias_found is not None:
            at = bias_found + (batch * call.heads + head).to(tl.int64) * call.key_count + keys
            tl.store(at, sums, mask=keys < call.key_count)
    k_acc = k_acc * call.scores.scale
    if REST:
        k_acc_rest = k_acc_rest * call.scores.scale
    if call.dropout is not None:
        v_acc = v_acc * call.dropout.inverse
        if VALUE_REST:
            v_acc_rest = v_acc_rest * call.dropout.inverse
    store_parts(k_found, batch, key_head, key_heads, keys, call.key_count, k_acc, k_acc_rest, WIDTH, SPAN, REST)
    store_parts(
        v_found,
        batch,
        key_head,
        key_heads,
        keys,
        call.key_count,
        v_acc,
        v_acc_rest,
        VALUE_WIDTH,
        VALUE_SPAN,
        VALUE_REST,
    )


@triton.jit
def any_empty(masks, batch, row_count):
    """Above 0 where a row of this batch is empty."""
    found = 0
    for first_row in tl.range(0, row_count, 1024):
        found = tl.maximum(
            found, tl.max(empty_in(masks, batch, first_row + tl.arange(0, 1024), row_count).to(tl.int32))
        )
    return found


@triton.jit
def _walk(
    accs,
    mine,
    theirs,
    call,
    batch,
    head,
    start,
    stop,
    MODE: tl.constexpr,
    PASSES: tl.constexpr,
    PRECISION: tl.constexpr,
    SHAPE: tl.constexpr,
):
    """Sums over the rows from ``start``, a multiple of ROWS, to ``stop``; of a spread, over tiles with rows that are empty."""
    ROWS: tl.constexpr = SHAPE[6]
    DESCRIBED: tl.constexpr = SHAPE[8]
    k_acc, k_acc_rest, v_acc, v_acc_rest, sums = accs
    q_tiles = tiles_of(call.q, batch, head, call.row_count, ROWS, SHAPE[1], DESCRIBED)
    grad_tiles = tiles_of(theirs[0], batch, head, call.row_count, ROWS, SHAPE[4], DESCRIBED)
    for first_row in tl.range(start, stop, ROWS, warp_specialize=DESCRIBED):
        if MODE == SPREAD:
            rows = first_row + tl.arange(0, ROWS)
            if tl.max(empty_in(call.masks, batch, rows, call.row_count).to(tl.int32), 0) > 0:
                k_acc, k_acc_rest, v_acc, v_acc_rest, sums = _add(
                    k_acc,
                    k_acc_rest,
                    v_acc,
                    v_acc_rest,
                    sums,
                    mine,
                    theirs,
                    q_tiles,
                    grad_tiles,
                    call,
                    batch,
                    head,
                    first_row,
                    MODE,
                    PASSES,
                    PRECISION,
                    SHAPE,
                )
        else:
            k_acc, k_acc_rest, v_acc, v_acc_rest, sums = _add(
                k_acc,
                k_acc_rest,
                v_acc,
                v_acc_rest,
                sums,
                mine,
                theirs,
                q_tiles,
                grad_tiles,
                call,
                batch,
                head,
                first_row,
                MODE,
                True,
                PRECISION,
                SHAPE,
            )
    return k_acc, k_acc_rest, v_acc, v_acc_rest, sums


@triton.jit
def _add(
    k_acc,
    k_acc_rest,
    v_acc,
    v_acc_rest,
    sums,
    mine,
    theirs,
    q_tiles,
    grad_tiles,
    call,
    batch,
    head,
    first,
    MODE: tl.constexpr,
    PASSES: tl.constexpr,
    PRECISION: tl.constexpr,
    SHAPE: tl.constexpr,
):
    """What one tile of rows gives."""
    WIDTH: tl.constexpr = SHAPE[0]
    SPAN: tl.constexpr = SHAPE[1]
    REST: tl.constexpr = SHAPE[2]
    VALUE_WIDTH: tl.constexpr = SHAPE[3]
    VALUE_SPAN: tl.constexpr = SHAPE[4]
    VALUE_REST: tl.constexpr = SHAPE[5]
    ROWS: tl.constexpr = SHAPE[6]
    KEYS: tl.constexpr = SHAPE[7]
    k, k_rest, v, v_rest, first_key = mine
    grad_out, lse, mean = theirs
    q, q_rest = read_parts(q_tiles, call.q, batch, head, first, call.row_count, ROWS, WIDTH, SPAN, REST, True)
    grad, grad_rest = read_parts(
        grad_tiles, grad_out, batch, head, first, call.row_count, ROWS, VALUE_WIDTH, VALUE_SPAN, VALUE_REST, True
    )
    rows = first + tl.arange(0, ROWS)
    known = known_of(lse, batch, head, call.heads, rows, call.row_count, q.dtype == tl.float32)
    means = load_row(mean, batch, head, call.heads, rows, call.row_count, 0.0)
    products = product(k, k_rest, q, q_rest, REST, PRECISION)
    grads = product(v, v_rest, grad, grad_rest, VALUE_REST, PRECISION)
    kept, of_z, of_product = of_tile(
        products,
        grads,
        call,
        batch,
        head,
        first,
        first_key,
        known,
        means,
        ROWS,
        KEYS,
        MODE,
        True,
        q.dtype == tl.float32,
    )
    kept = kept.to(grad.dtype)
    v_acc = tl.dot(kept, grad, v_acc, input_precision=PRECISION)
    if VALUE_REST:
        v_acc_rest = tl.dot(kept, grad_rest, v_acc_rest, input_precision=PRECISION)
    if PASSES:
        sums += tl.sum(of_z, 1)
        of_product = of_product.to(q.dtype)
        k_acc = tl.dot(of_product, q, k_acc, input_precision=PRECISION)
        if REST:
            k_acc_rest = tl.dot(of_product, q_rest, k_acc_rest, input_precision=PRECISION)
    return k_acc, k_acc_rest, v_acc, v_acc_rest, sums
