"""Gradient of q: one tile of rows over the keys it may attend to. That of a bias, too, where nothing is summed, or all keys are."""

from __future__ import annotations

import triton
import triton.language as tl

from graphckpt.kernels.attention.triton.device import (
    FREE,
    MASKED,
    SPREAD,
    empty_in,
    is_told,
    keys_of,
    not_finite,
    product,
    read_parts,
    store_parts,
    tell_rows,
    tiles_of,
    word_of,
)
from graphckpt.kernels.attention.triton.forward import weighed
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
    rare,
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
    TOLD: tl.constexpr,
    DESCRIBED: tl.constexpr,
):
    """``found`` as q, heads last. ``bias_found``: dense (B, H, Q, K) of zeros, or None. ``bias_rows_found``: (B, H, Q), or None.
    ``rare`` and RARE as in forward; here keys that are no numbers are what a product would spread."""
    tiles = tl.cdiv(call.row_count, ROWS)
    tile = tiles - 1 - tl.program_id(0) % tiles
    index = tl.program_id(0) // tiles
    batch = index // call.heads
    head = index % call.heads
    first = tile * ROWS
    word = rare
    if rare is not None:
        word = word_of(rare, index, first, call.row_count, TOLD)
    if RARE:  # noqa: SIM102
        if is_told(word, first, call.row_count, ROWS, TOLD) == 0:
            return
    rows = first + tl.arange(0, ROWS)
    q_tiles = tiles_of(call.q, batch, head, call.row_count, ROWS, SPAN, DESCRIBED)
    q, q_rest = read_parts(q_tiles, call.q, batch, head, first, call.row_count, ROWS, WIDTH, SPAN, REST, True)
    grad_tiles = tiles_of(grad_out, batch, head, call.row_count, ROWS, VALUE_SPAN, DESCRIBED)
    grad, grad_rest = read_parts(
        grad_tiles, grad_out, batch, head, first, call.row_count, ROWS, VALUE_WIDTH, VALUE_SPAN, VALUE_REST, True
    )
    known = known_of(lse, batch, head, call.heads, rows, call.row_count, q.dtype == tl.float32)
    means = load_row(mean, batch, head, call.heads, rows, call.row_count, 0.0)
    last = tl.minimum(first + ROWS, call.row_count) - 1
    start, free_start, free_stop, stop = keys_of(call.masks, first, last, call.key_count, KEYS)
    shape: tl.constexpr = (WIDTH, SPAN, REST, VALUE_WIDTH, VALUE_SPAN, VALUE_REST, ROWS, KEYS, DESCRIBED)
    mine = (q, q_rest, grad, grad_rest, known, means, batch, head, first)
    acc = tl.zeros([ROWS, SPAN], tl.float32)
    acc_rest = acc
    if REST:
        acc_rest = tl.zeros([ROWS, REST], tl.float32)
    sums = tl.zeros([ROWS], tl.float32)
    accs = (acc, acc_rest, sums)
    if DESCRIBED or RARE or call.masks.keys is not None or call.masks.q_documents is not None:
        accs = _walk(accs, mine, call, bias_found, start, stop, MASKED, RARE, PRECISION, shape)
    else:
        if call.masks.left is not None:
            accs = _walk(accs, mine, call, bias_found, start, free_start, MASKED, False, PRECISION, shape)
        accs = _walk(accs, mine, call, bias_found, free_start, free_stop, FREE, False, PRECISION, shape)
        accs = _walk(accs, mine, call, bias_found, free_stop, stop, MASKED, False, PRECISION, shape)
    acc, acc_rest, sums = accs
    if RARE and PASSES:
        empty = empty_in(call.masks, batch, rows, call.row_count)
        unseen = (tl.zeros_like(acc), tl.zeros_like(acc_rest), sums)
        spread, spread_rest, sums = _walk(
            unseen, mine, call, bias_found, 0, call.key_count, SPREAD, False, PRECISION, shape
        )
        acc = tl.where(empty[:, None], spread, acc)
        if REST:
            acc_rest = tl.where(empty[:, None], spread_rest, acc_rest)
    if DESCRIBED and rare is not None:
        tell_rows(word, acc, first, call.row_count, ROWS)
    elif not RARE and rare is not None:
        unusual = not_finite(acc) + not_finite(acc_rest)
        if PASSES:
            unusual += tl.max(empty_in(call.masks, batch, rows, call.row_count).to(tl.int32))
        tl.store(word, (unusual > 0).to(tl.int8))
    acc = acc * call.scores.scale
    if REST:
        acc_rest = acc_rest * call.scores.scale
    store_parts(found, batch, head, call.heads, rows, call.row_count, acc, acc_rest, WIDTH, SPAN, REST)
    if bias_rows_found is not None:
        tl.store(bias_rows_found + index.to(tl.int64) * call.row_count + rows, sums, mask=rows < call.row_count)


@triton.jit
def _walk(
    accs,
    mine,
    call,
    bias_found,
    start,
    stop,
    MODE: tl.constexpr,
    CAREFUL: tl.constexpr,
    PRECISION: tl.constexpr,
    SHAPE: tl.constexpr,
):
    """Sums over the keys from ``start``, a multiple of KEYS, to ``stop``."""
    acc, acc_rest, sums = accs
    q, q_rest, grad, grad_rest, known, means, batch, head, first = mine
    WIDTH: tl.constexpr = SHAPE[0]
    SPAN: tl.constexpr = SHAPE[1]
    REST: tl.constexpr = SHAPE[2]
    VALUE_WIDTH: tl.constexpr = SHAPE[3]
    VALUE_SPAN: tl.constexpr = SHAPE[4]
    VALUE_REST: tl.constexpr = SHAPE[5]
    ROWS: tl.constexpr = SHAPE[6]
    KEYS: tl.constexpr = SHAPE[7]
    DESCRIBED: tl.constexpr = SHAPE[8]
    rows = first + tl.arange(0, ROWS)
    key_head = head // call.group
    k_tiles = tiles_of(call.k, batch, key_head, call.key_count, KEYS, SPAN, DESCRIBED)
    v_tiles = tiles_of(call.v, batch, key_head, call.key_count, KEYS, VALUE_SPAN, DESCRIBED)
    for first_key in tl.range(start, stop, KEYS, warp_specialize=DESCRIBED):
        keys = first_key + tl.arange(0, KEYS)
        k, k_rest = read_parts(
            k_tiles, call.k, batch, key_head, first_key, call.key_count, KEYS, WIDTH, SPAN, REST, MODE != FREE
        )
        v, v_rest = read_parts(
            v_tiles,
            call.v,
            batch,
            key_head,
            first_key,
            call.key_count,
            KEYS,
            VALUE_WIDTH,
            VALUE_SPAN,
            VALUE_REST,
            MODE != FREE,
        )
        products = product(q, q_rest, k, k_rest, REST, PRECISION)
        grads = product(grad, grad_rest, v, v_rest, VALUE_REST, PRECISION)
        _, of_z, of_product = of_tile(
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
            False,
            q.dtype == tl.float32,
        )
        if bias_found is not None:
            at = (
                bias_found
                + ((batch * call.heads + head).to(tl.int64) * call.row_count + rows)[:, None] * call.key_count
            )
            at = at + keys[None, :]
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
