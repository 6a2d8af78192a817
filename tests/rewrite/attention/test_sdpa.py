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


def test_rows_that_a_mask_hides_whole_give_nothing() -> None:
    """torch gives 0 there, and no gradient, unlike attention that is written out."""

    def way(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, bias: Tensor) -> Any:
        return scaled_dot_product_attention(q + 0.0 * bias.sum(), k, v, keys[:, None, None, :].expand(-1, 1, ROWS, -1), 0.0)

    keys = torch.ones(BATCH, KEYS, dtype=torch.bool)
    keys[1] = False
    keys[0, 3:] = False
    tensors = {**qkv(), "keys": keys, "bias": learned_bias()}

    def dropped(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, bias: Tensor) -> Any:
        mask = keys[:, None, None, :].expand(-1, 1, ROWS, -1)
        return scaled_dot_product_attention(q + 0.0 * bias.sum(), k, v, mask, 1e-12)

    module, found, compiled = replaced(dropped, tensors)
    assert (found.fused, found.kept) == (1, ())
    (call,) = calls(module)
    assert flags(call)[5] == NOTHING
    for mine, exact in zip(gradients(compiled, tensors), gradients(way, tensors), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-11)


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
    assert all(reason in why for _, why in found.kept), found.kept
    torch.testing.assert_close(compiled(**tensors), way(**tensors))


def _without_gradients(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    with torch.no_grad():
        weighed: Tensor = scaled_dot_product_attention(q, k, v, bias, 0.0)
    return weighed + q.sum()
