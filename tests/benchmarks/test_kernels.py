"""Tiles and their record, without compiling: what is a failure, what a difference, which candidate is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.kernels import rank as ranking
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


def test_warps_that_are_all_alike_fail_where_some_are_to_read_for_the_others() -> None:
    slot = SLOT._replace(kernel="described_queries")
    assert Found(slot, FITS._replace(bulk=4, gives=8), None).failures == []
    alike = ["4 UTMALDG and 0 USETMAXREG: no warps of their own read by descriptors"]
    assert Found(slot, FITS._replace(bulk=4), None).failures == alike


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


def test_a_described_kernel_serves_where_it_was_faster_than_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two heads: by descriptors 64 is faster and 128 is not. What is ranked first is what the others are compared with."""
    path = tmp_path / "tiles.json"
    plain = [SLOT._replace(kernel="forward", width=width, value_width=width) for width in (64, 128)]
    described = [slot._replace(kernel="described_forward") for slot in plain]
    tune.write(path, [{**slot._asdict(), **Tiling(16, 16, 4, 1)._asdict()} for slot in (*described, *plain)])
    times = dict.fromkeys(plain, 2.0) | {described[0]: 1.0, described[1]: 2.0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(ranking, "_fits", lambda slot, tiling: True)
    monkeypatch.setattr(ranking, "_use_the_driver_again", lambda: None)
    monkeypatch.setattr(ranking, "_time_ms", lambda slot, tiling: times[slot] + (tiling.rows != 128))
    rank_all([*described, *plain], path)
    lines = json.loads(path.read_text())["lines"]
    assert [line.get("is_faster") for line in lines] == [True, False, None, None]
    assert lines[2]["rows"] == 128


def test_without_a_gpu_nothing_is_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="wanted a GPU, none is here"):
        rank_all([SLOT])


def test_every_line_has_a_kernel_to_compile() -> None:
    for slot in slots():
        if slot.architecture == "sm_90":
            it = start_of(slot, Tiling(64, 32, 4, 1), SMALL._replace(length=64))
            rare = slot.kernel.startswith("rare_")
            described = slot.kernel.startswith("described_")
            assert it.kernel.__name__ == slot.kernel.removeprefix("rare_").removeprefix("described_")
            assert it.arguments.get("RARE", False) == rare
            assert it.arguments.get("DESCRIBED", False) == described
            assert it.arguments["WIDTH"] == slot.width
