"""The variants of kernels that are compiled: head sizes by masks and flags, as calls of small tensors.

Of each load of the table: ``plain``, causal, the fast one; ``masked``, with a window, padding and documents at once, and rows that
may attend to nothing; ``heavy``, with bias, softcap and dropout beside all of that, and the bias of the shape that costs this
kernel most.
"""

from __future__ import annotations

import torch

from graphckpt.kernels.attention.meaning import Attention, Band, empty_heads_last
from graphckpt.kernels.attention.triton.launch import Known, Start, attention, gradients
from graphckpt.kernels.attention.triton.tiles import KERNELS, LOADS, WIDTHS, Slot, Tiling, Tilings, has_line

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
KINDS = {"half": torch.bfloat16, "fp32": torch.float32}
RARE = "rare_"
# Sizes that are multiples of 16, as those of models are: Triton compiles for that.
BATCH, HEADS, KEY_HEADS, LENGTH = 2, 4, 2, 256


def name_of(slot: Slot) -> str:
    """As the golden file writes it."""
    return f"{slot.architecture} {slot.kernel} {slot.kind} {slot.width}/{slot.value_width} {slot.load}"


def slots() -> list[Slot]:
    """All lines of the table."""
    return [
        Slot(architecture, kernel, kind, load, *widths)
        for architecture in ARCHITECTURES
        for kind in KINDS
        for kernel in KERNELS
        for load in LOADS
        for widths in WIDTHS[kind]
        if has_line(kind, kernel, load, widths[0])
    ]


def start_of(slot: Slot, tiling: Tiling) -> Start:
    """The start of this kernel in such a call, with this tile."""
    call, starts = _call(slot), list[Start]()
    tilings = Tilings(*(tiling for _ in KERNELS))
    if slot.kernel.removeprefix(RARE) == "forward":
        attention(call, tilings, starts.append)
    else:
        out = empty_heads_last(call.q, (BATCH, HEADS, LENGTH, slot.value_width))
        lse = torch.empty(BATCH, HEADS, LENGTH)
        gradients(call, Known(out, lse, torch.empty_like(out), None), True, tilings, starts.append)
    return next(it for it in starts if _slot_name(it) == slot.kernel)


def _slot_name(it: Start) -> str:
    name: str = it.kernel.__name__
    return f"{RARE}{name}" if it.arguments.get("RARE") else name


def _call(slot: Slot) -> Attention:
    dtype = KINDS[slot.kind]
    like = torch.empty(0, dtype=dtype)
    q = empty_heads_last(like, (BATCH, HEADS, LENGTH, slot.width))
    k, v = (empty_heads_last(like, (BATCH, KEY_HEADS, LENGTH, width)) for width in (slot.width, slot.value_width))
    call = Attention(q, k, v, slot.width**-0.5, band=Band(right=0))
    if slot.load == "plain":
        return call
    ids = torch.zeros(BATCH, LENGTH, dtype=torch.int64)
    call = call._replace(
        band=Band(128, 0, 0), keys=torch.ones(BATCH, LENGTH, dtype=torch.bool), q_documents=ids, k_documents=ids
    )
    if slot.load == "masked":
        # Without sinks: with them no row spreads.
        return call
    shapes = {
        "forward": (BATCH, HEADS, LENGTH, LENGTH),
        "keys_values": (BATCH, HEADS, 1, LENGTH),
        "queries": (BATCH, HEADS, LENGTH, LENGTH),
        "shared_bias": (1, HEADS, LENGTH, LENGTH),
    }
    bias = torch.empty(shapes[slot.kernel.removeprefix(RARE)], dtype=dtype)
    return call._replace(bias=bias, softcap=30.0, dropout=0.1, seed=torch.tensor(0))
