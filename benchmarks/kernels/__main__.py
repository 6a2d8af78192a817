"""Tune, check or record the kernels, without a GPU; rank their tiles with one.

python -m benchmarks.kernels tune [--architectures sm_90] [--kinds half] [--kernels forward] [--missing]
python -m benchmarks.kernels check [--architectures ...]      # against the golden file; exits with 1 on a failure
python -m benchmarks.kernels record                           # writes the golden file of this Triton
python -m benchmarks.kernels rank --architectures sm_90       # on a GPU of that architecture
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import triton

from benchmarks.kernels.golden import PINNED, check, record, recorded
from benchmarks.kernels.offline import cache_in
from benchmarks.kernels.rank import rank_all
from benchmarks.kernels.tune import tune_all
from benchmarks.kernels.variants import ARCHITECTURES, KINDS, name_of, slots
from graphckpt.kernels.attention.triton.tiles import DESCRIBED, KERNELS, TABLE, WIDTHS, table


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one of these."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["tune", "check", "record", "rank"])
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES), choices=ARCHITECTURES)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--kernels", nargs="+", default=[*KERNELS, *DESCRIBED], choices=[*KERNELS, *DESCRIBED])
    parser.add_argument(
        "--widths", nargs="+", type=int, default=[width for width, _ in WIDTHS["half"]], help="head sizes of q"
    )
    parser.add_argument("--missing", action="store_true", help="tune, or record, only what is not there")
    chosen = parser.parse_args(arguments)
    known = table() if TABLE.is_file() and chosen.missing and chosen.command == "tune" else {}
    if chosen.missing and chosen.command == "record":
        known = {slot: tiling for slot, tiling in table().items() if name_of(slot) in recorded()}
    wanted = [
        slot
        for slot in slots()
        if slot.architecture in chosen.architectures and slot.kind in chosen.kinds and slot.kernel in chosen.kernels
        if slot.width in chosen.widths and slot not in known
        # Kernels by descriptors are for the Triton of the table alone.
        if slot.kernel in KERNELS or triton.__version__ == PINNED
    ]
    with tempfile.TemporaryDirectory() as folder:
        cache_in(Path(folder))
        if chosen.command == "tune":
            tune_all(wanted)
            return 0
        if chosen.command == "rank":
            rank_all(wanted)
            return 0
        if chosen.command == "record":
            record(wanted)
            return 0
        return check(wanted)


if __name__ == "__main__":
    raise SystemExit(main())
