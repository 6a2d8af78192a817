"""A sample of the table of tiles, compiled for GPUs that are not there. All of it: make kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import triton

from benchmarks.kernels.golden import compiled, path_of, recorded
from benchmarks.kernels.offline import MATRIX, compile_for
from benchmarks.kernels.tune import attempt
from benchmarks.kernels.variants import name_of, slots, start_of
from graphckpt.kernels.attention.meaning import Attention, Band
from graphckpt.kernels.attention.triton.choice import SHARED_BYTES
from graphckpt.kernels.attention.triton.launch import Known, Start, attention, gradients
from graphckpt.kernels.attention.triton.tiles import DESCRIBED, KERNELS, Slot, Tiling, Tilings, table, widths_of
from tests.kernels.attention.cases import call_of

SAMPLE = [
    Slot("sm_80", "forward", "half", "plain", 64, 64),
    Slot("sm_80", "keys_values", "half", "plain", 96, 96),
    Slot("sm_90", "forward", "half", "plain", 128, 128),
    Slot("sm_90", "keys_values", "half", "plain", 64, 64),
    Slot("sm_90", "queries", "half", "heavy", 64, 64),
    Slot("sm_90", "rare_forward", "half", "heavy", 64, 64),
    Slot("sm_90", "described_forward", "half", "plain", 128, 128),
    Slot("sm_100", "forward", "half", "plain", 128, 128),
    Slot("sm_100", "described_queries", "half", "plain", 64, 64),
    Slot("sm_100", "shared_bias", "half", "heavy", 64, 64),
]


@pytest.fixture(scope="module", autouse=True)
def _cold(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What another run compiled is not taken for what this one does."""
    patch = pytest.MonkeyPatch()
    patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))


@pytest.mark.parametrize("slot", SAMPLE, ids=lambda slot: "-".join(map(str, slot)))
def test_a_line_compiles_within_what_is_recorded(slot: Slot) -> None:
    """No spill beyond its allowance, shared memory within the limit, the architecture's own matrix instruction; on the pinned
    Triton the very registers that are recorded."""
    for found in compiled([slot]):
        assert not found.failures
        if path_of(triton.__version__).is_file():
            assert not found.changes


@pytest.mark.parametrize(("width", "value_width"), [(16, 16), (80, 80), (160, 160), (192, 128)])
def test_head_sizes_between_lines_fit_the_tile_of_the_next(width: int, value_width: int) -> None:
    line = Slot("sm_90", "forward", "half", "plain", *widths_of("half", width, value_width))
    found = compile_for("sm_90", start_of(line._replace(width=width, value_width=value_width), table()[line]))
    assert found.spilled_bytes == 0
    assert found.shared_bytes <= SHARED_BYTES["sm_90"]
    assert found.instruction == "HGMMA"


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_what_is_summed_beforehand_spills_nothing(architecture: str) -> None:
    """The mean gradient of rows as wide as can be, and which rows are empty: no products, so no line of the table."""
    call = call_of(("padding", "documents", "window"), torch.bfloat16)
    wide = torch.zeros(2, 2, 170, 256, dtype=torch.bfloat16)
    starts = list[Start]()
    tilings = Tilings(*(Tiling(64, 64, 4, 1) for _ in KERNELS))
    out, lse = attention(call._replace(v=wide), tilings, starts.append)
    gradients(call._replace(v=wide), Known(out, lse, torch.empty_like(out), None), True, tilings, starts.append)
    for name in ("delta", "empty_rows"):
        it = next(it for it in starts if it.kernel.__name__ == name)
        assert compile_for(architecture, it, count_matrix=False).spilled_bytes == 0


@pytest.mark.parametrize(
    "flags", [("dropout", "bias", "padding", "documents"), ("sinks", "row_bias", "softcap")], ids="+".join
)
def test_numbers_that_are_one_are_constants_to_the_compiler(flags: tuple[str, ...]) -> None:
    """One batch, head, row and key, and sides of 1: Triton makes constants of them, which its interpreter does not."""
    full = call_of(flags, torch.bfloat16)
    cut = {name: getattr(full, name)[:1, :1, :1] for name in ("q", "k", "v")}
    cut["bias"] = full.bias[:1, :1, :1, :1] if full.bias is not None else None
    for name in ("keys", "q_documents", "k_documents"):
        mask = getattr(full, name)
        cut[name] = None if mask is None else mask[:1, :1]
    call = full._replace(**cut, sinks=None if full.sinks is None else full.sinks[:1], band=Band(1, 1, 1))
    starts = list[Start]()
    tilings = Tilings(*(Tiling(16, 16, 4, 1) for _ in KERNELS))
    out, lse = attention(call, tilings, starts.append)
    gradients(call, Known(out, lse, torch.empty_like(out), lse), True, tilings, starts.append)
    for it in starts:
        assert compile_for("sm_90", it, count_matrix=False).registers > 0


@pytest.mark.parametrize("architecture", ["sm_90", "sm_100"])
def test_descriptors_serve_any_plain_call(architecture: str) -> None:
    """Heads smaller than their line's, one head, lengths that are multiples of nothing, sinks, no band: some warps still do
    nothing but read, and nothing spills."""
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, length, 1, 32, generator=draw).half().transpose(1, 2) for length in (251, 333))
    for call in (Attention(q, k, k, 1.0), Attention(q, k, k, 1.0, sinks=torch.zeros(1).half(), band=Band(right=7))):
        tiling = {kernel: table()[Slot(architecture, kernel, "half", "plain", 64, 64)] for kernel in DESCRIBED}
        tilings = Tilings(*(Tiling(64, 64, 4, 1) for _ in KERNELS), **tiling)
        starts = list[Start]()
        out, lse = attention(call, tilings, starts.append)
        gradients(call, Known(out, lse, torch.empty_like(out), None), True, tilings, starts.append)
        described = [it for it in starts if it.arguments.get("DESCRIBED")]
        assert [it.kernel.__name__ for it in described] == ["forward", "keys_values", "queries"]
        for it in described:
            found = compile_for(architecture, it)
            assert found.is_specialized and not found.spilled_bytes


def test_every_line_of_the_table_is_recorded() -> None:
    """With the pinned Triton; with the one of current CUDA images all but the kernels by descriptors, which it does not compile."""
    assert {name_of(slot) for slot in slots()} == set(recorded())
    assert {name_of(slot) for slot in slots() if slot.kernel in KERNELS} == set(recorded("3.6.0"))
    assert set(slots()) == set(table())


def test_what_is_recorded_is_within_the_limits() -> None:
    for slot in slots():
        found = recorded()[name_of(slot)]
        assert found.shared_bytes <= SHARED_BYTES[slot.architecture]
        assert found.matrix > 0
        # What is to be fast multiplies by the architecture's own instruction.
        if slot.load == "plain" and slot.width <= 128:
            assert found.instruction == MATRIX[slot.architecture]


def test_a_tile_that_is_too_large_is_found_out() -> None:
    """Spills are counted, and shared memory that is not there refuses a tile."""
    slot = Slot("sm_90", "forward", "half", "plain", 128, 128)
    spills = compile_for("sm_90", start_of(slot, Tiling(128, 128, 4, 2)), count_matrix=False)
    assert spills.spilled_bytes > 0
    assert attempt(slot, Tiling(128, 128, 8, 5)).takes is None


def test_a_trap_in_place_of_a_kernel_is_found_out() -> None:
    """Of 3xTF32 products of this tile on sm_100 Triton 3.7.1 makes four registers and a trap, without a word."""
    slot = Slot("sm_100", "rare_forward", "fp32", "heavy", 128, 128)
    found = compile_for("sm_100", start_of(slot, Tiling(64, 32, 4, 1)))
    if triton.__version__ == "3.7.1":
        assert (found.registers, found.instruction) == (4, "")
    assert (attempt(slot, Tiling(64, 32, 4, 1)).takes is None) == (not found.instruction)


def test_a_golden_line_that_differs_is_told() -> None:
    slot = Slot("sm_90", "forward", "half", "plain", 64, 64)
    found = next(compiled([slot]))
    before = found.resources._replace(registers=found.resources.registers + 8, shared_bytes=1)
    assert found._replace(recorded=before).changes == [
        f"registers {before.registers} -> {found.resources.registers}",
        f"shared_bytes 1 -> {found.resources.shared_bytes}",
    ]
    trap = found._replace(resources=found.resources._replace(matrix=0, instruction=""))
    assert trap.failures == ["no HGMMA, no matrix instruction instead"]
    assert Path(path_of("3.7.1")).is_file()
