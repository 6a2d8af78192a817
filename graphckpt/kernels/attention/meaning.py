"""What attention means here. All implementations compute this; `graphckpt.kernels.attention.reference` does so plainly.

With B batches, H heads, Hk heads of keys (H a multiple of Hk: head h reads keys of head h // (H / Hk)), Q queries and K keys,

    s[b,h,i,j]  = scale * <q[b,h,i], k[b,hk,j]>
    c[b,h,i,j]  = softcap * tanh(s / softcap), or s where softcap is 0
    z[b,h,i,j]  = c + bias[b,h,i,j], or -inf where i may not attend to j
    lse[b,h,i]  = log(sum over j of exp z, plus exp sinks[h])
    out[b,h,i]  = sum over j of exp(z - lse) * keep[b,h,i,j] / (1 - dropout) * v[b,hk,j]

i may attend to j if j lies in the band around i, keys[b,j] holds and both are of one document. ``keep`` is drawn from the seed.

A row that may attend to nothing: where it is ``uniform`` (`PASSES` or `STOPS`) and there are no sinks, all K keys weigh alike,
masked ones too; its lse is log K. That is what eager gives that adds the most negative number to hidden scores, where gradients
pass through the scores (`PASSES`), or puts it in their place, where they do not (`STOPS`). Else (`NOTHING`) out is 0, lse -inf (the
sink's logit where there are sinks), and nothing gets a gradient from it.

Arithmetic is in fp32 for half-precision tensors and in the tensors' own type for fp32 and fp64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# A side of a band that is open.
OPEN = -1
# What a row gives that may attend to nothing.
NOTHING, PASSES, STOPS = 0, 1, 2


class Band(NamedTuple):
    """Query i may attend to keys from ``i + offset - left`` to ``i + offset + right``; `OPEN` is without end."""

    left: int = OPEN
    right: int = OPEN
    offset: int = 0

    def keys_of(self, first_row: int, last_row: int, key_count: int) -> tuple[int, int]:
        """The range of keys, as start and stop, outside of which none of these rows may attend; empty as (0, 0)."""
        start = 0 if self.left == OPEN else max(0, first_row + self.offset - self.left)
        stop = key_count if self.right == OPEN else min(key_count, last_row + self.offset + self.right + 1)
        return (start, stop) if start < stop else (0, 0)

    def pairs(self, row_count: int, key_count: int) -> int:
        """Pairs of a query and a key in the band. Counts may be symbols, and are tied to no number."""
        up_to_right = row_count * key_count if self.right == OPEN else _pairs_up_to(self.offset + self.right, row_count, key_count)
        before_left = 0 if self.left == OPEN else _pairs_up_to(self.offset - self.left - 1, row_count, key_count)
        return up_to_right - before_left

    @property
    def is_open(self) -> bool:
        """Whether it leaves out nothing."""
        return self.left == OPEN and self.right == OPEN


def _pairs_up_to(ahead: int, row_count: int, key_count: int) -> int:
    """Pairs (i, j) with j - i of ``ahead`` at most: the sum over rows of i + ahead + 1, if that is a number of keys."""

    def keys_below(end: int) -> int:
        """The sum of 0, 1, ... below ``end``, each taken as ``key_count`` where it is more."""
        rising = torch.sym_min(torch.sym_max(end, 0), key_count)
        return rising * (rising - 1) // 2 + key_count * torch.sym_max(end - key_count, 0)

    return keys_below(ahead + 1 + row_count) - keys_below(ahead + 1)


class Attention(NamedTuple):
    """One call. ``q`` (B, H, Q, D), ``k`` (B, Hk, K, D), ``v`` (B, Hk, K, Dv), any strides.

    ``bias``: broadcasts to (B, H, Q, K); ``keys``: bool (B, K), true where a key may be attended to; ``q_documents`` and
    ``k_documents``: integers (B, Q) and (B, K), both or none; ``sinks``: (H,); ``seed``: int64 of no dimension, needed for dropout.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    bias: Tensor | None = None
    keys: Tensor | None = None
    q_documents: Tensor | None = None
    k_documents: Tensor | None = None
    sinks: Tensor | None = None
    seed: Tensor | None = None
    band: Band = Band()
    softcap: float = 0.0
    dropout: float = 0.0
    uniform: int = PASSES

    @property
    def sizes(self) -> Sizes:
        """The numbers of batches, heads and so on."""
        batch, heads, rows, width = self.q.shape
        return Sizes(batch, heads, rows, self.k.shape[1], self.k.shape[2], width, self.v.shape[3])

    @property
    def spreads_evenly(self) -> bool:
        """Whether a row that may attend to nothing attends to everything."""
        return self.uniform != NOTHING and self.sinks is None

    @property
    def accumulates_in(self) -> torch.dtype:
        """The type of scores, sums and log-sum-exps."""
        return torch.promote_types(self.q.dtype, torch.float32)


class Sizes(NamedTuple):
    """Sizes of one call: heads are a multiple of key heads."""

    batch: int
    heads: int
    rows: int
    key_heads: int
    keys: int
    width: int
    value_width: int

    @property
    def group(self) -> int:
        """Heads that share one head of keys."""
        return self.heads // self.key_heads


class Gradients(NamedTuple):
    """Gradients of one call, those of what was not there None."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    sinks: Tensor | None


def heads_last(tensor: Tensor) -> Tensor:
    """(B, H, n, D) laid out as (B, n, H, D) in memory, which is how projections read and write it; no copy if it is already."""
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


def empty_heads_last(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    """An empty (B, H, n, D) on the device of ``like``, laid out as `heads_last`."""
    batch, heads, length, width = shape
    return like.new_empty((batch, length, heads, width), dtype=dtype or like.dtype).transpose(1, 2)
