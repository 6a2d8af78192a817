"""What a tensor holds, whatever kind of tensor it is: copies that keep strides, and checksums.

A wrapper subclass holds what its inner tensors hold (``__tensor_flatten__``), a sparse tensor its indices and values. A lazily
conjugated or negated view is what it stands for.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from graphckpt.compat.fake import extent


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """A leaf of the same contents that requires a gradient if ``tensor`` does; a dense one has the same strides.

    Not guaranteed: that a lazily conjugated or negated view comes out lazy.
    """
    given = tensor.detach()
    if is_traceable_wrapper_subclass(given) or given.layout is not torch.strided:
        return given.clone().requires_grad_(tensor.requires_grad)
    # The whole stretch of memory, with what lies between the elements: a clone may be laid out anew.
    stretch = given.as_strided((extent(given.shape, given.stride()),), (1,)).clone()
    return stretch.as_strided(given.shape, given.stride(), 0).requires_grad_(tensor.requires_grad)


def checksum(tensor: torch.Tensor) -> int:
    """A number that differs, but for a chance of 1 in 2^32, where the contents do. Reads all of them."""
    total = 0
    for part in _dense_parts(tensor.detach()):
        data = part.resolve_conj().resolve_neg().cpu().contiguous().flatten()
        total = zlib.crc32(data.view(torch.uint8).numpy().data, total) if data.numel() else total
    return total


def _dense_parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from _dense_parts(getattr(tensor, name))
    elif tensor.layout is torch.sparse_coo:
        yield from (tensor._indices(), tensor._values())
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        yield from (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        yield from (tensor.ccol_indices(), tensor.row_indices(), tensor.values())
    else:
        yield tensor
