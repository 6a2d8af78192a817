"""The two operators, ``graphckpt::attention`` and ``graphckpt::attention_backward``: what AOTAutograd sees as one node each.

Forward saves q, k, v, out, lse and the small tensors of its masks; nothing of queries times keys. Both are functions of their
arguments, dropout included, so either may run again. Registered with autograd, fake tensors and torch's counter of flops.

An implementation is named in the call ("blocked", "flash", "triton") and raises `AttentionError` where it has no meaning for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from graphckpt.errors import AttentionError
from graphckpt.kernels.attention import blocked, cost, flash
from graphckpt.kernels.attention.meaning import Attention, Band, Gradients, Sizes, empty_heads_last
from graphckpt.kernels.attention.triton import choice, entry
from graphckpt.kernels.attention.validation import check, check_like

IMPLEMENTATIONS = ("blocked", "flash", "triton")
# Why one does not take a call; "blocked" takes all.
_REFUSALS = {"flash": flash.why_not, "triton": choice.why_not}


class Flags(NamedTuple):
    """The arguments of both operators that are no tensors, in their order."""

    scale: float
    left: int
    right: int
    offset: int
    softcap: float
    dropout: float
    uniform: int
    implementation: str


@torch.library.custom_op("graphckpt::attention", mutates_args=())
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    keys: Tensor | None,
    q_documents: Tensor | None,
    k_documents: Tensor | None,
    sinks: Tensor | None,
    seed: Tensor | None,
    scale: float,
    left: int,
    right: int,
    offset: int,
    softcap: float,
    dropout: float,
    uniform: int,
    implementation: str,
) -> tuple[Tensor, Tensor]:
    """``out`` and ``lse``, as `graphckpt.kernels.attention.meaning` says."""
    flags = Flags(scale, left, right, offset, softcap, dropout, uniform, implementation)
    call = call_of((q, k, v, bias, keys, q_documents, k_documents, sinks, seed), flags)
    if implementation == "triton":
        return entry.forward(call)
    return flash.forward(call) if implementation == "flash" else blocked.forward(call)


@torch.library.custom_op("graphckpt::attention_backward", mutates_args=())
def attention_backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    keys: Tensor | None,
    q_documents: Tensor | None,
    k_documents: Tensor | None,
    sinks: Tensor | None,
    seed: Tensor | None,
    scale: float,
    left: int,
    right: int,
    offset: int,
    softcap: float,
    dropout: float,
    uniform: int,
    implementation: str,
    of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, bias (if ``of_bias``) and sinks; of what is not there or not asked for, a tensor of no elements."""
    flags = Flags(scale, left, right, offset, softcap, dropout, uniform, implementation)
    call = call_of((q, k, v, bias, keys, q_documents, k_documents, sinks, seed), flags)
    check_like("the gradient of out", grad_out, tuple(out.shape))
    if implementation == "triton":
        return _with_nothing(call, entry.backward(call, out, lse, grad_out, grad_lse, of_bias))
    if implementation == "blocked":
        return _with_nothing(call, blocked.backward(call, lse, grad_out, grad_lse, of_bias))
    if grad_lse is not None:
        raise AttentionError("implementation", "one with a gradient of lse, blocked", implementation)
    return _with_nothing(call, flash.backward(call, out, lse, grad_out))


def call_of(tensors: Sequence[Any], flags: Flags) -> Attention:
    """The call that the operator's tensors, q to seed in its order, and flags make; checked, and taken by the implementation."""
    q, k, v, bias, keys, q_documents, k_documents, sinks, seed = tensors
    band = Band(flags.left, flags.right, flags.offset)
    masks = (bias, keys, q_documents, k_documents, sinks, seed)
    call = Attention(q, k, v, flags.scale, *masks, band, flags.softcap, flags.dropout, flags.uniform)
    check(call)
    if flags.implementation not in IMPLEMENTATIONS:
        raise AttentionError("implementation", f"one of {', '.join(IMPLEMENTATIONS)}", repr(flags.implementation))
    refusal = _REFUSALS[flags.implementation](call) if flags.implementation in _REFUSALS else ""
    if refusal:
        raise AttentionError("implementation", "one that can do this, as blocked can", f"{flags.implementation}: {refusal}")
    return call


def _with_nothing(call: Attention, gradients: Gradients) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    nothing = [call.q.new_empty(0) if grad is None else grad for grad in (gradients.bias, gradients.sinks)]
    return gradients.q, gradients.k, gradients.v, nothing[0], nothing[1]


@attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    call = call_of((q, k, v, *rest[:6]), Flags(*rest[6:]))
    sizes = call.sizes
    out = empty_heads_last(q, (sizes.batch, sizes.heads, sizes.rows, sizes.value_width))
    return out, q.new_empty(sizes.batch, sizes.heads, sizes.rows, dtype=call.accumulates_in)


@attention_backward.register_fake
def _(
    grad_out: Tensor, grad_lse: Tensor | None, out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    call = call_of((q, k, v, *rest[:6]), Flags(*rest[6:14]))
    wanted = (call.bias if rest[14] else None, call.sinks)
    bias, sinks = (None if tensor is None else tensor.new_empty(tensor.shape) for tensor in wanted)
    empty = [empty_heads_last(tensor, tensor.shape) for tensor in (q, k, v)]
    return _with_nothing(call, Gradients(empty[0], empty[1], empty[2], bias, sinks))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:9], *output)
    ctx.flags = inputs[9:]
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, out, lse = ctx.saved_tensors
    given = out.new_zeros(out.shape) if grad_out is None else grad_out
    # A mask that stayed a tensor is a bias without a gradient: what is summed for one may cost as much as the rest.
    of_bias = ctx.needs_input_grad[3]
    found = torch.ops.graphckpt.attention_backward(given, grad_lse, out, lse, *tensors, *ctx.flags, of_bias)
    bias = found[3] if of_bias else None
    sinks = None if tensors[7] is None else found[4]
    return (*found[:3], bias, None, None, None, sinks, None, *(None for _ in ctx.flags))


attention.register_autograd(_differentiate, setup_context=_save)


def _sizes(q: Any, k: Any, v: Any) -> Sizes:
    return Sizes(q[0], q[1], q[2], k[1], k[2], q[3], v[3])


@register_flop_formula(torch.ops.graphckpt.attention)
def _(q: Any, k: Any, v: Any, *rest: Any, out_shape: Any = None, **_: Any) -> int:
    flags = Flags(*rest[6:])
    return cost.forward_flops(_sizes(q, k, v), Band(flags.left, flags.right, flags.offset))


@register_flop_formula(torch.ops.graphckpt.attention_backward)
def _(grad_out: Any, grad_lse: Any, out: Any, lse: Any, q: Any, k: Any, v: Any, *rest: Any, **_: Any) -> int:
    flags = Flags(*rest[6:14])
    return cost.backward_flops(_sizes(q, k, v), Band(flags.left, flags.right, flags.offset))
