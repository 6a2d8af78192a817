"""The offline record as a table for people: tiles, registers, spills, shared memory.

Enters: the table of tiles and the golden file of the pinned Triton. Leaves: markdown, one line a kernel and head size,
architectures beside each other, the plain ones of halves, and a line that counts all others.
"""

from __future__ import annotations

from benchmarks.kernels.golden import PINNED, recorded
from benchmarks.kernels.offline import Resources
from benchmarks.kernels.variants import ARCHITECTURES, name_of
from benchmarks.markdown import markdown_table
from graphckpt.kernels.attention.triton.tiles import KERNELS, WIDTHS, Slot, table

SHOWN = ("forward", "keys_values", "queries")


def summary() -> str:
    """The table, and how many variants spill."""
    known, tiles = recorded(PINNED), table()
    lines = []
    for kernel in KERNELS:
        for widths in WIDTHS["half"]:
            of = [Slot(architecture, kernel, "half", "plain", *widths) for architecture in ARCHITECTURES]
            if kernel in SHOWN and all(slot in tiles for slot in of):
                lines.append([kernel, f"{widths[0]}/{widths[1]}", *(_cell(slot, known) for slot in of)])
    spilling = {name: found.spilled_bytes for name, found in known.items() if found.spilled_bytes}
    worst = max(spilling.values(), default=0)
    return (
        f"Compiled without a GPU by Triton {PINNED} (make kernels): rows x keys, warps, stages; registers, KiB shared.\n\n"
        f"{markdown_table(['kernel', 'head', *ARCHITECTURES], lines)}\n\n"
        f"{len(known)} variants in all; {len(spilling)} spill, at most {worst} bytes a thread"
        f"{': ' if spilling else '.'}{'; '.join(f'{name} {spilled}' for name, spilled in sorted(spilling.items()))}"
    )


def _cell(slot: Slot, known: dict[str, Resources]) -> str:
    tiling = table()[slot]
    found = known.get(name_of(slot))
    size = f"{tiling.rows}x{tiling.keys} w{tiling.warps} s{tiling.stages}"
    if found is None:
        return size
    spilled = f", spills {found.spilled_bytes} B" if found.spilled_bytes else ""
    return f"{size}; {found.registers}, {found.shared_bytes / 1024:.0f}{spilled}"
