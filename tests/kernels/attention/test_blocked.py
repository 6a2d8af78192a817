"""Tiles of rows against the reference, with every flag and every pair of flags.

    keys -->      0        64       128
    rows   0-63   tile 0: all keys its rows may attend to, at once
          64-127  tile 1
         128-149  tile 2, a short one
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from graphckpt.kernels.attention import blocked
from graphckpt.kernels.attention.api import run
from graphckpt.kernels.attention.meaning import NOTHING, PASSES, STOPS, Attention, Band
from tests.kernels.attention.cases import (
    CASES,
    answer,
    call_of,
    cast,
    eager,
    errors,
    keep_of,
    oracle,
    relative,
    squared_errors,
)

# Rounding of 170 terms and a few operations, each off by half a unit in the last place at most.
GRAIN = 400 * torch.finfo(torch.float64).eps
FP32_BAR = 2e-6


def _grads(call: Attention) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(5)
    sizes = call.sizes
    shape = (sizes.batch, sizes.heads, sizes.rows)
    grad_out = torch.randn(*shape, sizes.value_width, generator=drawn, dtype=torch.float64)
    return grad_out, torch.randn(shape, generator=drawn, dtype=torch.float64)


def _blocked(call: Attention) -> tuple[torch.Tensor, torch.Tensor]:
    return run(call, "blocked")


@pytest.mark.parametrize("flags", CASES, ids="+".join)
@pytest.mark.parametrize("uniform", [NOTHING, PASSES, STOPS], ids=["nothing", "passes", "stops"])
def test_in_fp64_it_is_the_reference(flags: tuple[str, ...], uniform: int) -> None:
    call = call_of(flags)._replace(uniform=uniform)
    grads = _grads(call)
    found, true = answer(_blocked, call, *grads), oracle(call, *grads)
    assert max(errors(found, true).values()) < GRAIN
    assert torch.equal(found.lse == -torch.inf, true.lse == -torch.inf)
    assert relative(*(lse.masked_fill(lse == -torch.inf, 0) for lse in (found.lse, true.lse))) < GRAIN


@pytest.mark.parametrize("flags", CASES, ids="+".join)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_it_errs_at_most_twice_as_much_as_eager(flags: tuple[str, ...], dtype: torch.dtype) -> None:
    """Over several draws where there are sinks: the gradient of few numbers, sums of terms that cancel, is luck in one of them."""
    mine: Counter[str] = Counter()
    plain: Counter[str] = Counter()
    for seed in range(6 if "sinks" in flags else 1):
        call = call_of(flags, dtype, seed)
        grad_out = _grads(call)[0].to(dtype)
        true = oracle(call, grad_out)
        found = answer(_blocked, call, grad_out)
        mine += Counter(squared_errors(found, true))
        plain += Counter(squared_errors(answer(eager, call, grad_out, None, keep_of(call)), true))
        if dtype == torch.float32:
            assert all(error < FP32_BAR for name, error in errors(found, true).items() if name != "sinks")
    assert all(mine[name] <= 4 * plain[name] for name in mine), (mine, plain)


@pytest.mark.parametrize("masked", ["padding", "causal", "documents"])
def test_no_number_in_a_masked_position_never_spreads(masked: str) -> None:
    """NaN in the last key: only rows that may attend to it show it, and only they give NaN to what they read."""
    call = call_of((masked,))
    for name in ("k", "v"):
        getattr(call, name)[:, :, -1] = torch.nan
    if call.keys is not None:
        call.keys[:, -1] = False
    reaches = {"padding": ROWS_OF_NONE, "causal": [149], "documents": list(range(120, 150))}[masked]
    grad_out, _ = _grads(call)
    found = answer(_blocked, call, grad_out)
    shown = found.out.isnan().any(-1)[0, 0].nonzero().flatten().tolist()
    assert shown == reaches
    assert found.gradients.q.isnan().any(-1)[0, 0].nonzero().flatten().tolist() == reaches
    clean = call._replace(k=call.k.nan_to_num(0), v=call.v.nan_to_num(0))
    kept = [row for row in range(call.sizes.rows) if row not in reaches]
    assert torch.equal(found.out[:, :, kept], answer(_blocked, clean, grad_out).out[:, :, kept])


ROWS_OF_NONE: list[int] = []


@pytest.mark.parametrize("keys", [1, 63, 64, 65])
@pytest.mark.parametrize("rows", [1, 64, 129])
def test_lengths_around_a_tile(rows: int, keys: int) -> None:
    call = call_of(("causal",))
    call = call._replace(q=call.q[:, :, :rows], k=call.k[:, :, :keys], v=call.v[:, :, :keys], band=Band(5, 0, keys - rows))
    grads = _grads(call)
    assert max(errors(answer(_blocked, call, *grads), oracle(call, *grads)).values()) < GRAIN


def test_strides_are_served_without_a_copy_of_the_whole() -> None:
    """q, k and v as views of one projection, and k expanded over heads: the same numbers as their copies."""
    packed = torch.randn(2, 100, 3, 4, 16, dtype=torch.float64)
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    k = k[:, :1].expand(-1, 4, -1, -1)
    call = Attention(q, k, v, 0.25, band=Band(right=0))
    copies = call._replace(q=q.contiguous(), k=k.contiguous(), v=v.contiguous())
    assert relative(blocked.forward(call)[0], blocked.forward(copies)[0]) < GRAIN


def test_memory_grows_with_the_length_and_not_with_its_square() -> None:
    """From 512 to 2048 rows and keys, four times as many bytes, forward and backward; a square would be 16 times as many."""

    def peak_bytes(length: int) -> int:
        q, k, v = (torch.randn(1, 2, length, 16, requires_grad=True) for _ in range(3))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as watched:
            run(Attention(q, k, v, 0.25, band=Band(right=0)), "blocked")[0].sum().backward()
        live = most = 0
        for event in watched.profiler.kineto_results.events():
            if event.name() == "[memory]":
                live += event.nbytes()
                most = max(most, live)
        return most

    assert peak_bytes(2048) < 4.5 * peak_bytes(512)


def test_an_answer_is_the_same_twice() -> None:
    call = cast(call_of(("causal", "dropout")), torch.float32)
    grad_out, _ = _grads(call)
    first, second = (answer(_blocked, call, grad_out) for _ in range(2))
    assert torch.equal(first.out, second.out)
    assert all(torch.equal(a, b) for a, b in zip(first.gradients[:3], second.gradients[:3], strict=True))
