"""What kernels are told of a call."""

from __future__ import annotations

import pytest
import torch

from graphckpt.kernels.attention.masks import allowed_in
from graphckpt.kernels.attention.meaning import NOTHING, Attention, Band
from graphckpt.kernels.attention.triton.arguments import call_of, leaves_rows_empty, may_be_empty, strided
from tests.kernels.attention import cases


@pytest.mark.parametrize("left", [-1, 0, 2])
@pytest.mark.parametrize("right", [-1, 0, 2])
@pytest.mark.parametrize("offset", [-6, -2, 0, 3, 9])
def test_a_band_that_leaves_rows_empty_is_known_by_its_ends(left: int, right: int, offset: int) -> None:
    """Against all rows of 5 by 7."""
    call = Attention(torch.zeros(1, 1, 5, 4), *(torch.zeros(1, 1, 7, 4),) * 2, 1.0, band=Band(left, right, offset))
    allowed = allowed_in(call, slice(0, 5), slice(0, 7))
    wanted = allowed is not None and not bool(allowed.any(-1).all())
    assert leaves_rows_empty(call.band, call.sizes) == wanted


def test_rows_are_empty_only_where_they_spread() -> None:
    padded = cases.call_of(("padding",))
    assert may_be_empty(padded)
    assert not may_be_empty(padded._replace(uniform=NOTHING))
    assert not may_be_empty(cases.call_of(("padding", "sinks")))
    assert not may_be_empty(cases.call_of(("causal",)))


def test_a_size_of_one_is_a_stride_of_zero() -> None:
    tensor = torch.zeros(1, 3, 1, 5)
    assert strided(tensor)[1:5] == (0, 5, 0, 1)
    assert strided(tensor.expand(4, -1, -1, -1))[1:5] == (0, 5, 0, 1)


def test_places_in_a_tile_are_of_64_bits_where_strides_are_giant() -> None:
    tensor = torch.empty(0).as_strided((0, 1, 4, 4), (1, 1, 2**22, 1))
    assert strided(tensor).far == 1
    assert strided(tensor.as_strided((0, 1, 4, 4), (1, 1, 2**21, 1))).far is None


def test_what_a_call_does_not_have_is_none() -> None:
    plain = call_of(cases.call_of(()), None)
    assert plain.masks[:2] == (None, None)
    assert plain.masks[3:] == (None,) * 4
    assert (plain.scores.softcap, plain.bias.data, plain.sinks, plain.dropout) == (None,) * 4
    given = call_of(cases.call_of(("dropout", "softcap")), None)
    assert given.dropout is not None
    assert (given.dropout.threshold, given.dropout.inverse, given.scores.softcap) == (49152, 1 / 0.75, 3.0)
