"""Calls for the interpreter: few tiles, which take their time whatever their size.

     keys  0       64      128 to 149
rows 0     tile    tile    a short one
     64 to 99  short rows, three tiles
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from graphckpt.kernels.attention.api import run
from graphckpt.kernels.attention.meaning import Attention
from tests.kernels.attention import cases
from tests.kernels.attention.cases import FLAGS

LONG = (100, 150)
# Two tiles by two, for what is tried often.
SHORT = (70, 100)


def call_of(
    flags: tuple[str, ...], dtype: torch.dtype, key_heads: int = 2, lengths: tuple[int, int] = LONG
) -> Attention:
    """The call of `tests.kernels.attention.cases` with so many rows and keys, and of as many heads of keys: 1 costs half."""
    rows, keys = lengths
    call = cases.call_of(flags, dtype)
    # Two heads share one of keys where three did: the second is where it shows.
    heads = key_heads * (2 if "grouped" in flags else 1)
    return call._replace(
        q=call.q[:, :heads, :rows],
        k=call.k[:, :key_heads, :keys],
        v=call.v[:, :key_heads, :keys],
        bias=None if call.bias is None else call.bias[:, :heads, :rows, :keys],
        sinks=None if call.sinks is None else call.sinks[:heads],
        keys=None if call.keys is None else call.keys[:, :keys],
        q_documents=None if call.q_documents is None else call.q_documents[:, :rows],
        k_documents=None if call.k_documents is None else call.k_documents[:, :keys],
        band=call.band._replace(offset=keys - rows if "causal" in flags else 0),
    )


def triton(call: Attention) -> tuple[Tensor, Tensor]:
    """By the kernels."""
    return run(call, "triton")


def revealed(call: Attention) -> Tensor | None:
    """The mask that the kernel itself draws: all weights alike, and values that tell keys apart."""
    if call.dropout == 0:
        return None
    sizes = call.sizes
    q = call.q.new_zeros(sizes.batch, sizes.heads, sizes.rows, 16)
    k = call.q.new_zeros(sizes.batch, sizes.key_heads, sizes.keys, 16)
    v = torch.eye(sizes.keys, dtype=q.dtype).expand(sizes.batch, sizes.key_heads, -1, -1)
    return triton(Attention(q, k, v, 1.0, seed=call.seed, dropout=call.dropout))[0] > 0


def gradients_for(call: Attention) -> tuple[Tensor, Tensor]:
    """Of out and of lse, in fp64."""
    drawn = torch.Generator().manual_seed(5)
    sizes = call.sizes
    shape = (sizes.batch, sizes.heads, sizes.rows)
    grad_out = torch.randn(*shape, sizes.value_width, generator=drawn, dtype=torch.float64)
    return grad_out, torch.randn(shape, generator=drawn, dtype=torch.float64)


def together(flags: tuple[str, ...]) -> bool:
    """Whether a call may have all of them."""
    return not {"bias", "row_bias"}.issubset(flags)


def bundles(size: int) -> list[tuple[str, ...]]:
    """Sets of at most ``size`` flags, so that every two that may be together are so in one: each takes in what is new with most."""
    missing = {pair for pair in combinations(FLAGS, 2) if together(pair)}
    found = []
    while missing:
        bundle = min(missing)
        while len(bundle) < size:
            options = [flag for flag in FLAGS if flag not in bundle and together((*bundle, flag))]
            gains = {flag: len(missing & _pairs((*bundle, flag))) - len(missing & _pairs(bundle)) for flag in options}
            best = max(options, key=lambda flag: gains[flag])
            if not gains[best]:
                break
            bundle = (*bundle, best)
        found.append(tuple(flag for flag in FLAGS if flag in bundle))
        missing -= _pairs(bundle)
    return found


def _pairs(flags: tuple[str, ...]) -> set[tuple[str, str]]:
    return set(combinations([flag for flag in FLAGS if flag in flags], 2))
