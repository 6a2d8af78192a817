"""Calls of attention with every flag and every pair of flags, what eager models make of them, and the error of an answer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from graphckpt.kernels.attention import dropout, masks, reference
from graphckpt.kernels.attention.meaning import Attention, Band, Gradients

BATCH, KEY_HEADS, ROWS, KEYS, WIDTH = 2, 2, 150, 170, 16
MASKS = ("causal", "window", "padding", "documents", "left_out")
FLAGS = (*MASKS, "grouped", "bias", "row_bias", "softcap", "sinks", "wide", "dropout")
PAIRS = [(), *((flag,) for flag in FLAGS), *combinations(FLAGS, 2)]
# Of these only one at a time.
_EITHER = ({"bias", "row_bias"},)
CASES = [pair for pair in PAIRS if not any(either.issubset(pair) for either in _EITHER)]


@dataclass(frozen=True)
class Answer:
    """What one way makes of a call: results, and gradients of everything that has one."""

    out: Tensor
    lse: Tensor
    gradients: Gradients


def call_of(flags: tuple[str, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> Attention:
    """A call with these flags; lengths are no multiples of a tile, and some rows of ``left_out`` may attend to nothing."""
    drawn = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=drawn, dtype=torch.float64).to(dtype)

    heads = KEY_HEADS * (3 if "grouped" in flags else 1)
    value_width = 24 if "wide" in flags else WIDTH
    keys = None
    if "padding" in flags:
        keys = torch.rand(BATCH, KEYS, generator=drawn) < 0.7
    if "left_out" in flags:
        # Left padding: what comes first has nothing to attend to under a causal band, nor has the last batch's first document.
        keys = torch.arange(KEYS).expand(BATCH, -1) >= 30
        keys = keys.clone()
        keys[-1] = False
    ids = torch.arange(KEYS).div(60, rounding_mode="floor").expand(BATCH, -1).contiguous()
    return Attention(
        normal(BATCH, heads, ROWS, WIDTH),
        normal(BATCH, KEY_HEADS, KEYS, WIDTH),
        normal(BATCH, KEY_HEADS, KEYS, value_width),
        0.25,
        normal(1, heads, ROWS, KEYS) if "bias" in flags else normal(BATCH, heads, 1, KEYS) if "row_bias" in flags else None,
        keys,
        ids[:, :ROWS].contiguous() if "documents" in flags else None,
        ids if "documents" in flags else None,
        normal(heads) if "sinks" in flags else None,
        torch.tensor(123) if "dropout" in flags else None,
        Band(
            40 if "window" in flags else -1,
            0 if "causal" in flags else 25 if "window" in flags else -1,
            KEYS - ROWS if "causal" in flags else 0,
        ),
        3.0 if "softcap" in flags else 0.0,
        0.25 if "dropout" in flags else 0.0,
    )


def cast(call: Attention, dtype: torch.dtype) -> Attention:
    """The same call, with the same numbers, in another type."""
    replaced = {
        name: value.to(dtype)
        for name, value in call._asdict().items()
        if isinstance(value, Tensor) and value.dtype.is_floating_point
    }
    return call._replace(**replaced)


def keep_of(call: Attention) -> Tensor | None:
    """What dropout leaves of all weights, as the tiles draw it."""
    if call.dropout == 0:
        return None
    sizes = call.sizes
    whole = torch.ones(sizes.batch, sizes.heads, sizes.rows, sizes.keys, dtype=torch.bool)
    for tile in masks.tiles(call):
        drawn = dropout.kept(call, tile)
        assert drawn is not None
        whole[:, :, tile.rows, tile.keys] = drawn
    return whole


def eager(call: Attention, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """As Hugging Face's models write it: all in the tensors' own type but the softmax, masks added as the most negative number."""
    sizes, dtype = call.sizes, call.q.dtype
    k, v = (tensor.repeat_interleave(sizes.group, dim=1) for tensor in (call.k, call.v))
    scores = call.q @ k.transpose(-1, -2) * call.scale
    if call.softcap:
        scores = (scores / call.softcap).tanh() * call.softcap
    if call.bias is not None:
        scores = scores + call.bias
    allowed = masks.allowed_in(call, slice(0, sizes.rows), slice(0, sizes.keys))
    if allowed is not None:
        scores = scores + torch.zeros((), dtype=dtype).where(allowed, torch.finfo(dtype).min)
    if call.sinks is not None:
        scores = torch.cat([scores, call.sinks[None, :, None, None].expand(sizes.batch, -1, sizes.rows, 1)], dim=-1)
    scores = scores.to(call.accumulates_in)
    weights = scores.softmax(-1).to(dtype)[..., : sizes.keys]
    if keep is not None:
        weights = weights * keep / (1 - call.dropout)
    return weights @ v, scores.logsumexp(-1)


def answer(way: object, call: Attention, grad_out: Tensor, grad_lse: Tensor | None = None, *rest: object) -> Answer:
    """Run a differentiable way and take its gradients. ``grad_lse`` counts where lse is finite."""
    tensors = [call.q, call.k, call.v, *(t for t in (call.bias, call.sinks) if t is not None)]
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    given = iter(leaves[3:])
    bias = next(given) if call.bias is not None else None
    sinks = next(given) if call.sinks is not None else None
    out, lse = way(call._replace(q=leaves[0], k=leaves[1], v=leaves[2], bias=bias, sinks=sinks), *rest)  # type: ignore[operator]
    loss = (out * grad_out.to(out.dtype)).sum()
    if grad_lse is not None:
        loss = loss + (lse.masked_fill(lse == -torch.inf, 0) * grad_lse.to(lse.dtype)).sum()
    found = iter(torch.autograd.grad(loss, leaves))
    q, k, v = next(found), next(found), next(found)
    gradients = Gradients(q, k, v, next(found) if bias is not None else None, next(found) if sinks is not None else None)
    return Answer(out.detach(), lse.detach(), gradients)


def oracle(call: Attention, grad_out: Tensor, grad_lse: Tensor | None = None) -> Answer:
    """The reference in fp64 on the numbers of ``call``, whatever their type."""
    return answer(reference.attend, cast(call, torch.float64), grad_out, grad_lse, keep_of(call))


def errors(found: Answer, true: Answer) -> dict[str, float]:
    """Relative error of each result and gradient, in the L2 norm."""
    return {name: relative(mine, exact) for name, (mine, exact) in _pairs(found, true).items()}


def squared_errors(found: Answer, true: Answer) -> dict[str, float]:
    """Squared norm of the difference in each result and gradient."""
    return {name: (mine.double() - exact).square().sum().item() for name, (mine, exact) in _pairs(found, true).items()}


def _pairs(found: Answer, true: Answer) -> dict[str, tuple[Tensor, Tensor]]:
    named = zip(Gradients._fields, found.gradients, true.gradients, strict=True)
    gradients = {name: (mine, exact) for name, mine, exact in named if mine is not None and exact is not None}
    return {"out": (found.out, true.out), **gradients}


def relative(mine: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm of what is exact; the former alone where that is zero."""
    size = exact.double().norm().item()
    return (mine.double() - exact.double()).norm().item() / (size or 1.0)
