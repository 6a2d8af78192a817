"""What is no attention: the tensor, what was wanted of it, and what came. Shapes and types only, so that fake tensors pass too."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphckpt.errors import AttentionError
from graphckpt.kernels.attention.meaning import NOTHING, OPEN, PASSES, STOPS, Attention

TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check(call: Attention) -> None:
    """Raise `AttentionError` for a call that has no meaning."""
    _check_operands(call)
    sizes = call.sizes
    for name, tensor, shape in (
        ("keys", call.keys, (sizes.batch, sizes.keys)),
        ("q_documents", call.q_documents, (sizes.batch, sizes.rows)),
        ("k_documents", call.k_documents, (sizes.batch, sizes.keys)),
        ("sinks", call.sinks, (sizes.heads,)),
        ("seed", call.seed, ()),
    ):
        if tensor is not None:
            _want(name, f"shape {shape}", tuple(tensor.shape), tuple(tensor.shape) == shape)
            _want(name, f"a tensor on {call.q.device}, as q", str(tensor.device), tensor.device == call.q.device)
    _check_kinds(call)
    _check_bias(call)
    _check_numbers(call)


def _check_operands(call: Attention) -> None:
    for name, tensor in (("q", call.q), ("k", call.k), ("v", call.v)):
        _want(name, "4 dimensions (batch, heads, length, width)", tuple(tensor.shape), tensor.dim() == 4)
        _want(name, f"one of {', '.join(map(_short, TYPES))}", _short(tensor.dtype), tensor.dtype in TYPES)
        _want(name, f"{_short(call.q.dtype)}, as q", _short(tensor.dtype), tensor.dtype == call.q.dtype)
        _want(name, f"a tensor on {call.q.device}, as q", str(tensor.device), tensor.device == call.q.device)
        _want(name, f"a batch of {call.q.shape[0]}, as q", tensor.shape[0], tensor.shape[0] == call.q.shape[0])
        _want(name, "no dimension of zero", tuple(tensor.shape), 0 not in tensor.shape)
    key_heads, keys, width = call.k.shape[1], call.k.shape[2], call.q.shape[3]
    _want("k", f"a width of {width}, as q", call.k.shape[3], call.k.shape[3] == width)
    _want("k", f"heads that divide the {call.q.shape[1]} of q", key_heads, call.q.shape[1] % key_heads == 0)
    _want("v", f"{key_heads} heads, as k", call.v.shape[1], call.v.shape[1] == key_heads)
    _want("v", f"{keys} keys, as k", call.v.shape[2], call.v.shape[2] == keys)


def _check_kinds(call: Attention) -> None:
    if call.keys is not None:
        _want("keys", "bool, true where a key may be attended to", _short(call.keys.dtype), call.keys.dtype == torch.bool)
    for name, ids in (("q_documents", call.q_documents), ("k_documents", call.k_documents)):
        if ids is not None:
            _want(name, "integers", _short(ids.dtype), ids.dtype in INTEGERS)
    both = (call.q_documents is None) == (call.k_documents is None)
    given = "q_documents alone" if call.k_documents is None else "k_documents alone"
    _want("documents", "those of q and of k, or none", given, both)
    if call.seed is not None:
        _want("seed", "int64", _short(call.seed.dtype), call.seed.dtype == torch.int64)
    if call.sinks is not None:
        _want("sinks", "floating point", _short(call.sinks.dtype), call.sinks.dtype in TYPES)


def _check_bias(call: Attention) -> None:
    if call.bias is None:
        return
    sizes, shape = call.sizes, tuple(call.bias.shape)
    full = (sizes.batch, sizes.heads, sizes.rows, sizes.keys)
    fits = len(shape) == 4 and all(have in (1, want) for have, want in zip(shape, full, strict=True))
    _want("bias", f"a shape that broadcasts to {full}, each size that or 1", shape, fits)
    _want("bias", "floating point; a bool mask is `keys` or documents", _short(call.bias.dtype), call.bias.dtype in TYPES)
    _want("bias", f"a tensor on {call.q.device}, as q", str(call.bias.device), call.bias.device == call.q.device)


def _check_numbers(call: Attention) -> None:
    for name, side in (("left", call.band.left), ("right", call.band.right)):
        _want(f"the band's {name} side", f"0 or more, or {OPEN} for no end", side, side >= 0 or side == OPEN)
    _want("uniform", "0, 1 or 2 (nothing, passes, stops)", call.uniform, call.uniform in (NOTHING, PASSES, STOPS))
    _want("scale", "a finite number", call.scale, math.isfinite(call.scale))
    _want("softcap", "0 for none, or a finite number above 0", call.softcap, 0 <= call.softcap < math.inf)
    _want("dropout", "a probability from 0 to below 1", call.dropout, 0 <= call.dropout < 1)
    _want("seed", "an int64 tensor to draw dropout from", "none", call.dropout == 0 or call.seed is not None)


def _want(what: str, wanted: str, came: object, holds: bool) -> None:
    if not holds:
        raise AttentionError(what, wanted, came)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_like(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise `AttentionError` unless a gradient has the shape of what it is the gradient of."""
    _want(name, f"shape {shape}", tuple(tensor.shape), tuple(tensor.shape) == shape)
