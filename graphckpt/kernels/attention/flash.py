"""torch's own flash attention of the CPU, for the calls that it takes: dense or causal from the first key on, nothing else.

Faster than tiles in Python, and its backward holds as little. What it takes is read in the source of torch 2.13, where it is
`_scaled_dot_product_flash_attention_for_cpu` of native/transformers/attention.cpp.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from graphckpt.kernels.attention.meaning import OPEN, Attention, Band, Gradients, heads_last

CAUSAL = Band(left=OPEN, right=0, offset=0)


def why_not(call: Attention) -> str:
    """What of a call aten's kernel has no meaning for; "" if it takes it."""
    sizes = call.sizes
    reasons = {
        "tensors are not on the CPU": call.q.device.type != "cpu",
        "k has fewer heads than q": sizes.heads != sizes.key_heads,
        "v has another head size than q": sizes.width != sizes.value_width,
        "there is a bias": call.bias is not None,
        "there is padding": call.keys is not None,
        "there are documents": call.q_documents is not None,
        "there are sinks": call.sinks is not None,
        "there is a softcap": call.softcap != 0,
        "there is dropout": call.dropout != 0,
        "the band is neither open nor causal from the first key on": not call.band.is_open and call.band != CAUSAL,
        "a causal row may lie beyond the keys": call.band == CAUSAL and not statically_known_true(sizes.rows <= sizes.keys),
        "the last dimension is not dense": any(t.stride(-1) != 1 for t in (call.q, call.k, call.v)),
    }
    return "; ".join(reason for reason, holds in reasons.items() if holds)


def forward(call: Attention) -> tuple[Tensor, Tensor]:
    """``out`` (B, H, Q, D), heads last in memory, and ``lse`` (B, H, Q) in fp32 at least."""
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        call.q, call.k, call.v, 0.0, call.band == CAUSAL, scale=call.scale
    )
    return heads_last(out), lse.contiguous()


def backward(call: Attention, out: Tensor, lse: Tensor, grad_out: Tensor) -> Gradients:
    """Gradients of q, k and v. There is none of lse: a call that needs it is not for this kernel."""
    q, k, v = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad_out, call.q, call.k, call.v, out, lse, 0.0, call.band == CAUSAL, scale=call.scale
    )
    return Gradients(heads_last(q), heads_last(k), heads_last(v), None, None)
