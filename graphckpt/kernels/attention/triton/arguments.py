"""What the kernels are called with: named tuples of pointers, strides and numbers, which Triton takes as they are.

What a call does not have is None, and a kernel compiled for None has no code for it. Strides are in elements. A broadcast dimension
has stride 0: nothing is expanded or copied.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphckpt.kernels.attention.meaning import NOTHING, OPEN, Attention, Band, Sizes
from graphckpt.kernels.attention.triton.parts import parts_of

# Dropout compares 16 bits.
_DRAWS = 2**16
# Beyond any length; a side of a band this long leaves nothing out.
_FAR = 2**30
# Rows and columns of a tile together are at most so many.
_TILE = 512
# Bytes.
_ALIGNED = 16


class Strided(NamedTuple):
    """A tensor of four dimensions: (batch, head, row or key, column). ``far``: 1 where a place in a tile may be beyond 32 bits."""

    data: Tensor | None
    batch: int
    head: int
    row: int
    column: int
    far: int | None


# A tensor that is not there, told by its data: Triton 3.6 cannot compare a tuple that holds None with None.
ABSENT = Strided(None, 0, 0, 0, 0, None)


class Vectors(NamedTuple):
    """A tensor of two dimensions: (batch, row or key)."""

    data: Tensor
    batch: int
    at: int


class Masks(NamedTuple):
    """Who may attend to whom. ``empty``: int8 (B, Q), rows that may attend to nothing and so attend to everything."""

    left: int | None
    right: int | None
    offset: int
    keys: Vectors | None
    q_documents: Vectors | None
    k_documents: Vectors | None
    empty: Vectors | None


class Scores(NamedTuple):
    """How products become exponents."""

    scale: float
    softcap: float | None


class Dropout(NamedTuple):
    """A weight is kept where 16 drawn bits are below ``threshold``; ``inverse``: 1 / (1 - dropout)."""

    seed: Tensor
    threshold: int
    inverse: float


class Call(NamedTuple):
    """One call of attention."""

    q: Strided
    k: Strided
    v: Strided
    masks: Masks
    scores: Scores
    bias: Strided
    sinks: Tensor | None
    dropout: Dropout | None
    heads: int
    group: int
    row_count: int
    key_count: int


def strided(tensor: Tensor) -> Strided:
    """A tensor of four dimensions with its strides, 0 where it is one element long."""
    batch, head, row, column = (
        0 if size == 1 else stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return Strided(tensor, batch, head, row, column, 1 if _TILE * max(row, column) >= 2**31 else None)


def call_of(call: Attention, empty: Tensor | None) -> Call:
    """The arguments of all kernels."""
    sizes = call.sizes
    left, right = (None if side == OPEN else min(side, _FAR) for side in (call.band.left, call.band.right))
    documents = call.q_documents, call.k_documents
    masks = Masks(
        left, right, call.band.offset, *(None if t is None else _vectors(t) for t in (call.keys, *documents, empty))
    )
    bias = ABSENT if call.bias is None else strided(call.bias)
    dropout = None
    if call.dropout and call.seed is not None:
        dropout = Dropout(call.seed, round((1 - call.dropout) * _DRAWS), 1 / (1 - call.dropout))
    operands = (strided(call.q), strided(call.k), strided(call.v))
    scores = Scores(call.scale, call.softcap or None)
    return Call(*operands, masks, scores, bias, call.sinks, dropout, sizes.heads, sizes.group, sizes.rows, sizes.keys)


def is_describable(*tensors: Tensor) -> bool:
    """Whether the tensor memory accelerator reads tiles of heads of these: columns side by side, as many as a tile has, rows that
    do not overlap and start at multiples of 16 bytes (CUDA C++ Programming Guide, cuTensorMapEncodeTiled)."""
    return all(_is_describable(tensor) for tensor in tensors)


def _is_describable(tensor: Tensor) -> bool:
    width, itemsize = tensor.shape[3], tensor.dtype.itemsize
    _, batch, head, row, column, _ = strided(tensor)
    aligned = all(place % _ALIGNED == 0 for place in (tensor.data_ptr(), *(at * itemsize for at in (batch, head, row))))
    parts = parts_of(width)
    return width == parts.span and not parts.rest and column == 1 and row >= width and aligned


def has_masks(call: Attention) -> bool:
    """Whether somebody may not attend to something."""
    return not call.band.is_open or call.keys is not None or call.q_documents is not None


def may_be_empty(call: Attention) -> bool:
    """Whether a row of this call may attend to everything because it may attend to nothing; decided without reading data."""
    if not call.spreads_evenly or call.uniform == NOTHING:
        return False
    return call.keys is not None or call.q_documents is not None or leaves_rows_empty(call.band, call.sizes)


def leaves_rows_empty(band: Band, sizes: Sizes) -> bool:
    """Whether the band alone leaves a row nothing. Its ends rise with the row: the first and the last tell."""
    first_ends = band.right != OPEN and band.offset + band.right < 0
    return first_ends or (band.left != OPEN and sizes.rows - 1 + band.offset - band.left >= sizes.keys)


def _vectors(tensor: Tensor) -> Vectors:
    return Vectors(tensor, tensor.stride(0), tensor.stride(1))


def short(dtype: torch.dtype) -> str:
    """As variants and tables name a type."""
    return {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[dtype]
