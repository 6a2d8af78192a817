"""Which weights are kept, drawn from a seed tile by tile: the same in forward, in backward and when forward runs again.

Not guaranteed: the bits of torch's own dropout, nor those of another implementation of attention; the distribution is the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphckpt.kernels.attention.masks import Tile
from graphckpt.kernels.attention.meaning import Attention

# Seeds of neighbouring tiles must have nothing in common: multiples of this odd constant (2^64 over the golden ratio) spread.
_SPREAD = 0x9E3779B97F4A7C15
_SEED_MASK = 2**63 - 1


def kept(call: Attention, tile: Tile) -> Tensor | None:
    """The weights of one tile that are kept, bool (B, H, rows, keys); None without dropout."""
    if call.dropout == 0.0 or call.seed is None:
        return None
    generator = torch.Generator(call.q.device)
    generator.manual_seed((int(call.seed.item()) + (tile.rows.start + 1) * _SPREAD) & _SEED_MASK)
    batch, heads = call.sizes.batch, call.sizes.heads
    shape = (batch, heads, tile.rows.stop - tile.rows.start, tile.keys.stop - tile.keys.start)
    return torch.empty(shape, dtype=torch.bool, device=call.q.device).bernoulli_(1.0 - call.dropout, generator=generator)
