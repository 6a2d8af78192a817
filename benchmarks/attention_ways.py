"""The ways of computing attention that are held against each other: q, k and v in, out; differentiable.

Enters: a name of `WAYS`, whether it is causal. Leaves: a function of (q, k, v) of shape (B, H, S, D), scaled by D^-1/2.
Not guaranteed: that a way runs here; `why_not` says what it lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from graphckpt.kernels.attention.api import attend
from graphckpt.kernels.attention.triton.choice import architecture_of

Function = Callable[[Tensor, Tensor, Tensor], Tensor]
OURS = ("triton", "flash", "blocked")
_BACKENDS = {
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa-math": SDPBackend.MATH,
}
WAYS = (*(f"ours-{name}" for name in OURS), "eager", *_BACKENDS, "flex", "flash-attn")


def why_not(way: str, device: torch.device) -> str:
    """What a way lacks on this device, "" if nothing."""
    on_gpu = device.type == "cuda"
    if way == "ours-triton":
        return architecture_of(device)[1]
    if way == "ours-flash":
        return "is a kernel of the CPU" if on_gpu else ""
    if way in ("sdpa-cudnn", "sdpa-efficient", "flex"):
        return "" if on_gpu else "needs a GPU"
    if way == "flash-attn":
        return "" if on_gpu and find_spec("flash_attn") else "needs a GPU and the package flash-attn"
    return ""


def function_of(way: str, causal: bool) -> Function:
    """The way as a function."""
    if way.startswith("ours-"):
        name = way.removeprefix("ours-")
        return lambda q, k, v: attend(q, k, v, causal=causal, implementation=name)[0]
    if way in _BACKENDS:
        return lambda q, k, v: _by_backend(_BACKENDS[way], q, k, v, causal)
    return {"eager": _eager, "flex": _flex, "flash-attn": _flash_attn}[way](causal)


def _by_backend(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(q, k, v, is_causal=causal)


def _eager(causal: bool) -> Function:
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if causal:
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores + torch.zeros((), dtype=q.dtype, device=q.device).masked_fill(
                hidden, torch.finfo(q.dtype).min
            )
        return scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v

    return attention


def _flex(causal: bool) -> Function:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled: Any = torch.compile(flex_attention)
    masks: dict[int, Any] = {}

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length = q.shape[2]
        if causal and length not in masks:
            masks[length] = create_block_mask(
                lambda b, h, i, j: i >= j, None, None, length, length, device=q.device.type
            )
        return compiled(q, k, v, block_mask=masks.get(length))

    return attention


def _flash_attn(causal: bool) -> Function:
    from flash_attn import flash_attn_func

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found: Tensor = flash_attn_func(*(tensor.transpose(1, 2) for tensor in (q, k, v)), causal=causal)
        return found.transpose(1, 2)

    return attention
