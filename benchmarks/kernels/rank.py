"""Rank the tiles that fit by their speed on the GPU that is there, and put the fastest into the table.

Enters: lines of the table for this GPU's architecture. Leaves: the table with the fastest candidate that spills nothing in each, of
described kernels whether they are faster than the plain one, and a printed line a candidate. Rare kernels stay as they are: what
is rare need not be fast. `tune` comes first; `record` after.
Not guaranteed: anything of lengths other than that of `benchmarks.kernels.variants.LARGE`. It has not been run on a GPU yet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.attention_measure import median_ms
from benchmarks.kernels.tune import CANDIDATES, attempt, write
from benchmarks.kernels.variants import LARGE, RARE, kernel_of, name_of, starts_of
from graphckpt.kernels.attention.triton.launch import Start, start
from graphckpt.kernels.attention.triton.tiles import DESCRIBED, TABLE, Slot, Tiling, slot_of, tiling_of

HOW = "Of the candidates that spill nothing, the fastest, by `python -m benchmarks.kernels rank` on {device} at length {length}."


def time_on_gpu(starts: Sequence[Start]) -> float:
    """Median milliseconds of these, one after the other."""

    def run() -> None:
        for it in starts:
            start(it)

    return median_ms(run)


def rank(
    slot: Slot, fits: Callable[[Slot, Tiling], bool], time_ms: Callable[[Slot, Tiling], float]
) -> list[tuple[float, Tiling]]:
    """The tiles of a line that fit, fastest first."""
    tilings = [Tiling(*candidate) for candidate in CANDIDATES[slot.kernel, slot.kind]]
    return sorted((time_ms(slot, tiling), tiling) for tiling in tilings if fits(slot, tiling))


def rank_all(slots: Sequence[Slot], path: Path = TABLE) -> None:
    """Rank lines and write each fastest one into the table.

    Raises:
        RuntimeError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("rank: wanted a GPU, none is here; the table keeps the tiles that tune found without one")
    content = json.loads(path.read_text())
    # Compiling for a GPU that is not there takes the driver's place, so all that fits is found before anything runs.
    measured = [slot for slot in slots if not slot.kernel.startswith(RARE)]
    fitting = {slot: [tiling for _, tiling in rank(slot, _fits, lambda *_: 0.0)] for slot in measured}
    _use_the_driver_again()
    lines = {slot_of(line): line for line in content["lines"]}
    # Described kernels after the plain ones that they are compared with.
    for slot in sorted(measured, key=lambda slot: slot.kernel in DESCRIBED):
        found = rank(slot, lambda slot, tiling: tiling in fitting[slot], _time_ms)
        for time, tiling in found:
            print(f"{name_of(slot)}: {tuple(tiling)} {time:.3f} ms", flush=True)
        if found and slot in lines:
            lines[slot].update(found[0][1]._asdict())
        if slot.kernel in DESCRIBED and slot in lines:
            plain = slot._replace(kernel=kernel_of(slot))
            lines[slot]["is_faster"] = bool(found) and found[0][0] < _time_ms(plain, tiling_of(lines[plain]))
    how = HOW.format(device=torch.cuda.get_device_name(), length=LARGE.length)
    write(path, content["lines"], how)


def _time_ms(slot: Slot, tiling: Tiling) -> float:
    """Of the kernel, and of the look at what is rare behind it, which costs more where word is left of every row."""
    name = kernel_of(slot)
    return time_on_gpu([it for it in starts_of(slot, tiling, LARGE) if it.kernel.__name__ == name])


def _fits(slot: Slot, tiling: Tiling) -> bool:
    takes = attempt(slot, tiling).takes
    return takes is not None and not takes.spilled_bytes


def _use_the_driver_again() -> None:
    import triton

    triton.runtime.driver.reset_active()
