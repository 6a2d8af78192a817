"""Find a tile for every line of the table, by compiling.

Candidates are in order of preference: the more a tile reads at once, the less often the other operand is read. The first that
compiles without a spilled byte within the shared memory of its architecture is taken; where there is none, the one that spills
least. What a GPU would rank, it has not ranked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

from benchmarks.kernels.golden import remember
from benchmarks.kernels.offline import Resources, compile_for
from benchmarks.kernels.variants import RARE, name_of, start_of
from graphckpt.kernels.attention.triton.choice import SHARED_BYTES
from graphckpt.kernels.attention.triton.tiles import DESCRIBED, TABLE, Slot, Tiling, slot_of, tiling_of

CANDIDATES = {
    ("forward", "half"): (
        (128, 128, 8, 3),
        (128, 128, 8, 2),
        (128, 64, 8, 3),
        (128, 64, 8, 2),
        (64, 64, 4, 3),
        (64, 64, 4, 2),
        (64, 64, 8, 2),
        (64, 32, 4, 2),
        (32, 32, 4, 2),
        (32, 16, 4, 1),
    ),
    ("keys_values", "half"): (
        (64, 128, 8, 2),
        (64, 128, 8, 1),
        (32, 128, 8, 2),
        (64, 64, 8, 2),
        (64, 64, 4, 2),
        (32, 64, 8, 2),
        (32, 64, 4, 2),
        (32, 64, 4, 1),
        (16, 64, 4, 1),
        (16, 32, 4, 1),
    ),
    ("queries", "half"): (
        (128, 64, 8, 3),
        (128, 64, 8, 2),
        (64, 64, 4, 2),
        (64, 64, 8, 2),
        (64, 32, 4, 2),
        (64, 32, 8, 2),
        (64, 32, 4, 1),
        (32, 32, 4, 1),
        (32, 16, 4, 1),
    ),
    ("shared_bias", "half"): ((64, 64, 4, 1), (64, 64, 8, 1), (32, 64, 4, 1), (32, 32, 4, 1), (32, 16, 4, 1)),
    ("described_forward", "half"): (
        (128, 128, 8, 2),
        (128, 128, 4, 2),
        (128, 64, 8, 2),
        (128, 64, 4, 2),
        (64, 64, 8, 2),
        (64, 64, 4, 2),
        (64, 32, 4, 2),
    ),
    ("described_keys_values", "half"): (
        (128, 128, 8, 2),
        (64, 128, 8, 2),
        (64, 64, 8, 2),
        (64, 64, 4, 2),
        (32, 64, 8, 2),
        (32, 64, 4, 2),
        (32, 64, 4, 1),
        (16, 64, 4, 1),
    ),
    ("described_queries", "half"): (
        (128, 128, 8, 2),
        (128, 64, 8, 2),
        (64, 64, 8, 2),
        (64, 64, 4, 2),
        (64, 32, 4, 2),
        (64, 32, 4, 1),
        (64, 16, 4, 1),
    ),
    ("forward", "fp32"): (
        (64, 64, 8, 2),
        (64, 32, 4, 2),
        (64, 32, 8, 2),
        (32, 32, 4, 2),
        (32, 16, 4, 1),
        (16, 16, 4, 1),
    ),
    ("keys_values", "fp32"): (
        (64, 64, 8, 2),
        (32, 64, 8, 1),
        (32, 32, 4, 1),
        (32, 32, 8, 1),
        (16, 32, 4, 1),
        (16, 16, 4, 1),
    ),
    ("queries", "fp32"): (
        (64, 64, 8, 2),
        (64, 32, 8, 1),
        (32, 32, 4, 1),
        (32, 32, 8, 1),
        (32, 16, 4, 1),
        (16, 16, 4, 1),
    ),
    ("shared_bias", "fp32"): ((64, 64, 8, 1), (32, 64, 8, 1), (32, 32, 4, 1), (32, 16, 4, 1), (16, 16, 4, 1)),
}
# Of what is done again, which is rare: small tiles, that divide the rows of what they do again.
RARE_CANDIDATES = ((64, 32, 4, 1), (32, 32, 4, 1), (32, 16, 4, 1), (16, 16, 4, 1))
HOW = (
    "Made by `python -m benchmarks.kernels tune` without a GPU: of the candidates in benchmarks/kernels/tune.py, in their order, "
    "the first that spills nothing, or the one that spills least. Not ranked by speed on any GPU."
)


class Tried(NamedTuple):
    """A tile and what the line's kernel takes with it, None if it does not fit."""

    tiling: Tiling
    takes: Resources | None


def candidates(slot: Slot, lines: Mapping[Slot, Tiling]) -> list[Tiling]:
    """Tiles to try for a line: from that of the next smaller head on, since what spilled there spills here."""
    found = RARE_CANDIDATES if slot.kernel.startswith(RARE) else CANDIDATES[slot.kernel, slot.kind]
    tilings = [Tiling(*candidate) for candidate in found]
    smaller = [line for line in lines if line[:4] == slot[:4] and line.width < slot.width and lines[line] in tilings]
    first = lines[max(smaller, key=lambda line: line.width)] if smaller else tilings[0]
    return tilings[tilings.index(first) :]


def tune(slot: Slot, lines: Mapping[Slot, Tiling]) -> Tried:
    """The tile of one line; ``lines``: those that are there.

    Raises:
        RuntimeError: no candidate compiles within shared memory.
    """
    spilling = []
    for candidate in candidates(slot, lines):
        tried = attempt(slot, candidate)
        if tried.takes is not None and not tried.takes.spilled_bytes:
            return tried
        if tried.takes is not None:
            spilling.append(tried)
    if not spilling:
        raise RuntimeError(f"{slot}: wanted a candidate within shared memory, none of {candidates(slot, lines)} is")
    return min(spilling, key=lambda tried: tried.takes.spilled_bytes if tried.takes else 0)


def attempt(slot: Slot, tiling: Tiling) -> Tried:
    """Compile a line with one tile."""
    try:
        found = compile_for(slot.architecture, start_of(slot, tiling))
    except (OutOfResources, PTXASError, CompilationError, RuntimeError) as error:
        print(f"  {name_of(slot)} {tuple(tiling)}: {' '.join(str(error).split())[:200]}", flush=True)
        return Tried(tiling, None)
    fits = found.shared_bytes <= SHARED_BYTES[slot.architecture]
    # Where Triton cannot lay a tile out it may compile a trap, and warps that are all alike, without a word.
    is_it = found.instruction and (slot.kernel not in DESCRIBED or found.is_specialized)
    return Tried(tiling, found if fits and is_it else None)


def tune_all(slots: Sequence[Slot], path: Path = TABLE) -> None:
    """Tune lines and write each into the table, and what it takes into the golden file, as it is found."""
    lines = {slot_of(line): line for line in json.loads(path.read_text())["lines"]} if path.is_file() else {}
    for slot in slots:
        began = time.monotonic()
        tiling, takes = tune(slot, {known: tiling_of(line) for known, line in lines.items()})
        assert takes is not None
        lines[slot] = {**slot._asdict(), **tiling._asdict(), **({"is_faster": False} if slot.kernel in DESCRIBED else {})}
        remember(slot, compile_for(slot.architecture, start_of(slot, tiling)))
        write(path, [lines[key] for key in sorted(lines)])
        seconds = time.monotonic() - began
        print(f"{name_of(slot)}: {tuple(tiling)} takes {tuple(takes)}, {seconds:.1f} s", flush=True)


def write(path: Path, lines: Sequence[dict[str, Any]], how: str = HOW) -> None:
    """The table, one line of text a line."""
    rows = ",\n".join(f"    {json.dumps(line)}" for line in lines)
    path.write_text(
        f'{{\n  "how": {json.dumps(how)},\n  "triton": "{triton.__version__}",\n  "lines": [\n{rows}\n  ]\n}}\n'
    )
