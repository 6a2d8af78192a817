"""Bands and tiles.

    left 2, right 1, offset 0:   key   0 1 2 3 4 5
                          row 0        x x
                              1        x x x
                              3          x x x x
"""

from __future__ import annotations

from itertools import product

import torch
from hypothesis import given
from hypothesis import strategies as st

from graphckpt.kernels.attention.masks import ROWS, allowed_in, tile_of, tiles
from graphckpt.kernels.attention.meaning import NOTHING, OPEN, Attention, Band
from tests.kernels.attention.cases import call_of

SIDES = st.integers(OPEN, 6)


def _plain(band: Band, row: int, key: int) -> bool:
    ahead = key - row - band.offset
    return (band.left == OPEN or ahead >= -band.left) and (band.right == OPEN or ahead <= band.right)


@given(SIDES, SIDES, st.integers(-7, 7), st.integers(1, 9), st.integers(1, 9))
def test_a_band_is_what_its_definition_says(left: int, right: int, offset: int, rows: int, keys: int) -> None:
    band = Band(left, right, offset)
    inside = {(row, key) for row, key in product(range(rows), range(keys)) if _plain(band, row, key)}
    assert band.pairs(rows, keys) == len(inside)
    start, stop = band.keys_of(0, rows - 1, keys)
    assert all(start <= key < stop for _, key in inside)
    q, k = torch.zeros(1, 1, rows, 4), torch.zeros(1, 1, keys, 4)
    allowed = allowed_in(Attention(q, k, k, 1.0, band=band), slice(0, rows), slice(0, keys))
    pairs = set(product(range(rows), range(keys))) if allowed is None else set(map(tuple, allowed[0, 0].nonzero().tolist()))
    assert pairs == inside


def test_tiles_cover_all_rows_once() -> None:
    for call in (call_of(()), call_of(("window", "left_out"))):
        rows = [row for tile in tiles(call) for row in range(tile.rows.start, tile.rows.stop)]
        assert rows == list(range(150))


def test_a_tile_is_as_large_as_the_band_makes_it_whatever_masks_hide() -> None:
    plain = call_of(("window",))._replace(band=Band(3, 0, 0))
    hidden = plain._replace(keys=torch.zeros(2, 170, dtype=torch.bool))
    sizes = [[(t.rows.stop - t.rows.start) * (t.keys.stop - t.keys.start) for t in tiles(call)] for call in (plain, hidden)]
    assert max(sizes[1]) <= max(sizes[0])
    assert all(tile.keys == slice(0, 170) for tile in tiles(hidden))


def test_a_tile_reads_the_keys_of_its_band_alone() -> None:
    call = call_of(("window",))._replace(band=Band(3, 0, 0))
    tile = tile_of(call, slice(ROWS, 2 * ROWS))
    assert (tile.keys, tile.empty) == (slice(ROWS - 3, 2 * ROWS), None)


def test_a_tile_with_a_row_of_nothing_reads_all_keys_if_that_row_attends_to_all() -> None:
    call = call_of(("causal", "left_out"))
    rows = slice(0, ROWS)
    even, zero = tile_of(call, rows), tile_of(call._replace(uniform=NOTHING), rows)
    assert even.keys == slice(0, 170)
    assert zero.keys == slice(0, ROWS + 20)
    assert even.empty is not None and zero.empty is not None
    assert torch.equal(even.empty, zero.empty)
    assert even.empty[0, 0, :, 0].tolist() == [row + 20 < 30 for row in range(ROWS)]
