"""Who may attend to whom, for one tile of queries and keys at a time."""

from __future__ import annotations

from collections.abc import Iterator
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


def tiles(call: Attention) -> Iterator[Tile]:
    """Tiles that cover all rows once, in ascending order, `ROWS` rows at most.

    Where a row that may attend to nothing attends to all keys, and the band is narrower, a tile has so many fewer rows: what a tile
    takes depends on the band, and not on the data of masks.
    """
    for start in range(0, call.sizes.rows, ROWS):
        tile = _in_its_band(call, slice(start, min(start + ROWS, call.sizes.rows)))
        if not _is_widened(call, tile):
            yield tile
            continue
        rows, width = tile.rows, tile.keys.stop - tile.keys.start
        count = max(1, ROWS * width // call.sizes.keys)
        del tile
        for part in range(rows.start, rows.stop, count):
            yield tile_of(call, slice(part, min(part + count, rows.stop)))


def tile_of(call: Attention, rows: slice) -> Tile:
    """The keys that these rows may attend to, all of them if a row that may attend to nothing attends to everything."""
    tile = _in_its_band(call, rows)
    if not _is_widened(call, tile):
        return tile
    keys = slice(0, call.sizes.keys)
    return Tile(rows, keys, allowed_in(call, rows, keys), tile.empty)


def _in_its_band(call: Attention, rows: slice) -> Tile:
    """A tile with the keys that the band lets its rows see."""
    start, stop = call.band.keys_of(rows.start, rows.stop - 1, call.sizes.keys)
    keys = slice(start, stop)
    allowed = allowed_in(call, rows, keys)
    if allowed is None:
        return Tile(rows, keys, None, None)
    empty = ~allowed.any(-1, keepdim=True)
    return Tile(rows, keys, allowed, empty if empty.any() else None)


def _is_widened(call: Attention, tile: Tile) -> bool:
    """Whether a row of a tile attends to keys outside of its band, for it may attend to none inside."""
    return tile.empty is not None and call.spreads_evenly and tile.keys != slice(0, call.sizes.keys)


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
    """Bool (rows, keys), without a tensor of numbers of that size on the way."""
    row = torch.arange(rows.start, rows.stop, device=device)[:, None] + band.offset
    key = torch.arange(keys.start, keys.stop, device=device)[None, :]
    after_left = key >= (row - band.left if band.left != OPEN else torch.full_like(row, keys.start))
    return after_left if band.right == OPEN else after_left.logical_and_(key <= row + band.right)
