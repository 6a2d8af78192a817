"""The modules that a `Program` is built of."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.fuzz.spec import Attention, Buffer, Layer, Program

WORDS = 32
HEADS = 2
LARGE_BYTES = 70_000
_ACTIVATIONS = {"gelu": F.gelu, "tanh": torch.tanh, "silu": F.silu}


class BufferedShift(nn.Module):
    """Reads a buffer in one of several ways; ``write`` is what eager code does to it."""

    def __init__(self, spec: Buffer, width: int) -> None:
        super().__init__()
        rows = 4
        if spec.size == "large":
            rows = LARGE_BYTES // (4 * width) + 1
        self.spec = spec
        self.register_buffer("table", 0.5 * torch.randn(rows, width))

    def forward(self, x: Tensor) -> Tensor:
        row = self.table[1]
        if self.spec.read == "add":
            out = torch.tanh(x + row)
        elif self.spec.read == "derived":
            out = x * (1 + row).sigmoid()
        elif self.spec.read == "multiply":
            out = x * row
        else:
            out = x + F.linear(F.linear(x, self.table.tanh()).softmax(-1), self.table.tanh().mT)
        if self.spec.when == "forward":
            with torch.no_grad():
                self.table[1].mul_(0.9).add_(x.detach().flatten(0, 1).mean(0), alpha=0.1)
        return out

    def write(self) -> None:
        """Change the whole buffer, as a schedule, statistics or a queue do."""
        if self.spec.how == "data":
            self.table.data.mul_(-1.5).add_(0.25)
        else:
            with torch.no_grad():
                self.table.mul_(-1.5).add_(0.25)


class SelfAttention(nn.Module):
    """Attention as its `Attention` writes it."""

    def __init__(self, spec: Attention, width: int) -> None:
        super().__init__()
        self.spec, self.size = spec, width // HEADS
        self.groups = 1 if spec.grouped else HEADS
        self.qkv = nn.Linear(width, width + 2 * self.groups * self.size)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (-1, self.size)).transpose(1, 2)
        q, k, v = heads.split([HEADS, self.groups, self.groups], 1)
        if self.spec.grouped:
            k, v = k.repeat_interleave(HEADS, 1), v.repeat_interleave(HEADS, 1)
        whole = self.spec.padding == "none" and not self.spec.window and self.spec.style == "fill"
        mask = None if self.spec.form == "sdpa" and whole else self._mask(x.shape[1], keep)
        if self.spec.form == "sdpa":
            seen = self._numbers(mask, q.dtype) if mask is not None and self.spec.style == "add" else mask
            rate = self.spec.dropout if self.training else 0.0
            mixed = F.scaled_dot_product_attention(q, k, v, seen, rate, is_causal=self.spec.causal and whole)
        else:
            weights = self._scores(q, k, mask).softmax(-1)
            weights = F.dropout(weights, self.spec.dropout, self.training)
            weights = weights.to(v.dtype)
            mixed = torch.einsum("bhqk,bhkd->bhqd", weights, v) if self.spec.form == "einsum" else weights @ v
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        scale = 1 / math.sqrt(self.size)
        if self.spec.form == "baddbmm":
            batch, length = q.shape[0], q.shape[2]
            start = torch.zeros((), dtype=q.dtype).expand(batch, HEADS, length, length)
            if mask is not None and self.spec.style == "add":
                start = self._numbers(mask, q.dtype).expand(batch, HEADS, length, length)
            scores = torch.baddbmm(start.flatten(0, 1), q.flatten(0, 1), k.flatten(0, 1).mT, alpha=scale)
            scores = scores.view(batch, HEADS, length, length)
            return (
                scores
                if mask is None or self.spec.style == "add"
                else scores.masked_fill(~mask, self._value(scores.dtype))
            )
        if self.spec.scale == "query":
            q = q * scale
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) if self.spec.form == "einsum" else q @ k.mT
        if self.spec.scale != "query":
            scores = scores * scale if self.spec.scale == "after" else scores / math.sqrt(self.size)
        if mask is None:
            return scores
        if self.spec.style == "add":
            return scores + self._numbers(mask, scores.dtype)
        return scores.masked_fill(~mask, self._value(scores.dtype))

    def _mask(self, length: int, keep: Tensor) -> Tensor | None:
        """Whether a query sees a key: (1 or batch, 1, queries, keys)."""
        place = torch.arange(length)
        mask = None
        if self.spec.causal:
            mask = place[None, :] <= place[:, None]
            if self.spec.window:
                mask = mask & (place[None, :] > place[:, None] - self.spec.window)
            mask = mask[None, None]
        if self.spec.padding != "none":
            padded = keep[:, None, None, :]
            mask = padded if mask is None else mask & padded
        return mask

    def _numbers(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, self._value(dtype))

    def _value(self, dtype: torch.dtype) -> float:
        return torch.finfo(dtype).min if self.spec.masked == "minimum" else -math.inf


class Norm(nn.Module):
    """One of the normalizations over the last dimension, or over all others in the case of batches."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        made = {"layer": nn.LayerNorm, "rms": nn.RMSNorm, "batch": nn.BatchNorm1d}
        self.kind = kind
        self.norm = made[kind](width) if kind in made else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.mT).mT if self.kind == "batch" else self.norm(x)


class FuzzLayer(nn.Module):
    """Norm, body, what the `Layer` adds to it, residual."""

    def __init__(self, spec: Layer, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.norm = Norm(spec.norm, width)
        self.activation = _ACTIVATIONS[spec.activation]
        if spec.kind == "attention":
            self.body = SelfAttention(spec.attention, width)
        elif spec.kind == "conv":
            self.body = nn.Conv1d(width, width, 3, padding=1)
        elif spec.kind == "gate":
            self.body = nn.Linear(width, 4 * width)
        else:
            self.body = nn.Linear(width, 2 * width)
        hidden = {"gate": 2 * width, "mlp": 2 * width}.get(spec.kind, 0)
        self.down = nn.Linear(hidden, width) if hidden else nn.Identity()
        self.shift = BufferedShift(spec.buffer, width) if spec.buffer is not None else nn.Identity()
        self.token = nn.Parameter(torch.randn(width)) if spec.masked_assignment else None

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        if self.spec.checkpoint == "none":
            return self._layer(x, keep)
        return checkpoint(self._layer, x, keep, use_reentrant=self.spec.checkpoint == "reentrant")

    def _layer(self, x: Tensor, keep: Tensor) -> Tensor:
        if self.token is not None:
            x = x * 1.0
            x[keep] = self.token.to(x.dtype)
        h = self.shift(self.norm(x))
        if self.spec.roll:
            h = torch.roll(h, -self.spec.roll, 1)
        h = self._stopped(self._written(self._body(h, keep), keep))
        if self.spec.roll:
            h = torch.roll(h, self.spec.roll, 1)
        h = F.dropout(h, self.spec.dropout, self.training)
        if self.spec.drop_path and self.training:
            kept = h.new_empty((h.shape[0], 1, 1)).bernoulli_(1 - self.spec.drop_path)
            h = h * kept.div_(1 - self.spec.drop_path)
        return x + h if self.spec.residual else h

    def _body(self, x: Tensor, keep: Tensor) -> Tensor:
        if self.spec.kind == "attention":
            return self.body(x, keep)
        if self.spec.kind == "conv":
            return self.activation(self.body(x.mT)).mT
        if self.spec.kind == "gate":
            value, gate = self.body(x).chunk(2, -1)
            return self.down(self.activation(gate) * value)
        return self.down(self.activation(self.body(x)))

    def _written(self, h: Tensor, keep: Tensor) -> Tensor:
        """An operation in place on a value of the graph."""
        if self.spec.in_place == "mul":
            return (h * 1.5).mul_(0.5)
        if self.spec.in_place == "add":
            h = h.clone()
            h[:, 1:].add_(0.25)
            return h
        if self.spec.in_place == "masked_fill":
            return (h * 1.5).masked_fill_(~keep[:, :, None], 0.1)
        return h

    def _stopped(self, h: Tensor) -> Tensor:
        """A statistic that no gradient goes through."""
        if self.spec.stop == "detach":
            return h * torch.sigmoid(h.detach().mean(-1, keepdim=True))
        if self.spec.stop == "no_grad":
            with torch.no_grad():
                size = 1 + h.square().mean((1, 2), keepdim=True)
            return h / size
        return h


class FuzzModel(nn.Module):
    """Layers between an input of numbers or words and a loss."""

    def __init__(self, spec: Program) -> None:
        super().__init__()
        self.spec = spec
        self.words = nn.Embedding(WORDS, spec.width) if spec.embedding else None
        self.layers = nn.ModuleList(FuzzLayer(layer, spec.width) for layer in spec.layers)

    def forward(self, x: Tensor, keep: Tensor, target: Tensor) -> Tensor:
        h = self.words(x) if self.words is not None else x
        for layer in self.layers:
            h = layer(h, keep)
        if self.words is not None:
            # The head is tied to the embedding.
            h = h @ self.words.weight.mT
        return self.loss(h, target) if self.spec.loss_inside else h

    def loss(self, h: Tensor, target: Tensor) -> Tensor:
        """The loss of the last layer's result."""
        if self.words is not None:
            return F.cross_entropy(h.flatten(0, 1), target.flatten())
        return (h - target).square().mean()

    def write_buffers(self, when: str) -> None:
        """What eager code writes at a moment of the step."""
        for layer in self.layers:
            if isinstance(layer.shift, BufferedShift) and layer.shift.spec.when == when:
                layer.shift.write()
