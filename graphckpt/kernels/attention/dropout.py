"""Which weights dropout keeps, from a seed: the same in forward, in backward and when forward runs again, whatever the tile.

On a CPU the weights kept are those that Inductor's own dropout of the (B, H, Q, K) weights would keep under the same seed
(``csrc/dropout.cpp``), so an attention has the same masks whether it is replaced by this operator or not. On other devices each
strip of rows is drawn by torch's generator of the device.

Not guaranteed: the bits of eager's dropout, or, off the CPU, those of another implementation of attention.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from graphckpt.core import DropoutPart, load_library
from graphckpt.kernels.attention.masks import ROWS, Tile
from graphckpt.kernels.attention.meaning import Attention

# Seeds of neighbouring strips must have nothing in common: multiples of this odd constant (2^64 over the golden ratio) spread.
_SPREAD = 0x9E3779B97F4A7C15
_SEED_MASK = 2**63 - 1
_SEED_OF_32_BITS = 2**32 - 1


def kept(call: Attention, tile: Tile) -> Tensor | None:
    """The weights of one tile that are kept, bool (B, H, rows, keys); None without dropout."""
    if call.dropout == 0.0 or call.seed is None:
        return None
    seed = int(call.seed.item())
    return _kept_on_cpu(call, tile, seed) if call.q.device.type == "cpu" else _kept_elsewhere(call, tile, seed)


def _kept_on_cpu(call: Attention, tile: Tile, seed: int) -> Tensor:
    sizes = call.sizes
    part = DropoutPart(
        seed & _SEED_OF_32_BITS,
        call.dropout,
        sizes.batch * sizes.heads,
        sizes.rows,
        sizes.keys,
        tile.rows.start,
        tile.rows.stop,
        tile.keys.start,
        tile.keys.stop,
    )
    shape = (sizes.batch, sizes.heads, tile.rows.stop - tile.rows.start, tile.keys.stop - tile.keys.start)
    result = torch.empty(shape, dtype=torch.bool)
    load_library().graphckpt_dropout_kept(ctypes.byref(part), result.data_ptr())
    return result


def _kept_elsewhere(call: Attention, tile: Tile, seed: int) -> Tensor:
    """A whole strip is drawn, all keys of it, so that what is drawn does not depend on which of them masks let through."""
    sizes = call.sizes
    start = tile.rows.start // ROWS * ROWS
    generator = torch.Generator(call.q.device)
    generator.manual_seed((seed + (start + 1) * _SPREAD) & _SEED_MASK)
    shape = (sizes.batch, sizes.heads, min(ROWS, sizes.rows - start), sizes.keys)
    strip = torch.empty(shape, dtype=torch.bool, device=call.q.device).bernoulli_(1.0 - call.dropout, generator=generator)
    return strip[:, :, tile.rows.start - start : tile.rows.stop - start, tile.keys]
