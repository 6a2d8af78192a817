"""Head sizes, lengths, strides, what is no number, dropout: where tiles end and memory is not as one would lay it out."""

from __future__ import annotations

import pytest
import torch

from graphckpt.kernels.attention import reference
from graphckpt.kernels.attention.meaning import Attention, Band
from graphckpt.kernels.attention.triton import arguments, launch
from tests.interpreted.calls import SHORT, call_of, gradients_for, revealed, triton
from tests.kernels.attention.cases import answer, cast, errors

FP32_BAR = 2e-6
HEADS = [
    (8, 8),
    (16, 16),
    (40, 24),
    (64, 64),
    (80, 80),
    (96, 96),
    (112, 112),
    (128, 128),
    (160, 160),
    (192, 128),
    (256, 256),
]


def _call(rows: int, keys: int, width: int, value_width: int) -> Attention:
    drawn = torch.Generator().manual_seed(3)
    q, k, v = (
        torch.randn(1, 1, *shape, generator=drawn) for shape in ((rows, width), (keys, width), (keys, value_width))
    )
    return Attention(q, k, v, width**-0.5, band=Band(right=0, offset=keys - rows))


def _errors(call: Attention) -> dict[str, float]:
    grads = gradients_for(call)
    return errors(
        answer(triton, call, *grads), answer(reference.attend, cast(call, torch.float64), *grads, revealed(call))
    )


@pytest.mark.parametrize(("width", "value_width"), HEADS)
def test_head_sizes(width: int, value_width: int) -> None:
    assert max(_errors(_call(40, 70, width, value_width)).values()) < FP32_BAR


@pytest.mark.parametrize("keys", [1, 63, 64, 65])
@pytest.mark.parametrize("rows", [1, 64, 129])
def test_lengths_around_a_tile(rows: int, keys: int) -> None:
    assert max(_errors(_call(rows, keys, 16, 16)._replace(band=Band(5, 0, keys - rows))).values()) < FP32_BAR


@pytest.mark.parametrize(
    "band", [Band(30, -1, 0), Band(-1, 20, -7), Band(0, 0, 3), Band(70, 5, 60), Band(3, 9, -150), Band(2, 1, 200)]
)
def test_bands(band: Band) -> None:
    """Also where rows of the first tile, or all, have no keys."""
    assert max(_errors(_call(130, 140, 16, 16)._replace(band=band)).values()) < FP32_BAR


def test_a_bias_may_be_of_any_shape_that_broadcasts() -> None:
    call = call_of(("causal", "softcap"), torch.float32, 2, SHORT)
    sizes = call.sizes
    for batch, heads, rows, keys in (
        (1, 1, 0, 0),
        (0, 0, 0, 0),
        (0, 1, 0, 0),
        (1, 0, 0, 1),
        (1, 1, 1, 0),
        (1, 1, 1, 1),
    ):
        shape = (batch or sizes.batch, heads or sizes.heads, rows or sizes.rows, keys or sizes.keys)
        bias = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        found = _errors(call._replace(bias=bias))
        # Of few numbers the gradient is a sum of many terms that cancel.
        assert found.pop("bias") < 10 * FP32_BAR
        assert max(found.values()) < FP32_BAR


@pytest.mark.parametrize("far", [False, True])
def test_strides_give_the_bits_of_copies(far: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views of one projection, k expanded over heads, v with its columns apart; also with 64 bits for places in a tile."""
    if far:
        monkeypatch.setattr(arguments, "_TILE", 2**31)
    packed = torch.randn(2, 70, 3, 2, 16, generator=torch.Generator().manual_seed(2))
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    v = v.transpose(-1, -2).contiguous().transpose(-1, -2)
    bias = torch.randn(2, 70, 2, 70, generator=torch.Generator().manual_seed(4)).transpose(1, 2)
    call = Attention(q, k[:, :1].expand(-1, 2, -1, -1), v, 0.25, bias, band=Band(right=0))
    copies = call._replace(q=q.contiguous(), k=call.k.contiguous(), v=v.contiguous(), bias=bias.contiguous())
    grad_out = torch.randn(2, 70, 2, 16, generator=torch.Generator().manual_seed(5)).transpose(1, 2)
    assert (arguments.strided(q).far is None) != far
    out, lse = launch.attention(call)
    assert torch.equal(out, launch.attention(copies)[0])
    mine = launch.gradients(call, launch.Known(out, lse, grad_out, None))
    theirs = launch.gradients(copies, launch.Known(out.contiguous(), lse, grad_out.contiguous(), None))
    assert all(torch.equal(a, b) for a, b in zip(mine[:4], theirs[:4], strict=True))


@pytest.mark.parametrize("masked", ["padding", "causal", "documents"])
def test_no_number_in_a_masked_position_never_spreads(masked: str) -> None:
    """NaN in the last key: only rows that may attend to it show it, and only they give NaN to what they read."""
    call = call_of((masked,), torch.float32)
    for name in ("k", "v"):
        getattr(call, name)[:, :, -1] = torch.nan
    if call.keys is not None:
        call.keys[:, -1] = False
    reaches = {"padding": [], "causal": [99], "documents": []}[masked]
    if masked == "documents":
        # The last keys are of a document that rows 60 and on do not see.
        assert call.q_documents is not None and call.k_documents is not None
        call = call._replace(
            k_documents=(torch.arange(150) >= 140).long().expand(2, -1), q_documents=call.q_documents * 0
        )
    grad_out, _ = gradients_for(call)
    found = answer(triton, call, grad_out)
    assert found.out.isnan().any(-1)[0, 0].nonzero().flatten().tolist() == reaches
    assert found.gradients.q.isnan().any(-1)[0, 0].nonzero().flatten().tolist() == reaches
    clean = call._replace(k=call.k.nan_to_num(0), v=call.v.nan_to_num(0))
    kept = [row for row in range(call.sizes.rows) if row not in reaches]
    wanted = answer(triton, clean, grad_out)
    torch.testing.assert_close(found.out[:, :, kept], wanted.out[:, :, kept])
    torch.testing.assert_close(found.gradients.q[:, :, kept], wanted.gradients.q[:, :, kept])
    if not reaches:
        # What nobody attends to gets nothing.
        assert not found.gradients.k[:, :, -1].any() and not found.gradients.v[:, :, -1].any()


def test_an_infinite_value_shows_where_it_is_weighed() -> None:
    call = call_of(("causal",), torch.float32)
    call.v[0, 0, 120, 3] = torch.inf
    out = triton(call)[0]
    strange = ~out.isfinite()
    # Row i sees keys up to i + 50.
    assert strange[0, 0].nonzero().tolist() == [[row, 3] for row in range(70, 100)]
    assert not strange[1].any()


def test_dropout_is_drawn_from_its_seed_and_nothing_else() -> None:
    call = call_of(("dropout",), torch.float32)
    masked = call._replace(band=Band(right=0), scale=1.0)
    other = call._replace(seed=torch.tensor(124))
    far = call._replace(seed=torch.tensor(2**40 + 123))
    first, again, differs, high = (revealed(c) for c in (call, masked, other, far))
    assert first is not None and again is not None and differs is not None and high is not None
    assert torch.equal(first, again)
    for unlike in (differs, high):
        assert abs((first == unlike).float().mean().item() - 0.625) < 0.01


def test_as_many_weights_are_dropped_as_were_asked_for_and_apart() -> None:
    keep = revealed(call_of(("dropout",), torch.float32))
    assert keep is not None
    count = keep.numel()
    assert abs((~keep).sum().item() - count / 4) < 5 * (count * 3 / 16) ** 0.5
    # Independent draws of probability 0.75 agree in 0.625 of the places: rows, heads and batches with the first row.
    rows = keep.flatten(0, 2).float()
    agree = (rows[0] == rows[1:]).float().mean(1)
    assert (agree - 0.625).abs().max() < 6 * (0.625 * 0.375 / rows.shape[1]) ** 0.5


def test_it_is_one_node_when_compiled_and_passes_torchs_own_check() -> None:
    call = call_of(("causal", "dropout", "bias"), torch.float32, 1, SHORT)
    torch._dynamo.reset()
    compiled = torch.compile(lambda: triton(call), backend="aot_eager", fullgraph=True)()
    assert all(torch.equal(mine, other) for mine, other in zip(compiled, triton(call), strict=True))
    flags = (call.scale, *call.band, call.softcap, call.dropout, call.uniform, "triton")
    tensors = (call.q.requires_grad_(), call.k, call.v, call.bias, call.keys, None, None, None, call.seed)
    found = torch.library.opcheck(torch.ops.graphckpt.attention.default, (*tensors, *flags))
    assert set(found.values()) == {"SUCCESS"}


def test_results_lie_heads_last() -> None:
    call = call_of(("grouped", "wide"), torch.float32)
    found = answer(triton, call, gradients_for(call)[0])
    for tensor in (found.out, *found.gradients[:3]):
        assert tensor.transpose(1, 2).is_contiguous()
