"""Where the operators enter: imports the kernels, and with them triton, on the first call."""

from __future__ import annotations

from torch import Tensor

from graphckpt.kernels.attention.meaning import Attention, Gradients


def forward(call: Attention) -> tuple[Tensor, Tensor]:
    """``out`` (B, H, Q, Dv), heads last in memory, and ``lse`` (B, H, Q)."""
    from graphckpt.kernels.attention.triton import launch

    return launch.attention(call)


def backward(
    call: Attention, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None, of_bias: bool
) -> Gradients:
    """All gradients, that of a bias if ``of_bias``."""
    from graphckpt.kernels.attention.triton import launch

    return launch.gradients(call, launch.Known(out, lse, grad_out, grad_lse), of_bias)
