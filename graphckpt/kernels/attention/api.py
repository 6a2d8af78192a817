"""What a person calls: attention by keyword, with the implementation chosen where it is left open."""

from __future__ import annotations

import torch
from torch import Tensor

from graphckpt.errors import AttentionError
from graphckpt.kernels.attention import flash, ops
from graphckpt.kernels.attention.meaning import OPEN, PASSES, Attention, Band
from graphckpt.kernels.attention.triton import choice
from graphckpt.kernels.attention.validation import check


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
    bias: Tensor | None = None,
    keys: Tensor | None = None,
    documents: tuple[Tensor, Tensor] | None = None,
    sinks: Tensor | None = None,
    softcap: float = 0.0,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    uniform: int = PASSES,
    implementation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of q (B, H, Q, D) over k (B, Hk, K, D) and v (B, Hk, K, Dv); `graphckpt.kernels.attention.meaning` says what it is.

    ``causal``: the last query sees all keys, each one before it one less. ``window``: a query sees so many keys, its own the last
    (causal) or in the middle, ``window - 1`` to either side. ``documents``: ids of queries (B, Q) and of keys (B, K).
    ``scale``: D to the power of -1/2 if left out. ``implementation``: one of `ops.IMPLEMENTATIONS`; left out, the fastest that
    takes the call and has a gradient of lse.

    Returns:
        out (B, H, Q, Dv) in the type of q, and lse (B, H, Q) in fp32, or fp64 for that.

    Raises:
        AttentionError: a call without a meaning, or one that the named implementation does not take.
    """
    if window is not None and window < 1:
        raise AttentionError("window", "a number of keys, 1 or more", window)
    side = OPEN if window is None else window - 1
    offset = k.shape[-2] - q.shape[-2] if causal else 0
    q_documents, k_documents = documents or (None, None)
    width = q.shape[-1]
    call = Attention(
        q,
        k,
        v,
        width**-0.5 if scale is None and width else scale or 0.0,
        bias,
        keys,
        q_documents,
        k_documents,
        sinks,
        seed,
        Band(side, 0 if causal else side, offset),
        softcap,
        dropout,
        uniform,
    )
    if not torch.compiler.is_compiling():
        # The operator checks as well; traced, what errors say would tie the graph to its sizes.
        check(call)
    return run(call, implementation or fastest(call, of_lse=True))


def run(call: Attention, implementation: str) -> tuple[Tensor, Tensor]:
    """One call by one implementation, differentiable."""
    flags = ops.Flags(call.scale, *call.band, call.softcap, call.dropout, int(call.uniform), implementation)
    tensors = (call.q, call.k, call.v, call.bias, call.keys, call.q_documents, call.k_documents, call.sinks, call.seed)
    return torch.ops.graphckpt.attention(*tensors, *flags)


def fastest(call: Attention, *, of_lse: bool = False) -> str:
    """The fastest implementation of this device that takes a call: on a GPU Triton's kernels, on a CPU aten's flash attention, and
    else blocked, which takes all. ``of_lse``: lse may need a gradient, which aten's kernel has not."""
    if call.q.device.type == "cuda":
        return "blocked" if choice.why_not(call) else "triton"
    return "blocked" if of_lse or flash.why_not(call) else "flash"
