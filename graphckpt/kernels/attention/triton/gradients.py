"""What one tile of rows and keys gives to the gradients, whichever kernel asks."""

from __future__ import annotations

import triton
import triton.language as tl

from graphckpt.kernels.attention.triton.device import FREE, SPREAD, allowed_by, exponents, kept_in, power, unit


@triton.jit
def load_row(data, batch, head, heads, rows, row_count, OTHER: tl.constexpr):
    """Of a dense (B, H, Q) the ``rows`` of a head; OTHER beyond the last."""
    at = data + (batch * heads + head).to(tl.int64) * row_count + rows
    return tl.load(at, mask=rows < row_count, other=OTHER)


@triton.jit
def known_of(lse, batch, head, heads, rows, row_count, EXACT: tl.constexpr):
    """Logarithms of the sums of rows in units of `unit`; infinite where a row attends to nothing, so that all its weights are 0."""
    known = load_row(lse, batch, head, heads, rows, row_count, float("inf"))
    return tl.where(known == float("-inf"), float("inf"), known) * unit(EXACT)


@triton.jit
def of_tile(
    products,
    grads,
    call,
    batch,
    head,
    first,
    first_key,
    known,
    mean,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    MODE: tl.constexpr,
    TURNED: tl.constexpr,
    EXACT: tl.constexpr,
):
    """Weights after dropout, less its factor; the gradient of exponents, which is the bias's; and that of scaled products.

    ``products`` of q and k, ``grads`` of the gradient of out and v; ``known`` and ``mean`` are vectors of its rows.
    """
    rows = first + tl.arange(0, ROWS)
    keys = first_key + tl.arange(0, KEYS)
    if TURNED:
        rows2, keys2, known, mean = rows[None, :], keys[:, None], known[None, :], mean[None, :]
    else:
        rows2, keys2, known, mean = rows[:, None], keys[None, :], known[:, None], mean[:, None]
    z, slope = exponents(
        products, call, batch, head, first, first_key, rows2, keys2, call.row_count, call.key_count, EXACT
    )
    if MODE == SPREAD:
        z = tl.zeros_like(products)
    weights = power(z - known, EXACT)
    if MODE != FREE:
        allowed = allowed_by(call.masks, batch, rows2, keys2, call.row_count, call.key_count, MODE)
        weights = tl.where(allowed, weights, 0.0)
    kept = weights
    if call.dropout is not None:
        keep = kept_in(call.dropout, rows, first_key, batch * call.heads + head, ROWS, KEYS, TURNED)
        grads = tl.where(keep, grads * call.dropout.inverse, 0.0)
        kept = tl.where(keep, weights, 0.0)
    of_z = weights * (grads - mean)
    if MODE != FREE:
        # A weight of 0 leaves out what is no number.
        of_z = tl.where(weights == 0.0, 0.0, of_z)
    of_product = of_z
    if call.scores.softcap is not None:
        of_product = of_z * slope
        if MODE != FREE:
            of_product = tl.where(weights == 0.0, 0.0, of_product)
    return kept, of_z, of_product
