"""Gradient of q: one tile of rows over the keys it may attend to. That of a bias, too, where nothing is summed, or all keys are."""

from __future__ import annotations

import triton
import triton.language as tl

from graphckpt.kernels.attention.triton.device import (
    FREE,
    MASKED,
    SPREAD,
    empty_in,
    keys_of,
    load_parts,
    product,
    store_parts,
)
from graphckpt.kernels.attention.triton.forward import not_finite, weighed
from graphckpt.kernels.attention.triton.gradients import known_of, load_row, of_tile


@triton.jit
def queries(
    call,
    grad_out,
    lse,
    mean,
    found,
    bias_found,
    bias_rows_found,
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
    """``found`` as q, heads last. ``bias_found``: dense (B, H, Q, K) of zeros, or None. ``bias_rows_found``: (B, H, Q), or None."""
    tiles = tl.cdiv(call.row_count, ROWS)
    tile = tiles - 1 - tl.program_id(0) % tiles
    index = tl.program_id(0) // tiles
    batch = index // call.heads
    head = index % call.heads
    first = tile * ROWS
    rows = first + tl.arange(0, ROWS)
    q, q_rest = load_parts(call.q, batch, head, rows, call.row_count, WIDTH, SPAN, REST, True)
    grad, grad_rest = load_parts(grad_out, batch, head, rows, call.row_count, VALUE_WIDTH, VALUE_SPAN, VALUE_REST, True)
    known = known_of(lse, batch, head, call.heads, rows, call.row_count)
    means = load_row(mean, batch, head, call.heads, rows, call.row_count, 0.0)
    last = tl.minimum(first + ROWS, call.row_count) - 1
    start, free_start, free_stop, stop = keys_of(call.masks, first, last, call.key_count, KEYS)
    shape: tl.constexpr = (WIDTH, SPAN, REST, VALUE_WIDTH, VALUE_SPAN, VALUE_REST, ROWS, KEYS)
    rows_and = (q, q_rest, grad, grad_rest, known, means, rows)
    acc = tl.zeros([ROWS, SPAN], tl.float32)
    acc_rest = acc
    if REST:
        acc_rest = tl.zeros([ROWS, REST], tl.float32)
    sums = tl.zeros([ROWS], tl.float32)
    if call.masks.keys is None and call.masks.q_documents is None:
        if call.masks.left is not None:
            acc, acc_rest, sums = _walk(
                acc, acc_rest, sums, rows_and, call, batch, head, bias_found, start, free_start, MASKED, False, PRECISION, shape
            )
        acc, acc_rest, sums = _walk(
            acc, acc_rest, sums, rows_and, call, batch, head, bias_found, free_start, free_stop, FREE, False, PRECISION, shape
        )
        acc, acc_rest, sums = _walk(
            acc, acc_rest, sums, rows_and, call, batch, head, bias_found, free_stop, stop, MASKED, False, PRECISION, shape
        )
    else:
        acc, acc_rest, sums = _walk(
            acc, acc_rest, sums, rows_and, call, batch, head, bias_found, start, stop, MASKED, False, PRECISION, shape
        )
    if (
        call.masks.left is not None
        or call.masks.right is not None
        or call.masks.keys is not None
        or call.masks.q_documents is not None
    ):
        if not_finite(acc) + not_finite(acc_rest) > 0:
            acc, acc_rest, sums = _walk(
                tl.zeros_like(acc), tl.zeros_like(acc_rest), tl.zeros_like(sums), rows_and, call, batch, head, bias_found, start, stop, MASKED, True, PRECISION, shape
            )
    if PASSES:
        empty = empty_in(call.masks, batch, rows, call.row_count)
        if tl.max(empty.to(tl.int32), 0) > 0:
            all_acc = tl.zeros([ROWS, SPAN], tl.float32)
            all_rest = all_acc
            if REST:
                all_rest = tl.zeros([ROWS, REST], tl.float32)
            all_acc, all_rest, all_sums = _walk(
                all_acc, all_rest, tl.zeros([ROWS], tl.float32), rows_and, call, batch, head, bias_found, 0, call.key_count, SPREAD,
                False, PRECISION, shape,
            )
            acc = tl.where(empty[:, None], all_acc, acc)
            acc_rest = tl.where(empty[:, None], all_rest, acc_rest)
            sums = tl.where(empty, all_sums, sums)
    acc = acc * call.scores.scale
    if REST:
        acc_rest = acc_rest * call.scores.scale
    store_parts(found, batch, head, call.heads, rows, call.row_count, acc, acc_rest, WIDTH, SPAN, REST)
    if bias_rows_found is not None:
        tl.store(bias_rows_found + index.to(tl.int64) * call.row_count + rows, sums, mask=rows < call.row_count)


@triton.jit
def _walk(
    acc,
    acc_rest,
    sums,
    rows_and,
    call,
    batch,
    head,
    bias_found,
    start,
    stop,
    MODE: tl.constexpr,
    CAREFUL: tl.constexpr,
    PRECISION: tl.constexpr,
    SHAPE: tl.constexpr,
):
    """Sums over the keys from ``start``, a multiple of KEYS, to ``stop``."""
    WIDTH: tl.constexpr = SHAPE[0]
    SPAN: tl.constexpr = SHAPE[1]
    REST: tl.constexpr = SHAPE[2]
    VALUE_WIDTH: tl.constexpr = SHAPE[3]
    VALUE_SPAN: tl.constexpr = SHAPE[4]
    VALUE_REST: tl.constexpr = SHAPE[5]
    ROWS: tl.constexpr = SHAPE[6]
    KEYS: tl.constexpr = SHAPE[7]
    q, q_rest, grad, grad_rest, known, means, rows = rows_and
    key_head = head // call.group
    for first_key in tl.range(start, stop, KEYS):
        keys = first_key + tl.arange(0, KEYS)
        k, k_rest = load_parts(call.k, batch, key_head, keys, call.key_count, WIDTH, SPAN, REST, MODE != FREE)
        v, v_rest = load_parts(
            call.v, batch, key_head, keys, call.key_count, VALUE_WIDTH, VALUE_SPAN, VALUE_REST, MODE != FREE
        )
        products = product(q, q_rest, k, k_rest, REST, PRECISION)
        grads = product(grad, grad_rest, v, v_rest, VALUE_REST, PRECISION)
        _, of_z, of_product = of_tile(
            products, grads, call, batch, head, rows, keys, first_key, known, means, ROWS, KEYS, MODE, False, q.dtype == tl.float32
        )
        if bias_found is not None:
            base = bias_found + (batch * call.heads + head).to(tl.int64) * call.row_count * call.key_count
            at = base + rows.to(tl.int64)[:, None] * call.key_count + keys[None, :]
            within = (rows[:, None] < call.row_count) & (keys[None, :] < call.key_count)
            if MODE == SPREAD:
                within = within & empty_in(call.masks, batch, rows[:, None], call.row_count)
            tl.store(at, of_z.to(bias_found.dtype.element_ty), mask=within)
        sums += tl.sum(of_z, 1)
        of_product = of_product.to(k.dtype)
        acc = weighed(of_product, k, acc, CAREFUL, PRECISION)
        if REST:
            acc_rest = weighed(of_product, k_rest, acc_rest, CAREFUL, PRECISION)
    return acc, acc_rest, sums
