"""The variants of kernels that are compiled: head sizes by masks and flags, as calls of small tensors.

Of each load of the table: ``plain``, causal, the fast one; ``masked``, with a window, padding and documents at once, and rows that
may attend to nothing; ``heavy``, with bias, softcap and dropout beside all of that, and the bias of the shape that costs this
kernel most.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from graphckpt.kernels.attention.meaning import Attention, Band, empty_heads_last
from graphckpt.kernels.attention.triton.launch import Known, Start, attention, gradients
from graphckpt.kernels.attention.triton.tiles import (
    DESCRIBED,
    KERNELS,
    LOADS,
    WIDTHS,
    Slot,
    Tiling,
    Tilings,
    has_line,
)

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
KINDS = {"half": torch.bfloat16, "fp32": torch.float32}
RARE = "rare_"
BY_DESCRIPTORS = "described_"
_RARELY = Tiling(32, 16, 4, 1)


class Extent(NamedTuple):
    """How large a call is, and where its tensors are."""

    batch: int
    heads: int
    key_heads: int
    length: int
    device: str


# Sizes that are multiples of 16, as those of models are: Triton compiles for that.
SMALL = Extent(2, 4, 2, 256, "cpu")
LARGE = Extent(2, 16, 16, 4096, "cuda")


def name_of(slot: Slot) -> str:
    """As the golden file writes it."""
    return f"{slot.architecture} {slot.kernel} {slot.kind} {slot.width}/{slot.value_width} {slot.load}"


def slots() -> list[Slot]:
    """All lines of the table."""
    return [
        slot
        for architecture in ARCHITECTURES
        for kind in KINDS
        for kernel in (*KERNELS, *DESCRIBED)
        for load in LOADS
        for widths in WIDTHS[kind]
        if has_line(slot := Slot(architecture, kernel, kind, load, *widths))
    ]


def start_of(slot: Slot, tiling: Tiling, extent: Extent = SMALL) -> Start:
    """The start of this kernel in such a call, with this tile."""
    return next(it for it in starts_of(slot, tiling, extent) if _slot_name(it) == slot.kernel)


def starts_of(slot: Slot, tiling: Tiling, extent: Extent = SMALL) -> list[Start]:
    """All starts of such a call with this tile: of forward, or of backward. What is rare has a small tile where the line is not
    its own."""
    call, starts = _call(slot, extent), list[Start]()
    described = (tiling if slot.kernel == kernel else None for kernel in DESCRIBED)
    own = (_RARELY if kernel.startswith(RARE) and kernel != slot.kernel else tiling for kernel in KERNELS)
    tilings = Tilings(*own, *described)
    if kernel_of(slot) == "forward":
        attention(call, tilings, starts.append)
    else:
        out = empty_heads_last(call.q, (extent.batch, extent.heads, extent.length, slot.value_width)).normal_()
        lse = torch.full((extent.batch, extent.heads, extent.length), math.log(extent.length), device=extent.device)
        gradients(call, Known(out, lse, torch.empty_like(out).normal_(), None), True, tilings, starts.append)
    return starts


def kernel_of(slot: Slot) -> str:
    """The kernel that a line is of."""
    return slot.kernel.removeprefix(RARE).removeprefix(BY_DESCRIPTORS)


def _slot_name(it: Start) -> str:
    name: str = it.kernel.__name__
    if it.arguments.get("RARE"):
        return f"{RARE}{name}"
    return f"{BY_DESCRIPTORS}{name}" if it.arguments.get("DESCRIBED") else name


def _call(slot: Slot, extent: Extent) -> Attention:
    batch, heads, key_heads, length, device = extent
    like = torch.empty(0, dtype=KINDS[slot.kind], device=device)
    q = empty_heads_last(like, (batch, heads, length, slot.width)).normal_()
    k = empty_heads_last(like, (batch, key_heads, length, slot.width)).normal_()
    v = empty_heads_last(like, (batch, key_heads, length, slot.value_width)).normal_()
    call = Attention(q, k, v, slot.width**-0.5, band=Band(right=0))
    if slot.load == "plain":
        return call
    ids = torch.zeros(batch, length, dtype=torch.int64, device=device)
    keys = torch.ones(batch, length, dtype=torch.bool, device=device)
    # Without sinks: with them no row spreads.
    call = call._replace(band=Band(length // 2, 0, 0), keys=keys, q_documents=ids, k_documents=ids)
    if slot.load == "masked":
        return call
    shapes = {
        "forward": (batch, heads, length, length),
        "keys_values": (batch, heads, 1, length),
        "queries": (batch, heads, length, length),
        "shared_bias": (1, heads, length, length),
    }
    bias = like.new_empty(shapes[kernel_of(slot)]).normal_()
    return call._replace(bias=bias, softcap=30.0, dropout=0.1, seed=torch.tensor(0, device=device))
