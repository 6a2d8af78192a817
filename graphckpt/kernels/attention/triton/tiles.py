"""How large a tile each kernel takes, from a table: never tried out in a user's first step.

`tiles.json` is made by ``python -m benchmarks.kernels tune``, which compiles candidates for each architecture, largest first, and
takes the first that spills no register; its head says how. Without a GPU that is all it knows: the table is of what fits, not of
what was measured to be fastest.

Kernels that read by descriptors (`DESCRIBED`) stand in it beside the plain ones, and serve where a GPU has shown them to be faster:
``python -m benchmarks.kernels rank`` says so in their lines. Only with the Triton that the table was made with: what one version
specializes warps for, another may refuse to compile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

from graphckpt.errors import AttentionError
from graphckpt.kernels.attention.meaning import OPEN, Attention

TABLE = Path(__file__).with_name("tiles.json")
KERNELS = ("forward", "rare_forward", "keys_values", "rare_keys_values", "queries", "rare_queries", "shared_bias")
# Of plain calls of halves, by the tensor memory accelerator of these architectures.
DESCRIBED = ("described_forward", "described_keys_values", "described_queries")
_DESCRIBING = ("sm_90", "sm_100")
# Head sizes of q and k, and of v, that the table has. A call takes the smallest that holds it.
WIDTHS = {
    "half": ((64, 64), (96, 96), (128, 128), (256, 256)),
    "fp32": ((128, 128), (256, 256)),
}


# What takes registers beside the products: nothing or a right side, more masks than that, scores that are changed or dropped.
LOADS = ("plain", "masked", "heavy")
# Wider heads leave so few registers that masks have the tiles of heavy calls.
_NARROW = 128


class Tiling(NamedTuple):
    """Rows and keys of a tile, warps of a program, and stages of its pipeline."""

    rows: int
    keys: int
    warps: int
    stages: int


class Tilings(NamedTuple):
    """Of the kernels of one call. A rare one does rows again. A described one is None where it does not serve."""

    forward: Tiling
    rare_forward: Tiling
    keys_values: Tiling
    rare_keys_values: Tiling
    queries: Tiling
    rare_queries: Tiling
    shared_bias: Tiling
    described_forward: Tiling | None = None
    described_keys_values: Tiling | None = None
    described_queries: Tiling | None = None


class Slot(NamedTuple):
    """What a line of the table is for. ``kind``: "half" or "fp32"; ``load``: one of `LOADS`."""

    architecture: str
    kernel: str
    kind: str
    load: str
    width: int
    value_width: int


# Nothing is compiled there, and each tile costs as much as a large one.
INTERPRETED = Tilings(*(Tiling(64, 64, 4, 1) for _ in KERNELS))


class Line(NamedTuple):
    """``is_faster``: whether a GPU has shown this described kernel to be faster than the plain one."""

    tiling: Tiling
    is_faster: bool


@cache
def _content() -> Any:
    return json.loads(TABLE.read_text())


@cache
def lines() -> dict[Slot, Line]:
    """The table as it is written."""
    return {slot_of(line): Line(tiling_of(line), line.get("is_faster", False)) for line in _content()["lines"]}


def slot_of(line: Mapping[str, Any]) -> Slot:
    """What a line of the file is for."""
    return Slot(*(line[name] for name in Slot._fields))


def tiling_of(line: Mapping[str, Any]) -> Tiling:
    """The tile of a line of the file."""
    return Tiling(*(line[name] for name in Tiling._fields))


def made_with() -> str:
    """The version of Triton that the table was made with."""
    return str(_content()["triton"])


def table() -> dict[Slot, Tiling]:
    """The tiles of all lines."""
    return {slot: line.tiling for slot, line in lines().items()}


def tilings_of(call: Attention, architecture: str) -> Tilings:
    """The tiles of a call on an architecture.

    Raises:
        AttentionError: the table has no line for it.
    """
    kind = "fp32" if call.q.dtype == torch.float32 else "half"
    width, value_width = widths_of(kind, call.q.shape[3], call.v.shape[3])
    load = load_of(call)
    plain, described = (
        [Slot(architecture, kernel, kind, load, width, value_width) for kernel in kernels] for kernels in (KERNELS, DESCRIBED)
    )
    serves = triton.__version__ == made_with()
    faster = (line.tiling if serves and line is not None and line.is_faster else None for line in map(lines().get, described))
    return Tilings(*(_line(slot if has_line(slot) else slot._replace(load="heavy")) for slot in plain), *faster)


def load_of(call: Attention) -> str:
    """Which of `LOADS` a call is."""
    if call.bias is not None or call.softcap != 0 or call.dropout != 0:
        return "heavy"
    masked = call.band.left != OPEN or call.keys is not None or call.q_documents is not None
    return "masked" if masked else "plain"


def has_line(slot: Slot) -> bool:
    """Whether the table has a line; where it has none of a plain kernel, the heavy one serves. A bias is heavy; of fp32, of what is
    rare, and of masks over wide heads there is but the one. Of `DESCRIBED` kernels there are lines for plain calls of halves whose
    heads are one power of two; wider ones spill."""
    width, load = slot.width, slot.load
    if slot.kernel in DESCRIBED:
        is_power = width == slot.value_width and not width & (width - 1)
        return slot.architecture in _DESCRIBING and slot.kind == "half" and load == "plain" and is_power and width <= _NARROW
    if slot.kind == "fp32" or slot.kernel.startswith(("rare_", "shared_")) or (load == "masked" and width > _NARROW):
        return load == "heavy"
    return True


def widths_of(kind: str, width: int, value_width: int) -> tuple[int, int]:
    """The smallest head sizes of the table that hold these.

    Raises:
        AttentionError: there are none.
    """
    holding = [pair for pair in WIDTHS[kind] if pair[0] >= width and pair[1] >= value_width]
    if not holding:
        raise AttentionError("head size", f"{WIDTHS[kind][-1][0]} at most", f"{width} and {value_width}")
    return min(holding, key=sum)


def _line(slot: Slot) -> Tiling:
    found = lines().get(slot)
    if found is None:
        wanted = f"one of the {len(lines())} lines of {TABLE.name}, which benchmarks.kernels makes"
        raise AttentionError("tiles", wanted, slot)
    return found.tiling
