"""Tiles and their record, without compiling: what is a failure, what a difference, which candidate is taken."""

from __future__ import annotations

import pytest
import torch

from benchmarks.kernels import tune
from benchmarks.kernels.golden import Found
from benchmarks.kernels.offline import Resources
from benchmarks.kernels.rank import rank, rank_all
from benchmarks.kernels.tune import CANDIDATES, Tried, candidates
from benchmarks.kernels.variants import SMALL, slots, start_of
from graphckpt.kernels.attention.triton.tiles import Slot, Tiling

SLOT = Slot("sm_90", "queries", "half", "plain", 128, 128)
FITS = Resources(200, 0, 100_000, 24, "HGMMA")


def test_spilling_more_than_is_recorded_fails_and_as_much_does_not() -> None:
    spills = FITS._replace(spilled_bytes=48)
    assert Found(SLOT, spills, None).failures == ["spills 48 bytes, 0 are allowed"]
    assert Found(SLOT, spills, spills).failures == []
    assert Found(SLOT, FITS, spills).failures == []
    assert Found(SLOT, FITS, spills).changes == ["spilled_bytes 48 -> 0"]


def test_shared_memory_and_lesser_instructions_fail() -> None:
    trap = FITS._replace(shared_bytes=2**18, matrix=0, instruction="")
    too_much = f"{2**18} bytes of shared memory, {227 * 1024} are there"
    assert Found(SLOT, trap, FITS).failures == [too_much, "no HGMMA, no matrix instruction instead"]
    older = FITS._replace(instruction="HMMA")
    assert Found(SLOT, older, FITS).failures == ["no HGMMA, HMMA instead"]
    assert Found(SLOT, older, older).failures == Found(SLOT, FITS, older).failures == []
    assert Found(SLOT, FITS, None).changes == ["is not recorded"]


def test_the_first_that_spills_nothing_is_taken_or_what_spills_least(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Tiling] = []

    def attempt(spilled: dict[int, int | None]) -> object:
        def one(slot: Slot, tiling: Tiling) -> Tried:
            tried.append(tiling)
            found = spilled.get(len(tried), 7)
            return Tried(tiling, None if found is None else FITS._replace(spilled_bytes=found))

        return one

    monkeypatch.setattr(tune, "attempt", attempt({1: None, 2: 8, 3: 0}))
    assert tune.tune(SLOT, {}).tiling == Tiling(*CANDIDATES["queries", "half"][2])
    tried.clear()
    monkeypatch.setattr(tune, "attempt", attempt({1: None, 4: 5}))
    assert tune.tune(SLOT, {}).tiling == Tiling(*CANDIDATES["queries", "half"][3])


def test_a_wider_head_starts_from_the_tile_of_a_smaller_one() -> None:
    lines = {
        SLOT._replace(width=64, value_width=64): Tiling(64, 64, 4, 2),
        SLOT._replace(load="heavy", width=96): Tiling(32, 32, 4, 1),
    }
    found = candidates(SLOT, lines)
    assert found[0] == Tiling(64, 64, 4, 2)
    assert len(found) == len(CANDIDATES["queries", "half"]) - 2


def test_tiles_are_ranked_by_time_among_those_that_fit() -> None:
    times = {Tiling(*candidate): float(place % 4) for place, candidate in enumerate(CANDIDATES["queries", "half"])}
    found = rank(SLOT, lambda slot, tiling: tiling.warps == 4, lambda slot, tiling: times[tiling])
    assert [time for time, _ in found] == sorted(times[tiling] for tiling in times if tiling.warps == 4)
    assert all(tiling.warps == 4 for _, tiling in found)


def test_without_a_gpu_nothing_is_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="wanted a GPU, none is here"):
        rank_all([SLOT])


def test_every_line_has_a_kernel_to_compile() -> None:
    for slot in slots():
        if slot.architecture == "sm_90":
            it = start_of(slot, Tiling(64, 32, 4, 1), SMALL._replace(length=64))
            rare = slot.kernel.startswith("rare_")
            assert it.kernel.__name__ == slot.kernel.removeprefix("rare_")
            assert it.arguments.get("RARE", False) == rare
            assert it.arguments["WIDTH"] == slot.width
