"""Small models, each with one thing that a planner can get wrong; a few milliseconds to run, under a second to trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

Tensor = torch.Tensor
Model = tuple[Callable[..., object], tuple[Tensor, ...], dict[str, object]]

WIDTH = 8


class Linear(nn.Module):
    """A linear map and a GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(self.linear(x))


class Dropped(Linear):
    """A linear map, a ReLU and dropout."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(torch.relu(self.linear(x)), 0.5)


class Attention(nn.Module):
    """Layer norm, attention with explicit scores, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).split(WIDTH, -1)
        return x + self.attend(q, k, v)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Softmax of the scores, times the values."""
        return (q @ k.transpose(1, 2) * 0.3).softmax(-1) @ v


class Fused(Attention):
    """The same with torch's fused attention, which gives a tuple."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]


class Convolution(nn.Module):
    """A convolution, a batch norm that writes to its buffers, and a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(torch.relu(self.norm(self.conv(x))), 2)


class Stack(nn.Module):
    """Layers in a list, so that their module paths are numbered, and a sum of squares as the loss."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return (x * x).sum()


class Counter(nn.Module):
    """Reads a buffer, or a view of it, and then writes to it: what was read must not be read again."""

    def __init__(self, through_view: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("scale", torch.ones(WIDTH))
        self.through_view = through_view

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale.view(2, -1).exp().view(-1) if self.through_view else self.scale.exp()
        hidden = torch.sin(self.linear(x) * scale)
        self.scale.mul_(0.9).add_(hidden.detach().mean(0) * 0.1)
        return (hidden * hidden).sum()


class _SortedGradient(torch.autograd.Function):
    """Backward sorts what forward was given: a value that depends on no tangent, and that only backward needs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * torch.topk(x, x.shape[-1])[0]


class _CountedBackward(torch.autograd.Function):
    """Backward writes to a tensor of its caller."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, calls: Tensor) -> Tensor:
        ctx.calls = calls
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.calls.add_(1)
        return gradient * 2, None


@torch.library.custom_op("graphckpt_tests::bump", mutates_args={"y"})
def _bump(y: Tensor) -> None:
    y.add_(1)


def _several_results(w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    left, right = (x @ w).split(WIDTH // 2, -1)
    values, where = torch.topk(left, 2, -1)
    ordered, _ = torch.sort(right, -1)
    return functional.layer_norm(values, (2,)).exp().sum() + (ordered * ordered).sum(), where


def _shared_weight(w: Tensor, x: Tensor) -> Tensor:
    return (torch.tanh(torch.tanh(x @ w) @ w) @ w.t()).pow(2).sum()


def _tied_embedding(w: Tensor, words: Tensor) -> Tensor:
    return (torch.tanh(functional.embedding(words, w)) @ w.t()).logsumexp(-1).sum()


def _returned_and_saved(w: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    hidden = torch.tanh(x @ w)
    return hidden, torch.sin(hidden).sum(), hidden.t(), hidden[0]


def _unused_outputs(w: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    hidden = torch.tanh(x @ w)
    hidden.exp().sin()
    return hidden.sum(), x.detach() * 2, hidden.detach().exp()


def _branches(w: Tensor, x: Tensor) -> Tensor:
    hidden = torch.tanh(x @ w)
    return torch.cond(hidden.sum() > 0, lambda h: h.sin(), lambda h: h.cos(), (hidden,)).sum()


def _writing_op(w: Tensor, x: Tensor) -> Tensor:
    hidden = torch.tanh(x @ w)
    copied = hidden.detach().clone()
    _bump(copied)
    return (hidden * copied).sum()


def _checkpointed(w: Tensor, x: Tensor) -> Tensor:
    return checkpoint(lambda x: torch.tanh(torch.exp(x @ w) @ w), x, use_reentrant=False).sum()


def _dropout(w: Tensor, x: Tensor) -> Tensor:
    return functional.dropout(torch.tanh(x @ w)).exp().sum()


def _sorted_gradient(w: Tensor, x: Tensor) -> Tensor:
    return _SortedGradient.apply(x @ w).sum()


def _counted_backward(w: Tensor, x: Tensor, calls: Tensor) -> Tensor:
    return _CountedBackward.apply(torch.tanh(x @ w), calls).sum()


def _leaf(*shape: int) -> Tensor:
    return torch.rand(shape, requires_grad=True)


def _function(function: Callable[..., object], **patches: object) -> Callable[[], Model]:
    return lambda: (function, (_leaf(WIDTH, WIDTH), _leaf(4, WIDTH)), patches)


MODELS: dict[str, Callable[[], Model]] = {
    "mlp": lambda: (Stack(*(Linear() for _ in range(4))), (_leaf(4, WIDTH),), {}),
    "attention": lambda: (Stack(Attention(), Attention()), (_leaf(2, 4, WIDTH),), {}),
    "fused attention": lambda: (Stack(Fused(), Fused()), (_leaf(2, 4, WIDTH),), {}),
    "convolution": lambda: (Stack(Convolution(), Convolution()), (_leaf(2, 2, 8, 8),), {}),
    "dropout": lambda: (Stack(*(Dropped() for _ in range(3))), (_leaf(4, WIDTH),), {}),
    "dropout without seeds": _function(_dropout, fallback_random=True),
    "several results": _function(_several_results),
    "shared weight": _function(_shared_weight),
    "tied embedding": lambda: (_tied_embedding, (_leaf(WIDTH, WIDTH), torch.tensor([[0, 1, 1]])), {}),
    "returned and saved": _function(_returned_and_saved),
    "unused outputs": _function(_unused_outputs),
    "buffer": lambda: (Counter(False), (_leaf(4, WIDTH),), {}),
    "buffer through a view": lambda: (Counter(True), (_leaf(4, WIDTH),), {}),
    "branches": _function(_branches),
    "writing op": _function(_writing_op),
    "checkpointed": _function(_checkpointed),
    "sorted gradient": _function(_sorted_gradient),
    "counted backward": lambda: (_counted_backward, (_leaf(WIDTH, WIDTH), _leaf(4, WIDTH), torch.zeros(3)), {}),
}
