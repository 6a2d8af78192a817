"""How large a tile each kernel takes, from a table: never tried out in a user's first step.

`tiles.json` is made by ``python -m benchmarks.kernels tune``, which compiles candidates for each architecture, largest first, and takes
the first that spills no register; its head says how. Without a GPU that is all it knows: the table is of what fits, not of what was
measured to be fastest.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from graphckpt.errors import AttentionError
from graphckpt.kernels.attention.meaning import Attention

TABLE = Path(__file__).with_name("tiles.json")
KERNELS = ("forward", "keys_values", "queries", "shared_bias")
# Head sizes of q and k, and of v, that the table has. A call takes the smallest that holds it.
WIDTHS = ((16, 16), (32, 32), (64, 64), (80, 80), (96, 96), (128, 128), (160, 160), (192, 128), (192, 192), (256, 256))


class Tiling(NamedTuple):
    """Rows and keys of a tile, warps of a program, and stages of its pipeline."""

    rows: int
    keys: int
    warps: int
    stages: int


class Tilings(NamedTuple):
    """Of the kernels of one call."""

    forward: Tiling
    keys_values: Tiling
    queries: Tiling
    shared_bias: Tiling


class Slot(NamedTuple):
    """What a line of the table is for. ``heavy``: scores are changed (bias, softcap) or dropped, which takes registers."""

    architecture: str
    kernel: str
    kind: str
    heavy: bool
    width: int
    value_width: int


# Nothing is compiled there, and each tile costs as much as a large one.
INTERPRETED = Tilings(*(Tiling(64, 64, 4, 1) for _ in KERNELS))


@cache
def table() -> dict[Slot, Tiling]:
    """All lines."""
    lines = json.loads(TABLE.read_text())["lines"]
    return {
        Slot(line["architecture"], line["kernel"], line["kind"], line["heavy"], line["width"], line["value_width"]): Tiling(
            line["rows"], line["keys"], line["warps"], line["stages"]
        )
        for line in lines
    }


def tilings_of(call: Attention, architecture: str) -> Tilings:
    """The tiles of a call on an architecture.

    Raises:
        AttentionError: the table has no line for it.
    """
    width, value_width = widths_of(call.q.shape[3], call.v.shape[3])
    kind = "fp32" if call.q.dtype == torch.float32 else "half"
    slots = (Slot(architecture, kernel, kind, is_heavy(call), width, value_width) for kernel in KERNELS)
    return Tilings(*(_line(slot) for slot in slots))


def is_heavy(call: Attention) -> bool:
    """Whether scores are changed or weights dropped."""
    return call.bias is not None or call.softcap != 0 or call.dropout != 0


def widths_of(width: int, value_width: int) -> tuple[int, int]:
    """The smallest head sizes of the table that hold these.

    Raises:
        AttentionError: there are none.
    """
    holding = [pair for pair in WIDTHS if pair[0] >= width and pair[1] >= value_width]
    if not holding:
        raise AttentionError("head size", f"{WIDTHS[-1][0]} at most", f"{width} and {value_width}")
    return min(holding, key=sum)


def _line(slot: Slot) -> Tiling:
    found = table().get(slot)
    if found is None:
        raise AttentionError("tiles", f"one of the {len(table())} lines of {TABLE.name}", f"{slot}; make it with benchmarks.kernels")
    return found
