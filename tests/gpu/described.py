"""The tiles of a call with those of kernels that read by descriptors, whether or not the table says that they are faster."""

from __future__ import annotations

from graphckpt.kernels.attention.meaning import Attention
from graphckpt.kernels.attention.triton.choice import architecture_of
from graphckpt.kernels.attention.triton.tiles import DESCRIBED, Slot, Tilings, table, tilings_of, widths_of


def by_descriptors(call: Attention) -> Tilings | None:
    """The tiles of a plain call of halves; None where its architecture has none of that kind."""
    architecture = architecture_of(call.q.device)[0]
    widths = widths_of("half", call.q.shape[3], call.v.shape[3])
    slots = {kernel: Slot(architecture, kernel, "half", "plain", *widths) for kernel in DESCRIBED}
    if not all(slot in table() for slot in slots.values()):
        return None
    return tilings_of(call, architecture)._replace(**{kernel: table()[slot] for kernel, slot in slots.items()})
