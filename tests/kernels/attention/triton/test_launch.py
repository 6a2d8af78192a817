"""What is started for a call, without starting it: how many kernels, of which tensors, and what is allocated for them."""

from __future__ import annotations

import pytest
import torch

from graphckpt.kernels.attention.meaning import NOTHING, Attention, empty_heads_last
from graphckpt.kernels.attention.triton.launch import Known, Start, attention, gradients, precision_of
from graphckpt.kernels.attention.triton.tiles import KERNELS, Tiling, Tilings
from tests.kernels.attention.cases import call_of

TILINGS = Tilings(*(Tiling(64, 32, 4, 1) for _ in KERNELS))


def started(call: Attention, of_bias: bool = True) -> tuple[list[Start], list[Start]]:
    """Forward and backward."""
    forward, backward = list[Start](), list[Start]()
    out, lse = attention(call, TILINGS, forward.append)
    gradients(call, Known(out, lse, torch.empty_like(out), None), of_bias, TILINGS, backward.append)
    return forward, backward


def names(starts: list[Start]) -> list[str]:
    return ["rare " * bool(it.arguments.get("RARE")) + it.kernel.__name__ for it in starts]


@pytest.mark.parametrize(
    ("flags", "forward", "backward"),
    [
        ((), ["forward"], ["delta", "keys_values", "queries"]),
        (("causal",), ["forward", "rare forward"], ["delta", "keys_values", "queries", "rare queries"]),
        (
            ("padding",),
            ["empty_rows", "forward", "rare forward"],
            ["empty_rows", "delta", "keys_values", "rare keys_values", "queries", "rare queries"],
        ),
        (("bias",), ["forward"], ["delta", "keys_values", "queries", "shared_bias"]),
        (("row_bias",), ["forward"], ["delta", "keys_values", "queries"]),
    ],
    ids=lambda found: "+".join(found) if isinstance(found, tuple) else "",
)
def test_a_call_starts_what_it_needs(flags: tuple[str, ...], forward: list[str], backward: list[str]) -> None:
    found = started(call_of(flags, torch.float16))
    assert (names(found[0]), names(found[1])) == (forward, backward)


def test_rows_that_give_nothing_need_no_second_look() -> None:
    padded = call_of(("padding",), torch.float16)._replace(uniform=NOTHING)
    assert names(started(padded)[0]) == ["forward", "rare forward"]


def test_a_bias_without_a_gradient_costs_none() -> None:
    call = call_of(("bias",), torch.float16)
    assert names(started(call, of_bias=False)[1]) == ["delta", "keys_values", "queries"]
    nothing = gradients(
        call, Known(*_results(call), torch.empty_like(_results(call)[0]), None), False, TILINGS, lambda it: None
    )
    assert nothing.bias is None


def test_kernels_read_the_very_tensors_of_the_call() -> None:
    """Views of one projection, and heads that are expanded: no copies."""
    packed = torch.zeros(2, 100, 3, 4, 16, dtype=torch.float16)
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    call = Attention(q, k[:, :1].expand(-1, 4, -1, -1), v, 0.25)
    for starts in started(call):
        for it in starts:
            given = it.arguments["call"]
            assert (given.q.data is q, given.v.data is v) == (True, True)
            assert given.k.data.untyped_storage().data_ptr() == packed.untyped_storage().data_ptr()
            assert given.k.head == 0


def test_the_grid_is_all_tiles_of_all_heads() -> None:
    """2 batches of 6 heads, 2 heads of keys, 150 rows and 170 keys, in tiles of 64 rows by 32 keys."""
    forward, backward = started(call_of(("grouped",), torch.float16))
    assert [it.programs for it in forward] == [12 * 3]
    assert [it.programs for it in backward] == [12 * 3, 4 * 6, 12 * 3]


def test_what_is_done_again_lies_within_the_tile_that_left_word_of_it() -> None:
    """150 rows of 4 heads: tiles of 32 rows leave word, and are done again in 32, though 64 would fit; tiles of 128 in 64."""
    for rows, again in ((32, 32), (128, 64)):
        tilings = TILINGS._replace(forward=Tiling(rows, 32, 4, 1), rare_forward=Tiling(64, 32, 4, 1))
        starts = list[Start]()
        attention(call_of(("causal",), torch.float16), tilings, starts.append)
        first, second = starts
        assert (first.arguments["ROWS"], second.arguments["ROWS"]) == (rows, again)
        assert (first.arguments["TOLD"], second.arguments["TOLD"]) == (rows, rows)
        assert first.arguments["rare"] is second.arguments["rare"]
        assert first.arguments["rare"].numel() == first.programs == 4 * -(-150 // rows)
        assert second.programs == 4 * -(-150 // again)


def test_by_descriptors_word_is_left_of_every_row() -> None:
    """150 rows of 4 heads, tiles of 32 that are done again in tiles of 64."""
    tilings = TILINGS._replace(described_forward=Tiling(32, 32, 4, 1), rare_forward=Tiling(64, 32, 4, 1))
    starts = list[Start]()
    attention(call_of(("causal",), torch.float16), tilings, starts.append)
    first, second = starts
    assert (first.arguments["DESCRIBED"], second.arguments["DESCRIBED"]) == (True, False)
    assert (first.arguments["ROWS"], second.arguments["ROWS"]) == (32, 64)
    assert first.arguments["rare"] is second.arguments["rare"]
    assert first.arguments["rare"].numel() == 4 * 150
    assert (first.arguments["TOLD"], second.arguments["TOLD"]) == (1, 1)


def test_halves_are_multiplied_as_they_are_and_fp32_in_three_parts() -> None:
    assert [precision_of(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32)] == [
        "ieee",
        "ieee",
        "tf32x3",
    ]


def _results(call: Attention) -> tuple[torch.Tensor, torch.Tensor]:
    sizes = call.sizes
    shape = (sizes.batch, sizes.heads, sizes.rows, sizes.value_width)
    return empty_heads_last(call.q, shape), call.q.new_empty(shape[:3], dtype=torch.float32)
