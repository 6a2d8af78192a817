"""What a call costs before it runs: arithmetic. What it holds beside its results is measured, as any kernel's is.

Flops by the usual convention, a multiplication and an addition apart, of products alone and of pairs in the band alone: causal
attention costs half. Masks that depend on data (padding, documents) are not known and cost as if all were attended to.
"""

from __future__ import annotations

from graphckpt.kernels.attention.meaning import Band, Sizes


def forward_flops(sizes: Sizes, band: Band) -> int:
    """Two products a pair: scores and what they weigh."""
    return 2 * _pairs(sizes, band) * (sizes.width + sizes.value_width)


def backward_flops(sizes: Sizes, band: Band) -> int:
    """Five products a pair: scores again, and the gradients of weights, v, q and k."""
    return 2 * _pairs(sizes, band) * (3 * sizes.width + 2 * sizes.value_width)


def _pairs(sizes: Sizes, band: Band) -> int:
    return sizes.batch * sizes.heads * band.pairs(sizes.rows, sizes.keys)
