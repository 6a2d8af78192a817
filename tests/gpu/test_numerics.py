"""The kernels on a GPU: every pair of flags in bf16, head sizes, lengths around a tile, strides, dropout's bits, determinism."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from graphckpt.kernels.attention import reference
from graphckpt.kernels.attention.api import fastest, run
from graphckpt.kernels.attention.meaning import NOTHING, PASSES, STOPS, Attention, Band
from graphckpt.kernels.attention.triton import launch
from tests.gpu.described import by_descriptors
from tests.kernels.attention import cases
from tests.kernels.attention.cases import CASES, Answer, answer, cast, eager, errors, squared_errors

LENGTHS = [1, 63, 64, 65, 127, 128, 129, 300]
HEADS = [(16, 16), (40, 40), (64, 64), (80, 80), (96, 96), (128, 128), (160, 160), (192, 128), (256, 256)]


def on_gpu(call: Attention) -> Attention:
    moved = {name: value.cuda() for name, value in call._asdict().items() if isinstance(value, Tensor)}
    return call._replace(**moved)


def triton(call: Attention) -> tuple[Tensor, Tensor]:
    return run(call, "triton")


def revealed(call: Attention) -> Tensor | None:
    if call.dropout == 0:
        return None
    sizes = call.sizes
    q, k = (
        call.q.new_zeros(sizes.batch, heads, n, 16)
        for heads, n in ((sizes.heads, sizes.rows), (sizes.key_heads, sizes.keys))
    )
    v = torch.eye(sizes.keys, dtype=q.dtype, device=q.device).expand(sizes.batch, sizes.key_heads, -1, -1)
    return triton(Attention(q, k, v, 1.0, seed=call.seed, dropout=call.dropout))[0] > 0


def plain_call(rows: int, keys: int, width: int, value_width: int, dtype: torch.dtype = torch.bfloat16) -> Attention:
    torch.manual_seed(0)
    shapes = ((2, 4, rows, width), (2, 2, keys, width), (2, 2, keys, value_width))
    q, k, v = (torch.randn(shape, device="cuda").to(dtype) for shape in shapes)
    return Attention(q, k, v, width**-0.5, band=Band(right=0, offset=keys - rows))


def check(call: Attention) -> None:
    sizes = call.sizes
    drawn = torch.randn(sizes.batch, sizes.heads, sizes.rows, sizes.value_width, dtype=torch.float64)
    grad_out, keep = drawn.to(call.q.dtype).cuda(), revealed(call)
    true = answer(reference.attend, cast(call, torch.float64), grad_out, None, keep)
    mine = squared_errors(answer(triton, call, grad_out), true)
    plain = squared_errors(answer(eager, call, grad_out, None, keep), true)
    assert all(mine[name] <= 4 * plain[name] for name in mine if name != "sinks"), (mine, plain)


@pytest.mark.parametrize("flags", CASES, ids="+".join)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_every_pair(flags: tuple[str, ...], dtype: torch.dtype) -> None:
    check(on_gpu(cases.call_of(flags, dtype)))


def test_sinks_over_draws() -> None:
    mine: Counter[str] = Counter()
    plain: Counter[str] = Counter()
    for seed in range(8):
        call = on_gpu(cases.call_of(("sinks", "causal"), torch.bfloat16, seed))
        grad_out = torch.randn_like(call.q)
        true = answer(reference.attend, cast(call, torch.float64), grad_out)
        mine += Counter(squared_errors(answer(triton, call, grad_out), true))
        plain += Counter(squared_errors(answer(eager, call, grad_out, None, None), true))
    assert mine["sinks"] <= 4 * plain["sinks"]


@pytest.mark.parametrize("uniform", [NOTHING, PASSES, STOPS])
@pytest.mark.parametrize(
    "flags", [("left_out", "causal"), ("left_out", "bias", "dropout"), ("left_out", "row_bias", "softcap")]
)
def test_rows_that_may_attend_to_nothing(flags: tuple[str, ...], uniform: int) -> None:
    call = on_gpu(cases.call_of(flags, torch.float32))._replace(uniform=uniform)
    grad_out, grad_lse = torch.randn_like(call.q), torch.randn(call.q.shape[:3], device="cuda")
    true = answer(reference.attend, cast(call, torch.float64), grad_out, grad_lse, revealed(call))
    # Products in three parts of tf32 keep 21 bits or so.
    assert max(errors(answer(triton, call, grad_out, grad_lse), true).values()) < 1e-5


@pytest.mark.parametrize(("width", "value_width"), HEADS)
def test_head_sizes(width: int, value_width: int) -> None:
    check(plain_call(200, 300, width, value_width))


@pytest.mark.parametrize("rows", LENGTHS)
@pytest.mark.parametrize("keys", LENGTHS)
def test_lengths_around_a_tile(rows: int, keys: int) -> None:
    check(plain_call(rows, keys, 64, 64))


@pytest.mark.parametrize("width", [16, 64, 128])
@pytest.mark.parametrize(("rows", "keys"), [(256, 256), (200, 333), (1024, 1024)])
def test_descriptors(rows: int, keys: int, width: int) -> None:
    """Forward and gradients by the accelerator against fp64, as exact as they are to be; the same bits every time."""
    call = plain_call(rows, keys, width, width)
    tilings = by_descriptors(call)
    if tilings is None:
        pytest.skip("this GPU has no accelerator that the kernels use")
    ran = set[str]()

    def starter(it: launch.Start) -> None:
        if it.arguments.get("DESCRIBED"):
            ran.add(it.kernel.__name__)
        launch.start(it)

    grad_out = torch.randn(2, 4, rows, width, device="cuda").to(torch.bfloat16)
    results = []
    for _ in range(2):
        out, lse = launch.attention(call, tilings, starter)
        found = launch.gradients(call, launch.Known(out, lse, grad_out, None), tilings=tilings, starter=starter)
        results.append((out, lse, found.q, found.k, found.v))
    assert ran == {"forward", "keys_values", "queries"}
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    true = answer(reference.attend, cast(call, torch.float64), grad_out)
    plain = answer(eager, call, grad_out)
    mine = Answer(results[0][0], results[0][1], found)
    ours, theirs = squared_errors(mine, true), squared_errors(plain, true)
    assert all(ours[name] <= 4 * theirs[name] for name in ours), (ours, theirs)


def test_offsets_beyond_32_bits() -> None:
    """The second batch starts 2^31 elements behind the first."""
    apart = 2**31 + 64
    store = torch.zeros(apart + 128 * 64, dtype=torch.bfloat16, device="cuda")
    q = store.as_strided((2, 1, 128, 64), (apart, 64, 64, 1))
    q.normal_()
    call = Attention(q, q, q, 0.125)
    copied = Attention(*(q.contiguous(),) * 3, 0.125)
    assert torch.equal(triton(call)[0], triton(copied)[0])


def test_the_mask_is_that_of_the_seed_and_as_likely_as_asked() -> None:
    call = on_gpu(cases.call_of(("dropout",), torch.bfloat16))
    first, again, other = (revealed(c) for c in (call, call, call._replace(seed=torch.tensor(124, device="cuda"))))
    assert first is not None and again is not None and other is not None
    assert torch.equal(first, again) and not torch.equal(first, other)
    count = first.numel()
    assert abs((~first).sum().item() - count / 4) < 5 * (count * 3 / 16) ** 0.5


def test_bits_are_the_same_every_time() -> None:
    call = on_gpu(cases.call_of(("causal", "bias", "dropout"), torch.bfloat16))
    grad_out = torch.randn_like(call.q)
    first, second = (answer(triton, call, grad_out) for _ in range(2))
    assert torch.equal(first.out, second.out)
    assert all(torch.equal(a, b) for a, b in zip(first.gradients[:4], second.gradients[:4], strict=True))


def test_no_number_in_a_masked_position_never_spreads() -> None:
    call = plain_call(300, 300, 64, 64)
    for tensor in (call.k, call.v):
        tensor[:, :, -1] = torch.nan
    found = answer(triton, call, torch.randn(2, 4, 300, 64, device="cuda", dtype=torch.bfloat16))
    for tensor in (found.out, found.gradients.q):
        assert tensor.isnan().any(-1)[0, 0].nonzero().flatten().tolist() == [299]


def test_the_fastest_is_triton() -> None:
    assert fastest(plain_call(64, 64, 64, 64)) == "triton"
