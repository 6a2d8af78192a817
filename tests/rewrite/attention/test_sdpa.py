"""Calls of torch's own attention: replaced where torch would write out the weights, left to torch where it would not.

    q, k, v, mask -> scaled_dot_product_attention      becomes      graphckpt.attention -> getitem
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from graphckpt.kernels.attention.meaning import NOTHING, OPEN
from tests.rewrite.attention.test_replace import calls, flags, gradients, replaced

BATCH, HEADS, KEY_HEADS, ROWS, KEYS, WIDTH = 2, 4, 2, 7, 11, 8


def qkv(key_heads: int = HEADS) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"q": (BATCH, HEADS, ROWS, WIDTH), "k": (BATCH, key_heads, KEYS, WIDTH), "v": (BATCH, key_heads, KEYS, WIDTH)}
    return {
        name: torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for name, shape in shapes.items()
    }


def learned_bias() -> Tensor:
    """A mask with a gradient, which torch's fused kernel on the CPU does not have."""
    return torch.randn(1, HEADS, ROWS, KEYS, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()


def test_what_torch_fuses_is_left_to_torch_and_not_counted() -> None:
    def way(q: Tensor, k: Tensor, v: Tensor) -> Any:
        return scaled_dot_product_attention(q, k, v, is_causal=True)

    module, found, _ = replaced(way, qkv())
    assert (found.fused, found.kept) == (0, ())
    assert not calls(module)


def test_a_bias_with_a_gradient_is_served() -> None:
    def way(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Any:
        return scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=0.3)

    tensors = {**qkv(), "bias": learned_bias()}
    module, found, compiled = replaced(way, tensors)
    assert (found.fused, found.kept) == (1, ())
    assert len(calls(module)) == 1
    assert not [node for node in module.graph.nodes if "scaled_dot" in str(node.target)]
    for mine, exact in zip(gradients(compiled, tensors), gradients(way, tensors), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-10, atol=1e-12)


def test_shared_heads_of_keys_are_not_repeated() -> None:
    def way(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Any:
        return scaled_dot_product_attention(q, k, v, bias, enable_gqa=True)

    tensors = {**qkv(KEY_HEADS), "bias": learned_bias()}
    module, _, compiled = replaced(way, tensors)
    (call,) = calls(module)
    assert call.args[1].meta["example_value"].shape[1] == KEY_HEADS
    for mine, exact in zip(gradients(compiled, tensors), gradients(way, tensors), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-10, atol=1e-12)


def test_causal_with_dropout_is_a_band_counted_from_the_first_key() -> None:
    """Dropout takes torch's kernel on the CPU away; causal there means key j up to query i, whatever the lengths are."""

    def way(q: Tensor, k: Tensor, v: Tensor) -> Any:
        return scaled_dot_product_attention(q, k, v, dropout_p=0.25, is_causal=True)

    tensors = qkv()
    module, found, compiled = replaced(way, tensors)
    assert found.fused == 1
    (call,) = calls(module)
    assert flags(call)[:3] == (OPEN, 0, 0)
    assert flags(call)[4] == 0.25
    # With values of one, what is left of a row's weights is its result: their mean over many draws is one.
    tensors["v"] = torch.ones_like(tensors["v"])
    torch.manual_seed(0)
    draws = torch.stack([compiled(**tensors).detach() for _ in range(400)])
    # A row's weights are at most one number, kept 3 times of 4 and then 4/3: a deviation of 1/sqrt(3), 5 of them over 400 draws.
    assert (draws.mean(0) - 1).abs().max() < 5 / math.sqrt(3 * 400)
    assert draws.std(0).min() > 0


def narrow() -> dict[str, Tensor]:
    """q, k and v of another width: torch's kernel on the CPU does not take them."""
    tensors = qkv()
    return {**tensors, "v": tensors["v"].detach()[..., :5].clone().requires_grad_()}


def test_rows_that_a_mask_hides_whole_give_nothing() -> None:
    """torch gives 0 there, and no gradient, unlike attention that is written out."""

    def way(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Any:
        return scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=keys[:, None, None, :].expand(-1, 1, ROWS, -1))

    keys = torch.ones(BATCH, KEYS, dtype=torch.bool)
    keys[1] = False
    keys[0, 3:] = False
    tensors = {**narrow(), "keys": keys}
    module, found, compiled = replaced(way, tensors)
    assert (found.fused, found.kept) == (1, ())
    (call,) = calls(module)
    assert flags(call)[5] == NOTHING
    for mine, exact in zip(gradients(compiled, tensors), gradients(way, tensors), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_the_most_negative_half_hides_only_where_it_absorbs(dtype: torch.dtype) -> None:
    """Scores of halves are of 32 bits: -65504 beside them is a number like any other, bf16's is not."""

    def way(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Any:
        nothing = torch.zeros(BATCH, 1, 1, KEYS, dtype=dtype)
        mask = nothing.masked_fill(~keys[:, None, None, :], torch.finfo(dtype).min).expand(-1, 1, ROWS, -1)
        return scaled_dot_product_attention(q, k, v, mask)

    keys = torch.ones(BATCH, KEYS, dtype=torch.bool)
    keys[1] = False
    tensors = {**{name: (2 * tensor.detach()).to(dtype).requires_grad_() for name, tensor in narrow().items()}, "keys": keys}
    module, found, compiled = replaced(way, tensors)
    assert found.fused == 1
    (call,) = calls(module)
    assert (call.args[3] is None) == (dtype == torch.bfloat16)
    assert call.args[0].meta["example_value"].dtype == dtype
    for mine, exact in zip(gradients(compiled, tensors), gradients(way, tensors), strict=True):
        assert (mine - exact).norm() <= 8 * torch.finfo(dtype).eps * exact.norm()


def test_torch_is_asked_under_the_autocast_of_the_graph() -> None:
    """Queries of 32 and values of 16 bits go together there, and nowhere else."""

    def way(q: Tensor, k: Tensor, v: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return scaled_dot_product_attention(q, k, v.to(torch.bfloat16))

    wide, other = ({name: tensor.detach().float() for name, tensor in given.items()} for given in (qkv(), narrow()))
    assert replaced(way, wide)[1].fused == 0
    _, found, compiled = replaced(way, other)
    assert (found.fused, found.kept) == (1, ())
    assert compiled(**other).dtype == torch.bfloat16
    torch.testing.assert_close(compiled(**other), way(**other), rtol=0.02, atol=0.02)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_a_function_transform_is_left_alone() -> None:
    def way(q: Tensor, k: Tensor, v: Tensor) -> Any:
        return torch.vmap(scaled_dot_product_attention)(q[None], k[None], v[None])

    tensors = qkv()
    _, found, compiled = replaced(way, tensors)
    assert found.fused == 0
    torch.testing.assert_close(compiled(**tensors), way(**tensors))


def test_lengths_may_be_symbols() -> None:
    def way(q: Tensor, k: Tensor, v: Tensor) -> Any:
        return scaled_dot_product_attention(q, k, v, is_causal=True)

    tensors = narrow()
    torch._dynamo.mark_dynamic(tensors["q"], 2)
    for name in "kv":
        torch._dynamo.mark_dynamic(tensors[name], 2)
    module, found, compiled = replaced(way, tensors)
    assert (found.fused, found.kept) == (1, ())
    assert flags(calls(module)[0])[:3] == (OPEN, 0, 0)
    with torch._dynamo.config.patch(error_on_recompile=True):
        longer = {name: tensor.detach().repeat(1, 1, 3, 1).requires_grad_() for name, tensor in tensors.items()}
        torch.testing.assert_close(compiled(**longer), way(**longer))


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        (lambda q, k, v, bias: scaled_dot_product_attention(q[0], k[0], v[0], bias[0]), "not of 4 dimensions"),
        (lambda q, k, v, bias: _without_gradients(q, k, v, bias), "without gradients"),
    ],
    ids=["three_dimensions", "no_grad"],
)
def test_near_misses_are_left_alone_with_the_reason(way: Any, reason: str) -> None:
    tensors = {**qkv(), "bias": learned_bias()}
    module, found, compiled = replaced(way, tensors)
    assert found.fused == 0
    assert not calls(module)
    ((_, why),) = found.kept
    assert reason in why
    torch.testing.assert_close(compiled(**tensors), way(**tensors))


def _without_gradients(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    with torch.no_grad():
        weighed: Tensor = scaled_dot_product_attention(q, k, v, bias, 0.0)
    return weighed + q.sum()
