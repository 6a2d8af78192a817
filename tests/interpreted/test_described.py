"""Kernels that read by descriptors against the plain ones: the same tiles in the same order, so the same bits.

What the accelerator itself does (alignment, who waits for whom) the interpreter does not show; only a GPU does.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphckpt.kernels.attention.meaning import Attention, Band, Gradients
from graphckpt.kernels.attention.triton.launch import Known, Start, attention, gradients, start
from graphckpt.kernels.attention.triton.tiles import INTERPRETED, Tiling, Tilings

TILE = Tiling(64, 64, 4, 1)
BY_DESCRIPTORS = INTERPRETED._replace(described_forward=TILE, described_keys_values=TILE, described_queries=TILE)


def _call(rows: int, keys: int, width: int, band: Band, key_heads: int = 1) -> Attention:
    """Views of one projection of q, and of one of k and v, as models have them."""
    drawn = torch.Generator().manual_seed(11)
    q = torch.randn(2, rows, 2, width, generator=drawn).half().transpose(1, 2)
    packed = torch.randn(2, keys, 2, key_heads, width, generator=drawn).half()
    k, v = packed.permute(2, 0, 3, 1, 4)
    return Attention(q, k, v, width**-0.5, band=band)


def _by(tilings: Tilings, call: Attention) -> tuple[Tensor, Tensor, Gradients, set[str]]:
    """Results, and the kernels that read by descriptors."""
    described = set[str]()

    def starter(it: Start) -> None:
        if it.arguments.get("DESCRIBED"):
            described.add(it.kernel.__name__)
        start(it)

    out, lse = attention(call, tilings, starter)
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(12)).half()
    return out, lse, gradients(call, Known(out, lse, grad_out, None), tilings=tilings, starter=starter), described


@pytest.mark.parametrize(
    "call",
    [
        _call(128, 128, 64, Band()),
        _call(128, 192, 16, Band(right=0, offset=64), key_heads=2),
        _call(70, 100, 32, Band(right=0, offset=30)),
        _call(65, 129, 64, Band())._replace(sinks=torch.tensor([0.5, -1.0]).half()),
    ],
    ids=["whole", "causal", "ragged", "sinks"],
)
def test_bits_are_those_of_the_plain_kernels(call: Attention) -> None:
    plain, described = (_by(tilings, call) for tilings in (INTERPRETED, BY_DESCRIPTORS))
    assert (plain[3], described[3]) == (set(), {"forward", "keys_values", "queries"})
    assert torch.equal(plain[0], described[0])
    assert torch.equal(plain[1], described[1])
    assert all(torch.equal(a, b) for a, b in zip(plain[2][:3], described[2][:3], strict=True))


def test_no_number_in_a_masked_position_never_spreads() -> None:
    """NaN in the last key, which the last row alone may attend to."""
    call = _call(128, 128, 32, Band(right=0))
    call.k[:, :, -1] = torch.nan
    call.v[:, :, -1] = torch.nan
    out, _, found, _ = _by(BY_DESCRIPTORS, call)
    for tensor in (out, found.q):
        assert tensor.isnan().any(-1)[0, 0].nonzero().flatten().tolist() == [127]


@pytest.mark.parametrize(
    "call",
    [
        _call(100, 70, 32, Band(right=3, offset=-30)),
        _call(64, 64, 32, Band(left=9, right=0)),
        _call(64, 64, 80, Band(right=0)),
        _call(64, 64, 8, Band(right=0)),
        _call(64, 64, 32, Band(right=0))._replace(q=torch.zeros(4000).half().as_strided((2, 2, 64, 32), (1024, 512, 8, 1))),
        _call(64, 64, 32, Band(right=0))._replace(q=torch.zeros(2, 2, 64, 64).half()[..., ::2]),
        _call(64, 64, 32, Band(right=0))._replace(k=torch.zeros(2, 1, 64, 33).half()[..., 1:]),
    ],
    ids=[
        "rows that see nothing",
        "a window",
        "two parts",
        "fewer columns than a tile has",
        "rows that overlap",
        "columns apart",
        "not aligned",
    ],
)
def test_what_the_accelerator_does_not_take_goes_the_plain_way(call: Attention) -> None:
    assert _by(BY_DESCRIPTORS, call)[3] == set()
