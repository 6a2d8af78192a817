"""Forward: out and log-sum-exp of one tile of rows, over the keys it may attend to (FlashAttention, arXiv 2205.14135, algorithm 1).

What is no number in a value shows only in rows that weigh it. A product has no such rule (0 times NaN is NaN), and checking every
value would cost what the product does. So where there are masks a program leaves word of a tile whose sum is not finite, and of one
with rows that see nothing; the same kernel, RARE, then does those tiles again with care, and has nothing to do for all others.

DESCRIBED: operands come by the tensor memory accelerator of sm_90 and sm_100, and some warps do nothing but ask for them (warp
specialization). Triton 3.7 does that to one loop a kernel, so all tiles are masked alike where one is.
"""

from __future__ import annotations

import triton
import triton.language as tl

from graphckpt.kernels.attention.triton.device import (
    FREE,
    LN2,
    MASKED,
    SPREAD,
    allowed_by,
    empty_in,
    exponents,
    is_told,
    kept_in,
    keys_of,
    not_finite,
    power,
    product,
    read_parts,
    store_parts,
    tell_rows,
    tiles_of,
    unit,
    word_of,
)


@triton.jit
def forward(
    call,
    out,
    lse,
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
    RARE: tl.constexpr,
    TOLD: tl.constexpr,
    DESCRIBED: tl.constexpr,
):
    """One program a tile of rows of a head; tiles that read most come first under a causal band. ``rare``: int8
    (B, H, tiles of TOLD rows), which are to be done again; None where there are no masks. DESCRIBED: no RARE, nothing but a band,
    no rest of a head, and a TOLD of 1."""
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
    last = tl.minimum(first + ROWS, call.row_count) - 1
    start, free_start, free_stop, stop = keys_of(call.masks, first, last, call.key_count, KEYS)
    EXACT: tl.constexpr = q.dtype == tl.float32
    largest, total = _none(call.sinks, head, ROWS, EXACT)
    acc = tl.zeros([ROWS, VALUE_SPAN], tl.float32)
    acc_rest = acc
    if VALUE_REST:
        acc_rest = tl.zeros([ROWS, VALUE_REST], tl.float32)
    shape: tl.constexpr = (WIDTH, SPAN, REST, VALUE_WIDTH, VALUE_SPAN, VALUE_REST, ROWS, KEYS, DESCRIBED)
    mine = (q, q_rest, batch, head, first)
    sums = (acc, acc_rest, largest, total)
    if DESCRIBED or RARE or call.masks.keys is not None or call.masks.q_documents is not None:
        sums = _walk(sums, mine, call, start, stop, MASKED, RARE, PRECISION, shape)
    else:
        if call.masks.left is not None:
            sums = _walk(sums, mine, call, start, free_start, MASKED, False, PRECISION, shape)
        sums = _walk(sums, mine, call, free_start, free_stop, FREE, False, PRECISION, shape)
        sums = _walk(sums, mine, call, free_stop, stop, MASKED, False, PRECISION, shape)
    acc, acc_rest, largest, total = sums
    if RARE and call.masks.empty is not None:
        empty = empty_in(call.masks, batch, rows, call.row_count)
        # Rows that are empty have seen nothing yet, and the others see nothing more.
        unseen = (tl.zeros_like(acc), tl.zeros_like(acc_rest), largest, total)
        spread, spread_rest, largest, total = _walk(
            unseen, mine, call, 0, call.key_count, SPREAD, False, PRECISION, shape
        )
        acc = tl.where(empty[:, None], spread, acc)
        if VALUE_REST:
            acc_rest = tl.where(empty[:, None], spread_rest, acc_rest)
    if DESCRIBED and rare is not None:
        tell_rows(word, acc, first, call.row_count, ROWS)
    elif not RARE and rare is not None:
        unusual = not_finite(acc) + not_finite(acc_rest)
        if call.masks.empty is not None:
            unusual += tl.max(tl.where((total == 0.0) & (rows < call.row_count), 1, 0))
        tl.store(word, (unusual > 0).to(tl.int8))
    scale = 1.0 / tl.where(total == 0.0, 1.0, total)
    if call.dropout is not None:
        scale = scale * call.dropout.inverse
    acc = acc * scale[:, None]
    if VALUE_REST:
        acc_rest = acc_rest * scale[:, None]
    store_parts(out, batch, head, call.heads, rows, call.row_count, acc, acc_rest, VALUE_WIDTH, VALUE_SPAN, VALUE_REST)
    where = lse + index.to(tl.int64) * call.row_count + rows
    logarithm = largest + tl.log2(total) * LN2 if EXACT else (largest + tl.log2(total)) * LN2
    tl.store(where, logarithm, mask=rows < call.row_count)


@triton.jit
def _none(sinks, head, ROWS: tl.constexpr, EXACT: tl.constexpr):
    """The largest exponent and the sum of rows that have seen nothing yet but their sink."""
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    if sinks is not None:
        sink = tl.load(sinks + head).to(tl.float32) * unit(EXACT)
        largest = tl.zeros([ROWS], tl.float32) + sink
        total = tl.where(largest == float("-inf"), 0.0, 1.0)
    return largest, total


@triton.jit
def _walk(
    sums,
    mine,
    call,
    start,
    stop,
    MODE: tl.constexpr,
    CAREFUL: tl.constexpr,
    PRECISION: tl.constexpr,
    SHAPE: tl.constexpr,
):
    """Sums over the keys from ``start``, a multiple of KEYS, to ``stop``."""
    acc, acc_rest, largest, total = sums
    q, q_rest, batch, head, first = mine
    WIDTH: tl.constexpr = SHAPE[0]
    SPAN: tl.constexpr = SHAPE[1]
    REST: tl.constexpr = SHAPE[2]
    VALUE_WIDTH: tl.constexpr = SHAPE[3]
    VALUE_SPAN: tl.constexpr = SHAPE[4]
    VALUE_REST: tl.constexpr = SHAPE[5]
    ROWS: tl.constexpr = SHAPE[6]
    KEYS: tl.constexpr = SHAPE[7]
    DESCRIBED: tl.constexpr = SHAPE[8]
    EXACT: tl.constexpr = q.dtype == tl.float32
    key_head = head // call.group
    rows = first + tl.arange(0, ROWS)
    k_tiles = tiles_of(call.k, batch, key_head, call.key_count, KEYS, SPAN, DESCRIBED)
    v_tiles = tiles_of(call.v, batch, key_head, call.key_count, KEYS, VALUE_SPAN, DESCRIBED)
    for first_key in tl.range(start, stop, KEYS, warp_specialize=DESCRIBED):
        keys = first_key + tl.arange(0, KEYS)
        k, k_rest = read_parts(
            k_tiles, call.k, batch, key_head, first_key, call.key_count, KEYS, WIDTH, SPAN, REST, MODE != FREE
        )
        z = product(q, q_rest, k, k_rest, REST, PRECISION)
        z, _ = exponents(
            z,
            call,
            batch,
            head,
            first,
            first_key,
            rows[:, None],
            keys[None, :],
            call.row_count,
            call.key_count,
            EXACT,
        )
        if MODE != FREE:
            allowed = allowed_by(call.masks, batch, rows[:, None], keys[None, :], call.row_count, call.key_count, MODE)
            z = tl.where(allowed, 0.0 if MODE == SPREAD else z, float("-inf"))
        larger = tl.maximum(largest, tl.max(z, 1))
        known = larger
        if MODE != FREE or call.bias.data is not None:
            known = tl.where(larger == float("-inf"), 0.0, larger)
        weights = power(z - known[:, None], EXACT)
        shrunk = power(largest - known, EXACT)
        total = total * shrunk + tl.sum(weights, 1)
        largest = larger
        if call.dropout is not None:
            index = batch * call.heads + head
            weights = tl.where(kept_in(call.dropout, rows, first_key, index, ROWS, KEYS, False), weights, 0.0)
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
        weights = weights.to(v.dtype)
        acc = weighed(weights, v, acc * shrunk[:, None], CAREFUL, PRECISION)
        if VALUE_REST:
            acc_rest = weighed(weights, v_rest, acc_rest * shrunk[:, None], CAREFUL, PRECISION)
    return acc, acc_rest, largest, total


@triton.jit
def weighed(weights, operand, acc, CAREFUL: tl.constexpr, PRECISION: tl.constexpr):
    """``acc`` and weights times operand. With care, a weight of 0 leaves out what is no number, and any other makes it show."""
    if CAREFUL:
        strange = tl.abs(operand.to(tl.float32)) < float("inf")
        numbers = tl.where(strange, operand, 0.0).to(operand.dtype)
        shown = tl.dot(
            (weights != 0).to(operand.dtype), tl.where(strange, 0.0, 1.0).to(operand.dtype), input_precision=PRECISION
        )
        acc = tl.dot(weights, numbers, acc, input_precision=PRECISION)
        acc = tl.where(shown > 0, float("nan"), acc)
    else:
        acc = tl.dot(weights, operand, acc, input_precision=PRECISION)
    return acc
