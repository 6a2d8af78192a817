"""Attentions as people write them, and what is none: functions of q, k, v (B, H, S, D) and of more where they need it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.masked
from torch import Tensor
from torch.nn import functional

BATCH, HEADS, LENGTH, WIDTH = 2, 4, 11, 8
SCALE = 1 / math.sqrt(WIDTH)
Way = Callable[..., Any]


def causal() -> Tensor:
    """True where a key is not ahead of its query."""
    places = torch.arange(LENGTH)
    return places[None, :] <= places[:, None]


def scaled_after(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) * SCALE).softmax(-1) @ v


def scaled_before(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.matmul(functional.softmax(torch.matmul(q * SCALE, k.mT.contiguous()), dim=-1), v)


def divided(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(torch.matmul(q, k.permute(0, 1, 3, 2)) / math.sqrt(WIDTH), dim=3).matmul(v)


def einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * SCALE
    return torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v)


def einsum_of_other_layouts(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k)
    return torch.einsum("bhij,bjhd->bhid", (scores * SCALE).softmax(-1), v)


def batched(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (tensor.reshape(-1, LENGTH, WIDTH) for tensor in (q, k, v))
    scores = torch.bmm(q, k.transpose(1, 2)).mul(SCALE)
    return torch.bmm(scores.softmax(dim=-1), v).view(BATCH, HEADS, LENGTH, WIDTH)


def added_bias(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return ((q @ k.transpose(-2, -1)) * SCALE + bias).softmax(-1) @ v


def baddbmm(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    q, k, v = (tensor.reshape(-1, LENGTH, WIDTH) for tensor in (q, k, v))
    bias = bias.expand(BATCH, -1, -1, -1).reshape(-1, LENGTH, LENGTH)
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), beta=0.5, alpha=SCALE).view(BATCH, HEADS, LENGTH, LENGTH)
    return torch.bmm(scores.softmax(-1).view(-1, LENGTH, LENGTH), v).view(BATCH, HEADS, LENGTH, WIDTH)


def masked_fill(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) * SCALE
    return scores.masked_fill(~causal(), torch.finfo(scores.dtype).min).softmax(-1) @ v


def where(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) * SCALE
    return torch.where(causal(), scores, float("-inf")).softmax(-1) @ v


def additive_bool(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) * SCALE
    nothing = torch.zeros((), dtype=torch.float64)
    mask = torch.where(causal() & keys[:, None, None, :], nothing, torch.finfo(torch.float64).min)
    return (scores + mask).softmax(-1) @ v


def softcapped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) * SCALE
    scores = torch.tanh(scores / 2.0) * 2.0
    return scores.softmax(-1) @ v


def sunk(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) * SCALE
    joined = torch.cat([scores, sinks.reshape(1, -1, 1, 1).expand(BATCH, -1, LENGTH, -1)], dim=-1)
    joined = joined - joined.max(dim=-1, keepdim=True).values
    return joined.softmax(-1)[..., :-1] @ v


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (tensor[:, :2, None].expand(-1, -1, 2, -1, -1).reshape(BATCH, HEADS, LENGTH, WIDTH) for tensor in (k, v))
    return (q @ k.transpose(2, 3) * SCALE).softmax(-1) @ v


def padded_both_ways(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Tensor:
    """DeBERTa's: padding hides its keys from all, and all keys from its queries, whose rows are then uniform."""
    mask = keys.long()[:, None, None, :] * keys.long()[:, None, :, None]
    scores = q @ k.transpose(-2, -1) * SCALE
    return scores.masked_fill(~mask.bool(), torch.finfo(scores.dtype).min).softmax(-1) @ v


def packed_by_positions(q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Tensor:
    """As transformers does where positions are given: runs of them are documents, and they are compared, not places."""
    runs = (torch.diff(positions, prepend=positions[:, :1] - 1, dim=-1) != 1).cumsum(-1)
    b, i = torch.arange(BATCH)[:, None, None, None], torch.arange(LENGTH)[None, None, :, None]
    j = torch.arange(LENGTH)[None, None, None, :]
    seen = (runs[b, i] == runs[b, j]) & (positions[b, j] <= positions[b, i]) & (positions[b, j] > positions[b, i] - 3)
    scores = q @ k.transpose(-2, -1) * SCALE
    return (scores + torch.where(seen, torch.zeros((), dtype=q.dtype), torch.finfo(q.dtype).min)).softmax(-1) @ v


def packed(q: Tensor, k: Tensor, v: Tensor, documents: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) * SCALE
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return scores.masked_fill(~(same & causal()), torch.finfo(scores.dtype).min).softmax(-1) @ v


def windowed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) * SCALE
    rows, keys = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)[None, :]
    seen = (keys <= rows) & (keys > rows - 4)
    return (scores + torch.zeros(LENGTH, LENGTH, dtype=torch.float64).masked_fill(~seen, -torch.inf)).softmax(-1) @ v


def filled_in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    keys = torch.empty_like(k)
    keys[..., :3], keys[..., 3:] = k[..., :3], k[..., 3:] * 2
    return (q @ keys.transpose(-2, -1) * SCALE).softmax(-1) @ v


def named_baddbmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (tensor.reshape(-1, LENGTH, WIDTH) for tensor in (q, k, v))
    slopes = torch.arange(LENGTH, dtype=torch.float64)[None, None].expand(BATCH * HEADS, 1, -1)
    scores = slopes.baddbmm(batch1=q, batch2=k.transpose(1, 2), beta=1.0, alpha=SCALE)
    return torch.bmm(scores.softmax(-1), v).view(BATCH, HEADS, LENGTH, WIDTH)


def any_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) * SCALE
    nothing = torch.zeros((), dtype=torch.float64)
    return (scores + torch.where(mask, torch.finfo(torch.float64).min, nothing)).softmax(-1) @ v


def _near(scores: Tensor, v: Tensor) -> Tensor:
    return scores.softmax(-1) @ v


def over_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1)).softmax(-2) @ v


def weights_returned(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    weights = (q @ k.transpose(-2, -1)).softmax(-1)
    return weights @ v, weights


def weights_twice(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.transpose(-2, -1)).softmax(-1)
    return weights @ v + weights @ k


def scores_twice(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    return _near(scores, v) + scores.mean()


def mask_from_scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    return _near(scores.masked_fill(scores < 0, -torch.inf), v)


def scaled_by_a_tensor(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return _near(q @ k.transpose(-2, -1) * bias, v)


def bias_scaled(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return _near((q @ k.transpose(-2, -1) + bias) * SCALE, v)


def two_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _near(q @ k.transpose(-2, -1) + k @ q.transpose(-2, -1), v)


def weights_from_the_right(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return v.transpose(-2, -1) @ (q @ k.transpose(-2, -1)).softmax(-1)


def half_hidden(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _near((q @ k.transpose(-2, -1)).masked_fill(~causal(), -1.0), v)


def square(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _near((q @ k.transpose(-2, -1)) ** 2, v)


def replaced_by_any_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return _near((q @ k.transpose(-2, -1)).masked_fill(mask, torch.finfo(torch.float64).min), v)


def hidden_twice(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Tensor:
    scores = (q @ k.transpose(-2, -1)).masked_fill(~keys[:, None, None, :], torch.finfo(torch.float64).min)
    return _near(scores.masked_fill(~causal(), -torch.inf), v)


def without_gradients(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with torch.no_grad():
        weights = (q @ k.transpose(-2, -1)).softmax(-1)
    return weights @ v


def detached(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1)).softmax(-1).detach() @ v


def in_place(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    scores += bias
    return _near(scores, v)


def sink_scaled(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor) -> Tensor:
    joined = torch.cat([q @ k.transpose(-2, -1), sinks.reshape(1, -1, 1, 1).expand(BATCH, -1, LENGTH, -1)], dim=-1)
    return (joined * 0.5).softmax(-1)[..., :-1] @ v


def shifted_under_a_sink(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor) -> Tensor:
    joined = torch.cat([q @ k.transpose(-2, -1) + 3.0, sinks.reshape(1, -1, 1, 1).expand(BATCH, -1, LENGTH, -1)], dim=-1)
    return joined.softmax(-1)[..., :-1] @ v


def shifted_under_a_softcap(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _near(torch.tanh((q @ k.transpose(-2, -1) + 1.5) / 2) * 2, v)


def masked_by_torch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return torch.masked.softmax(q @ k.transpose(-2, -1), -1, mask=~mask.expand(-1, HEADS, -1, -1)) @ v


def mask_made_in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.zeros(LENGTH, LENGTH, dtype=torch.float64)
    mask.masked_fill_(~causal(), -torch.inf)
    return _near(q @ k.transpose(-2, -1) + mask, v)


def bias_changed_later(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Tensor:
    mask = keys[:, None, None, :].double() * 2
    weights = (q @ k.transpose(-2, -1) + mask).softmax(-1)
    mask.add_(keys[:, None, None, :] * 5.0)
    return weights @ v


def documents_of_floats(q: Tensor, k: Tensor, v: Tensor, documents: Tensor) -> Tensor:
    ids = documents * 0.5
    hidden = ids[:, None, :, None] != ids[:, None, None, :]
    return _near((q @ k.transpose(-2, -1)).masked_fill(hidden, torch.finfo(torch.float64).min), v)


def arange_with_options(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    places = torch.arange(3, end=LENGTH + 3)
    hidden = places[None, :] > torch.arange(LENGTH)[:, None] + 3
    return _near((q @ k.transpose(-2, -1)).masked_fill(hidden, torch.finfo(torch.float64).min), v)


def mask_of_batches_as_large_as_heads(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    q, k, v = (tensor[:, :BATCH] for tensor in (q, k, v))
    nothing = torch.zeros((), dtype=torch.float64)
    return _near(q @ k.transpose(-2, -1) + torch.where(mask[:, 0], -torch.inf, nothing)[:, None], v)


def batch_of_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _near(q[:1] @ k[:1].transpose(-2, -1), v)


def out_of_order(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Tensor:
    hidden = ~keys[:, None, None, :]
    first, second = ((x @ k.transpose(-2, -1)).masked_fill(hidden, -torch.inf).softmax(-1) for x in (q, q * 2))
    late = second @ v
    return late + first @ v


def empty_rows(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Tensor:
    hidden = ~(keys[:, None, None, :] & causal())
    return _near((q @ k.transpose(-2, -1)).masked_fill(hidden, torch.finfo(torch.float64).min), v)


# Fused or not: what comes out, and the gradients, must be eager's.
STRANGE: tuple[Way, ...] = (
    mask_made_in_place,
    bias_changed_later,
    documents_of_floats,
    arange_with_options,
    mask_of_batches_as_large_as_heads,
    batch_of_one,
    out_of_order,
    empty_rows,
)
FUSED: tuple[Way, ...] = (
    scaled_after,
    scaled_before,
    divided,
    einsum,
    einsum_of_other_layouts,
    batched,
    added_bias,
    baddbmm,
    masked_fill,
    where,
    additive_bool,
    softcapped,
    sunk,
    grouped,
    packed,
    padded_both_ways,
    packed_by_positions,
    windowed,
    filled_in_place,
    named_baddbmm,
    any_mask,
)
KEPT: dict[Way, str] = {
    over_queries: "not over the last dimension",
    weights_returned: "the weights are used elsewhere too",
    weights_twice: "the weights are used elsewhere too",
    scores_twice: "the scores are used elsewhere too",
    mask_from_scores: "the scores are used elsewhere too",
    scaled_by_a_tensor: "multiplied by something that is no constant",
    bias_scaled: "a bias is scaled",
    two_products: "two products are summed",
    weights_from_the_right: "do not go into a plain product from the left",
    half_hidden: "replaced by something that still has a weight",
    square: "the scores come from pow",
    replaced_by_any_mask: "replaced by a mask that is not proven",
    hidden_twice: "hidden in several ways",
    without_gradients: "computed without gradients",
    detached: "go into detach",
    in_place: "which is no part of an attention",
    sink_scaled: "no sink",
    shifted_under_a_sink: "shifted before their softcap, or beside a sink",
    shifted_under_a_softcap: "shifted before their softcap",
}


def tensors_for(way: Way) -> dict[str, Tensor]:
    """What a way is called with, in fp64; what is floating requires a gradient."""
    drawn = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=drawn, dtype=torch.float64).requires_grad_()

    keys = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    keys[0, :3] = False
    known = {
        **{name: normal(BATCH, HEADS, LENGTH, WIDTH) for name in "qkv"},
        "bias": normal(1, HEADS, LENGTH, LENGTH),
        "sinks": normal(HEADS),
        "keys": keys,
        "documents": torch.tensor([[0] * 5 + [1] * 6, [0] * 2 + [1] * 9]),
        "positions": torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5], [7, 8, 2, 3, 3, 4, 5, 6, 9, 8, 9]]),
        "mask": torch.rand(BATCH, 1, LENGTH, LENGTH, generator=drawn) < 0.3,
    }
    names = way.__code__.co_varnames[: way.__code__.co_argcount]
    return {name: known[name] for name in names}
