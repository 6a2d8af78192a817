"""Who may attend to whom, for one tile of queries and keys at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphckpt.kernels.attention.meaning import OPEN, Attention, Band

# Rows of one tile.
ROWS = 64


class Tile(NamedTuple):
    """Rows and keys of one tile, and who may attend there: bool, broadcasts to (B, H, rows, keys); None where all may.

    ``empty``: bool (B, 1, rows, 1), rows that may attend to nothing at all, None where there are none.
    """

    rows: slice
    keys: slice
    allowed: Tensor | None
    empty: Tensor | None


def tiles(call: Attention) -> list[slice]:
    """The rows of a call, `ROWS` at a time."""
    return [slice(start, min(start + ROWS, call.sizes.rows)) for start in range(0, call.sizes.rows, ROWS)]


def tile_of(call: Attention, rows: slice) -> Tile:
    """The keys that these rows may attend to, all of them if a row that may attend to nothing attends to everything."""
    start, stop = call.band.keys_of(rows.start, rows.stop - 1, call.sizes.keys)
    keys = slice(start, stop)
    allowed = allowed_in(call, rows, keys)
    if allowed is None:
        return Tile(rows, keys, None, None)
    empty = ~allowed.any(-1, keepdim=True)
    if not empty.any():
        return Tile(rows, keys, allowed, None)
    if call.spreads_evenly:
        keys = slice(0, call.sizes.keys)
        allowed = allowed_in(call, rows, keys)
    return Tile(rows, keys, allowed, empty)


def allowed_in(call: Attention, rows: slice, keys: slice) -> Tensor | None:
    """Who of ``rows`` may attend to whom of ``keys``, broadcasts to (B, H, rows, keys); None where all may."""
    parts = []
    if not _covers(call.band, rows, keys):
        parts.append(_in_band(call.band, rows, keys, call.q.device)[None, None])
    if call.keys is not None:
        parts.append(call.keys[:, None, None, keys])
    if call.q_documents is not None and call.k_documents is not None:
        parts.append(call.q_documents[:, None, rows, None] == call.k_documents[:, None, None, keys])
    if not parts:
        return None
    allowed = parts[0]
    for part in parts[1:]:
        allowed = allowed & part
    return allowed.expand(allowed.shape[0], 1, rows.stop - rows.start, keys.stop - keys.start)


def _covers(band: Band, rows: slice, keys: slice) -> bool:
    """Whether every row of a tile may attend to every key of it, as far as the band goes; of no keys, none may."""
    if keys.start == keys.stop:
        return False
    ends_before = band.left == OPEN or keys.start >= rows.stop - 1 + band.offset - band.left
    return ends_before and (band.right == OPEN or keys.stop - 1 <= rows.start + band.offset + band.right)


def _in_band(band: Band, rows: slice, keys: slice, device: torch.device) -> Tensor:
    ahead = torch.arange(keys.start, keys.stop, device=device) - band.offset
    ahead = ahead[None, :] - torch.arange(rows.start, rows.stop, device=device)[:, None]
    inside = torch.ones_like(ahead, dtype=torch.bool)
    if band.left != OPEN:
        inside &= ahead >= -band.left
    if band.right != OPEN:
        inside &= ahead <= band.right
    return inside
