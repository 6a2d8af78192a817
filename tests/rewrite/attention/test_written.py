"""What is written to in place: the operator reads later than the calls it stands for, and what it reads must not have changed.

    bias -> scores + bias -> bias.zero_() -> softmax -> product with v      stays as it is
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from tests.rewrite.attention import variants
from tests.rewrite.attention.test_replace import replaced
from tests.rewrite.attention.variants import BATCH, HEADS, LENGTH, WIDTH, Way, tensors_for


@pytest.mark.parametrize("rank", [2, 4])
def test_a_mask_that_is_written_before_the_softmax_is_refused(rank: int) -> None:
    def way(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.zeros(LENGTH, LENGTH, dtype=q.dtype)
        mask[:, 3:] = -5.0
        given = mask if rank == 2 else mask[None, None]
        scores = q @ k.transpose(-2, -1) + given
        mask.zero_()
        return scores.softmax(-1) @ v

    tensors = tensors_for(variants.scaled_after)
    _, found, compiled = replaced(way, tensors)
    assert found.fused == 0
    torch.testing.assert_close(compiled(**tensors), way(**tensors))


def test_a_bias_that_is_put_together_in_place_is_fused_unless_it_changes_later() -> None:
    """As DeBERTa does: its sum is what the operator reads. What is written to again before the last product is refused."""

    def way(q: Tensor, k: Tensor, v: Tensor, again: bool = False) -> Tensor:
        bias = torch.cos(q @ q.transpose(-2, -1))
        bias += torch.sin(k @ k.transpose(-2, -1))
        scores = q @ k.transpose(-2, -1) + bias
        if again:
            bias.zero_()
        return scores.softmax(-1) @ v

    tensors = tensors_for(variants.scaled_after)
    for changed, fused in ((way, 1), (partial(way, again=True), 0)):
        _, found, compiled = replaced(changed, tensors)
        assert found.fused == fused
        torch.testing.assert_close(compiled(**tensors), changed(**tensors))


def _half_of_what_is_added(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A mask and a bias of two dimensions come in one sum; the operator reads the bias itself."""
    bias = torch.cos((q @ k.transpose(-2, -1))[0, 0])
    scores = q @ k.transpose(-2, -1) + (torch.where(variants.causal(), 0.0, -torch.inf) + bias)
    bias.zero_()
    return scores.softmax(-1) @ v


def _one_of_two_biases(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bias, other = torch.cos(q @ k.transpose(-2, -1)), torch.sin(q @ k.transpose(-2, -1))
    scores = q @ k.transpose(-2, -1) + bias + other
    torch.nn.functional.relu(bias, True)
    return scores.softmax(-1) @ v


def _one_in_another_type(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bias = torch.arange(LENGTH)
    scores = q @ k.transpose(-2, -1) + bias
    bias.zero_()
    return scores.softmax(-1) @ v


def _queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scaled = q * 0.5
    scores = scaled @ k.transpose(-2, -1)
    torch.ops.aten.zero_.default(scaled)
    return scores.softmax(-1) @ v


def _bias_of_three_dimensions(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (tensor.reshape(-1, LENGTH, WIDTH) for tensor in (q, k, v))
    bias = torch.cos(q @ k.transpose(-2, -1))
    scores = torch.bmm(q, k.transpose(1, 2)) + bias
    torch._foreach_zero_([bias])
    return torch.bmm(scores.softmax(-1), v).view(BATCH, HEADS, LENGTH, WIDTH)


def _sinks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    sinks = torch.cos(v[0, :, 0, 0])
    out = variants.sunk(q, k, v, sinks)
    sinks.zero_()
    return out


_CHANGED = {
    _half_of_what_is_added: "is written to in place",
    _one_of_two_biases: "is written to in place",
    _bias_of_three_dimensions: "is written to in place",
    _one_in_another_type: "is written to in place",
    _queries: "is written to in place",
    _sinks: "not one number a head",
}


@pytest.mark.parametrize("way", _CHANGED, ids=lambda way: way.__name__)
def test_what_changes_before_the_operator_would_read_it_is_refused(way: Way) -> None:
    tensors = tensors_for(variants.scaled_after)
    _, found, compiled = replaced(way, tensors)
    assert found.fused == 0
    assert all(_CHANGED[way] in reason for _, reason in found.kept)
    torch.testing.assert_close(compiled(**tensors), way(**tensors))
