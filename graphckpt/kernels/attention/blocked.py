"""Attention in torch's own operations, tile by tile: some rows and all keys they may attend to. Any device, every meaning.

Memory beside the results: a few tensors of B * H * `ROWS` * K, in fp32 at least, and k and v in that type if they are not.
Forward is exact softmax a row, without rescaling; backward computes the weights again from ``lse`` (Dao et al., FlashAttention,
arXiv 2205.14135, algorithm 4 without its inner loop). Deterministic: rows are summed in ascending order.

Not fast on a GPU: one product a tile, and each step of the softmax a pass of its own.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from graphckpt.kernels.attention.dropout import kept
from graphckpt.kernels.attention.masks import Tile, tiles
from graphckpt.kernels.attention.meaning import STOPS, Attention, Gradients, empty_heads_last


class _Operand(NamedTuple):
    """k or v in the type that is multiplied in, (B, Hk, K, D), and whether all of it is finite.

    What is not finite is masked one batch and head at a time: it may take hardly more memory than numbers do.
    """

    values: Tensor
    is_finite: bool

    def part(self, keys: slice) -> _Operand:
        return _Operand(self.values[:, :, keys], self.is_finite)

    def weighed(self, weights: Tensor) -> Tensor:
        """``weights`` (B, Hk, rows, K) times it. A weight of zero leaves out what is no number, any other makes it show."""
        if self.is_finite:
            return weights @ self.values
        result = weights.new_empty((*weights.shape[:-1], self.values.shape[-1]))
        for place in product(*map(range, weights.shape[:2])):
            strange = ~self.values[place].isfinite()
            torch.matmul(weights[place], self.values[place].masked_fill(strange, 0), out=result[place])
            shows = (weights[place] != 0).to(result.dtype) @ strange.to(result.dtype)
            result[place].masked_fill_(shows > 0, torch.nan)
        return result

    def against(self, rows: Tensor) -> Tensor:
        """``rows`` (B, Hk, rows, D) times each key, (B, Hk, rows, K); no number where the key is none."""
        if self.is_finite:
            return rows @ self.values.transpose(-1, -2)
        result = rows.new_empty((*rows.shape[:-1], self.values.shape[-2]))
        for place in product(*map(range, rows.shape[:2])):
            strange = ~self.values[place].isfinite()
            torch.matmul(rows[place], self.values[place].masked_fill(strange, 0).t(), out=result[place])
            result[place].masked_fill_(strange.any(-1), torch.nan)
        return result


class _Scores(NamedTuple):
    """z of one tile, (B, H, rows, keys), and tanh(s / softcap) where there is a softcap."""

    z: Tensor
    tanh: Tensor | None


def forward(call: Attention) -> tuple[Tensor, Tensor]:
    """``out`` (B, H, Q, Dv), heads last in memory, in the type of q, and ``lse`` (B, H, Q)."""
    sizes = call.sizes
    out = empty_heads_last(call.q, (sizes.batch, sizes.heads, sizes.rows, sizes.value_width))
    lse = call.q.new_empty(sizes.batch, sizes.heads, sizes.rows, dtype=call.accumulates_in)
    k, v = call.k.to(call.accumulates_in), _operand(call, call.v)
    for tile in tiles(call):
        _forward_tile(call, (k, v), tile, out, lse)
    return out, lse


def _forward_tile(call: Attention, kv: tuple[Tensor, _Operand], tile: Tile, out: Tensor, lse: Tensor) -> None:
    """Write the rows of one tile."""
    k, v = kv
    scores = _scores(call, k, tile).z
    largest = _largest(call, scores)
    weights = scores.sub_(largest).exp_()
    total = weights.sum(-1, keepdim=True)
    if call.sinks is not None:
        total += (_sinks(call) - largest).exp_()
    lse[:, :, tile.rows] = (largest + total.log()).squeeze(-1)
    weights.div_(total.masked_fill_(total == 0, 1))
    keep = kept(call, tile)
    if keep is not None:
        weights.mul_(keep).div_(1.0 - call.dropout)
    out[:, :, tile.rows] = _heads(call, v.part(tile.keys).weighed(_groups(call, weights)))


def backward(call: Attention, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None, of_bias: bool = True) -> Gradients:
    """All gradients, that of a bias if ``of_bias``, each in the type and shape of its tensor; those of q, k and v with heads last
    in memory."""
    dtype = call.accumulates_in
    total = Gradients(
        empty_heads_last(call.q, call.q.shape),
        empty_heads_last(call.k, call.k.shape, dtype).zero_(),
        empty_heads_last(call.v, call.v.shape, dtype).zero_(),
        None if call.bias is None or not of_bias else torch.zeros(call.bias.shape, dtype=dtype, device=call.q.device),
        None if call.sinks is None else torch.zeros(call.sinks.shape, dtype=torch.float64, device=call.q.device),
    )
    k, v = _operand(call, call.k), _operand(call, call.v)
    for tile in tiles(call):
        rows = tile.rows
        grads = grad_out[:, :, rows].to(dtype), None if grad_lse is None else grad_lse[:, :, rows, None]
        _backward_tile(call, (k, v), tile, lse[:, :, rows, None], grads, total)
    k_grad, v_grad = total.k.to(call.k.dtype), total.v.to(call.v.dtype)
    bias = total.bias.to(call.bias.dtype) if total.bias is not None and call.bias is not None else None
    sinks = total.sinks.to(call.sinks.dtype) if total.sinks is not None and call.sinks is not None else None
    return Gradients(total.q, k_grad, v_grad, bias, sinks)


def _backward_tile(
    call: Attention,
    kv: tuple[_Operand, _Operand],
    tile: Tile,
    lse: Tensor,
    grads: tuple[Tensor, Tensor | None],
    total: Gradients,
) -> None:
    """Add what one tile gives to ``total``, and write its rows of q's gradient there. ``grads``: of out and of lse."""
    grad_out, grad_lse = grads
    k, v = (operand.part(tile.keys) for operand in kv)
    scores = _scores(call, kv[0].values, tile)
    known = lse.masked_fill(lse == -torch.inf, torch.inf)
    weights = scores.z.sub_(known).exp_()
    sink = None if call.sinks is None else (_sinks(call).double() - known).exp_()
    # Rounding of lse is a factor of the whole row, which then does not sum to one. What is summed over rows is in fp64.
    total_weight = weights.sum(-1, keepdim=True, dtype=torch.float64)
    if sink is not None:
        total_weight += sink
    weights.div_(total_weight.masked_fill_(total_weight == 0, 1))
    keep = kept(call, tile)
    # What is no number shows wherever it has a weight.
    grad = _heads(call, v.against(_groups(call, grad_out)))
    if keep is not None:
        grad.mul_(keep).div_(1.0 - call.dropout)
    # Of every score the softmax takes off the mean gradient of its row, and the row's own lse gives it some. The mean from the
    # weights, not from out: what is rounded there does not cancel against them.
    grad.mul_(weights)
    if not (k.is_finite and v.is_finite):
        _clear_without_weight(grad, weights)
    mean = grad.sum(-1, keepdim=True, dtype=torch.float64)
    if grad_lse is not None:
        mean -= grad_lse
    grad.addcmul_(weights, mean.to(grad.dtype), value=-1)
    if not (k.is_finite and v.is_finite):
        _clear_without_weight(grad, weights)
    if tile.empty is not None and call.spreads_evenly and call.uniform == STOPS:
        grad.masked_fill_(tile.empty, 0)
    if keep is not None:
        weights.mul_(keep).div_(1.0 - call.dropout)
    total.v[:, :, tile.keys] += _groups(call, weights).transpose(-1, -2) @ _groups(call, grad_out)
    del weights
    if total.bias is not None:
        _add_reduced(total.bias, grad, tile)
    if total.sinks is not None and sink is not None:
        total.sinks.sub_((sink / total_weight * mean).sum((0, 2, 3)))
    if scores.tanh is not None:
        grad.mul_(scores.tanh.square_().neg_().add_(1))
    grouped = _groups(call, grad.mul_(call.scale))
    total.q[:, :, tile.rows] = _heads(call, k.weighed(grouped))
    total.k[:, :, tile.keys] += grouped.transpose(-1, -2) @ _groups(call, call.q[:, :, tile.rows].to(grad.dtype))


def _scores(call: Attention, k: Tensor, tile: Tile) -> _Scores:
    """z of one tile. Rows that may attend to nothing have 0 everywhere if they attend to everything instead, -inf if not."""
    rows = _groups(call, call.q[:, :, tile.rows].to(k.dtype))
    z = _heads(call, rows @ k[:, :, tile.keys].transpose(-1, -2)).mul_(call.scale)
    tanh = None
    if call.softcap:
        tanh = z.div_(call.softcap).tanh_()
        z = tanh * call.softcap
    if call.bias is not None:
        z += _part(call.bias, tile)
    if tile.allowed is not None:
        z.masked_fill_(~tile.allowed, -torch.inf)
    if tile.empty is not None and call.spreads_evenly:
        z.masked_fill_(tile.empty, 0)
    return _Scores(z, tanh)


def _largest(call: Attention, scores: Tensor) -> Tensor:
    """The largest exponent of each row, 0 where there is none: (B, H, rows, 1)."""
    nothing = scores.new_full((*scores.shape[:-1], 1), -torch.inf)
    largest = scores.amax(-1, keepdim=True) if scores.shape[-1] else nothing
    if call.sinks is not None:
        largest = largest.maximum(_sinks(call))
    return largest.masked_fill_(largest == -torch.inf, 0)


def _sinks(call: Attention) -> Tensor:
    assert call.sinks is not None
    return call.sinks.to(call.accumulates_in)[None, :, None, None]


def _operand(call: Attention, tensor: Tensor) -> _Operand:
    values = tensor.to(call.accumulates_in)
    return _Operand(values, bool(values.isfinite().all()))


def _clear_without_weight(grad: Tensor, weights: Tensor) -> None:
    """Put zeros where a weight is zero, one batch at a time."""
    for part, weight in zip(grad, weights, strict=True):
        part.masked_fill_(weight == 0, 0)


def _groups(call: Attention, tensor: Tensor) -> Tensor:
    """(B, H, rows, n) as (B, Hk, H / Hk * rows, n): rows of all heads that read the same keys."""
    sizes = call.sizes
    return tensor.reshape(sizes.batch, sizes.key_heads, sizes.group * tensor.shape[2], tensor.shape[3])


def _heads(call: Attention, tensor: Tensor) -> Tensor:
    """The way back from `_groups`."""
    sizes = call.sizes
    return tensor.reshape(sizes.batch, sizes.heads, tensor.shape[2] // sizes.group, tensor.shape[3])


def _part(bias: Tensor, tile: Tile) -> Tensor:
    """What a tile sees of a bias of 4 dimensions, of which some may be 1."""
    rows = slice(None) if bias.shape[2] == 1 else tile.rows
    return bias[:, :, rows, slice(None) if bias.shape[3] == 1 else tile.keys]


def _add_reduced(total: Tensor, grad: Tensor, tile: Tile) -> None:
    """Add the gradient of one tile, summed over what the bias is broadcast over."""
    dims = [dim for dim in range(4) if total.shape[dim] == 1]
    part = _part(total, tile)
    part += grad.sum(dims, keepdim=True) if dims else grad
