"""Attention as it is written down, with every weight in memory: the oracle of all other implementations.

Differentiable by autograd. Memory: several tensors of queries times keys. With dropout the mask is given, not drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphckpt.kernels.attention.masks import allowed_in
from graphckpt.kernels.attention.meaning import STOPS, Attention


def attend(call: Attention, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``out`` (B, H, Q, Dv) in the type of q, and ``lse`` (B, H, Q). ``keep``: bool (B, H, Q, K), the weights dropout leaves."""
    sizes, dtype = call.sizes, call.accumulates_in
    k, v = (tensor.to(dtype).repeat_interleave(sizes.group, dim=1) for tensor in (call.k, call.v))
    scores = call.q.to(dtype) @ k.transpose(-1, -2) * call.scale
    if call.softcap:
        scores = call.softcap * (scores / call.softcap).tanh()
    if call.bias is not None:
        scores = scores + call.bias
    allowed = allowed_in(call, slice(0, sizes.rows), slice(0, sizes.keys))
    if allowed is not None:
        empty = ~allowed.any(-1, keepdim=True)
        masked = scores.masked_fill(~allowed, -torch.inf)
        if call.spreads_evenly:
            # Equal in value, and yet the gradient passes, or does not.
            passed = scores.detach() if call.uniform == STOPS else scores
            masked = torch.where(empty, passed - scores.detach(), masked)
        scores = masked
    if call.sinks is not None:
        sinks = call.sinks.to(dtype)[None, :, None, None].expand(sizes.batch, -1, sizes.rows, 1)
        scores = torch.cat([scores, sinks], dim=-1)
    lse = scores.logsumexp(-1)
    weights = (scores - lse.masked_fill(lse == -torch.inf, torch.inf)[..., None]).exp()[..., : sizes.keys]
    if keep is not None:
        weights = weights * keep / (1.0 - call.dropout)
    return (weights @ v).to(call.q.dtype), lse
