"""The table of tiles: which line a call takes."""

from __future__ import annotations

import pytest
import torch
import triton

from graphckpt.errors import AttentionError
from graphckpt.kernels.attention.meaning import Attention, Band
from graphckpt.kernels.attention.triton import tiles
from graphckpt.kernels.attention.triton.tiles import WIDTHS, Slot, Tiling, table, tilings_of, widths_of


def test_a_call_takes_the_smallest_head_that_holds_it() -> None:
    for kind, pairs in WIDTHS.items():
        for width in range(1, 257):
            found = widths_of(kind, width, width)
            assert found[0] >= width and found[1] >= width
            assert not [pair for pair in pairs if sum(pair) < sum(found) and min(pair) >= width]


def test_unequal_heads() -> None:
    assert widths_of("half", 64, 96) == (96, 96)
    assert widths_of("half", 192, 128) == (256, 256)
    assert widths_of("fp32", 64, 64) == (128, 128)
    with pytest.raises(AttentionError, match="256 at most, came 257 and 16"):
        widths_of("half", 257, 16)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_every_call_has_its_tiles(architecture: str, dtype: torch.dtype) -> None:
    q = torch.empty(1, 1, 8, 72, dtype=dtype)
    kind = "fp32" if dtype == torch.float32 else "half"
    plain = Attention(q, q, q, 1.0, band=Band(right=0))
    masked, heavy = plain._replace(band=Band(left=3, right=0)), plain._replace(softcap=2.0)
    for call, load in ((plain, "plain"), (masked, "masked"), (heavy, "heavy")):
        found = tilings_of(call, architecture)
        assert (
            found.forward
            == table()[
                Slot(architecture, "forward", kind, load if kind == "half" else "heavy", *widths_of(kind, 72, 72))
            ]
        )
        for tiling in filter(None, found):
            assert all(size & (size - 1) == 0 for size in tiling[:3])


def test_no_line_is_an_error_that_says_how_to_make_one() -> None:
    q = torch.empty(1, 1, 8, 64)
    with pytest.raises(AttentionError, match=r"tiles\.json, which benchmarks\.kernels makes, came Slot"):
        tilings_of(Attention(q, q, q, 1.0), "sm_70")


def test_descriptors_serve_where_a_gpu_has_shown_them_to_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.empty(1, 1, 8, 64, dtype=torch.bfloat16)
    plain = Attention(q, q, q, 1.0, band=Band(right=0))
    slot = Slot("sm_90", "described_forward", "half", "plain", 64, 64)
    for is_faster in (False, True):
        known = {**tiles.lines(), slot: tiles.Line(Tiling(32, 16, 4, 2), is_faster)}
        monkeypatch.setattr(tiles, "lines", lambda known=known: known)
        monkeypatch.setattr(tiles, "made_with", lambda: triton.__version__)
        assert tilings_of(plain, "sm_90").described_forward == (Tiling(32, 16, 4, 2) if is_faster else None)
        assert tilings_of(plain._replace(softcap=1.0), "sm_90").described_forward is None
    monkeypatch.setattr(tiles, "made_with", lambda: "another Triton")
    assert tilings_of(plain, "sm_90").described_forward is None
