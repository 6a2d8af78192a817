"""The ledger of the process: what is allocated on a device when a graph is compiled, and what is still to come.

On CUDA the allocator knows. Elsewhere every tensor that Python can reach is counted, each storage once.

Optimizer state is reserved parameter by parameter: one that a live optimizer has state for is paid for already, in what is live.

Not guaranteed on the CPU: tensors that only C++ holds (autograd's saved tensors of an eager region) are not seen.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from graphckpt.compat.aot import is_fake
from graphckpt.compat.fake import storage_on

_MARGIN_SHARE = 0.05
_MOMENTS = {"adam": 2, "sgd": 0}


@dataclass(frozen=True, slots=True)
class Ledger:
    """Bytes on one device: ``live_bytes`` of tensors, ``trainable_bytes`` of parameters that get gradients, ``total_bytes`` of the
    device, ``free_bytes`` less a margin, and ``stateless_bytes`` of those trainable parameters that no optimizer has state for."""

    live_bytes: int
    trainable_bytes: int
    total_bytes: int
    free_bytes: int
    stateless_bytes: int

    def optimizer_reserve_bytes(self, optimizer: Literal["adam", "sgd"] | int) -> int:
        """Bytes to set aside for optimizer state that does not exist yet: two moments for Adam, none for SGD. Bytes as told are
        for all trainable parameters: of them the share of those without state, or all where none is seen."""
        if isinstance(optimizer, int):
            # Rounded up: a budget is a promise.
            return -(-optimizer * self.stateless_bytes // self.trainable_bytes) if self.trainable_bytes else optimizer
        return _MOMENTS[optimizer] * self.stateless_bytes


def take_ledger(device: torch.device) -> Ledger:
    """Count what is on ``device`` now."""
    live: dict[int, int] = {}
    trainable: dict[int, int] = {}
    with_state: set[int] = set()
    # Cycles that wait for the collector would make the count depend on when it last ran.
    gc.collect()
    for thing in _reachable():
        if isinstance(thing, torch.optim.Optimizer):
            with_state.update(_addresses_with_state(thing, device))
        elif (storage := storage_on(thing, device)) is not None:
            address, size_bytes = storage
            live[address] = size_bytes
            if isinstance(thing, torch.nn.Parameter) and thing.requires_grad:
                trainable[address] = size_bytes
    stateless_bytes = sum(size_bytes for address, size_bytes in trainable.items() if address not in with_state)
    live_bytes = sum(live.values())
    if device.type == "cuda":
        free_bytes, total_bytes = torch.cuda.mem_get_info(device)
        cached_bytes = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        live_bytes, free_bytes = torch.cuda.memory_allocated(device), free_bytes + cached_bytes
    else:
        page_bytes = os.sysconf("SC_PAGE_SIZE")
        total_bytes, free_bytes = (os.sysconf(name) * page_bytes for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    margin_bytes = int(total_bytes * _MARGIN_SHARE)
    trainable_bytes = sum(trainable.values())
    return Ledger(live_bytes, trainable_bytes, total_bytes, max(0, free_bytes - margin_bytes), stateless_bytes)


def _addresses_with_state(optimizer: torch.optim.Optimizer, device: torch.device) -> Iterator[int]:
    """Storages of the parameters that an optimizer keeps something for; an optimizer that failed to be made has no ``state``."""
    for parameter, state in getattr(optimizer, "state", {}).items():
        # Looking a parameter up leaves an empty dictionary behind.
        kept = bool(state) if isinstance(state, dict) else state is not None
        if kept and isinstance(parameter, torch.Tensor) and (storage := storage_on(parameter, device)) is not None:
            yield storage[0]


def _reachable() -> Iterator[torch.Tensor | torch.optim.Optimizer]:
    """Real tensors and optimizers that Python can reach. Types are asked, not instances: proxies may answer for anything."""
    for thing in gc.get_objects():
        kind = type(thing)
        if issubclass(kind, torch.optim.Optimizer) or (issubclass(kind, torch.Tensor) and not is_fake(thing)):
            yield thing
