"""What a compiled pass does to memory: a straight line of allocations and drops, free of torch.

A `Program` is made by ``graphckpt.compat.wrapper`` from the wrapper that Inductor generates. `replay_step` plays a forward and a
backward program after one another, as autograd runs them, and gives the peak above what was allocated before the step.

Rules: external inputs (parameters, buffers, the batch) are held by the caller and never charged. User outputs that backward does
not read are dropped when forward returns, unless ``outputs_held``; those of at most 16 bytes, the loss, are always held. Tangents
are allocated before the first backward step; one of at most 16 bytes, which ``backward()`` made, is held until it returns. Saved
values are dropped where the backward program drops them, which holds for
``backward()`` without ``retain_graph``. When the backward program has returned, autograd hands its results on one by one, and
copies the gradients that are laid out otherwise than their parameters.

Not modelled: fragmentation, and what the framework allocates outside both programs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

_LOSS_BYTES = 16


@dataclass(frozen=True, slots=True)
class Event:
    """One change of live memory: ``block`` is allocated (``size_bytes`` > 0), or dropped (0); ``scratch_bytes`` is a peak inside a
    kernel, beside its results, that is gone when it returns (a workspace)."""

    block: int
    size_bytes: int
    scratch_bytes: int
    name: str


@dataclass(frozen=True, slots=True)
class Program:
    """``inputs``/``outputs``: (name, block) of each tensor argument and result; several names may share a block (views)."""

    inputs: tuple[tuple[str, int], ...]
    events: tuple[Event, ...]
    outputs: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class StepPeak:
    """Bytes above the start of the step: the two peaks, what crosses from forward to backward, and the tensors alive at the top."""

    forward_bytes: int
    backward_bytes: int
    saved_bytes: int
    holders: tuple[tuple[str, int], ...]

    @property
    def peak_bytes(self) -> int:
        """The larger of both passes."""
        return max(self.forward_bytes, self.backward_bytes)


@dataclass(slots=True)
class _Memory:
    """Running state of a replay: live blocks by owner key, and the highest moment so far."""

    live: dict[tuple[str, int], tuple[str, int]]
    now_bytes: int = 0
    top_bytes: int = 0
    at_top: tuple[tuple[str, int], ...] = ()

    def add(self, key: tuple[str, int], name: str, size_bytes: int) -> None:
        self.live[key] = (name, size_bytes)
        self.now_bytes += size_bytes
        self.mark(0, name)

    def drop(self, key: tuple[str, int]) -> None:
        _, size_bytes = self.live.pop(key, ("", 0))
        self.now_bytes -= size_bytes

    def mark(self, scratch_bytes: int, name: str) -> None:
        if self.now_bytes + scratch_bytes > self.top_bytes:
            self.top_bytes = self.now_bytes + scratch_bytes
            extra = ((f"workspace of {name}", scratch_bytes),) if scratch_bytes else ()
            self.at_top = (*self.live.values(), *extra)


def _play(
    memory: _Memory,
    program: Program,
    bound: Mapping[int, tuple[str, int]],
    owner: str,
    held: Collection[tuple[str, int]] = (),
) -> None:
    """Run one program. ``bound`` maps its input blocks to blocks that are live already; one bound twice goes with its last drop,
    one of ``held`` stays."""
    owners = Counter(bound.values())
    for event in program.events:
        key = bound.get(event.block, (owner, event.block))
        if event.scratch_bytes:
            memory.mark(event.scratch_bytes, event.name)
        elif event.size_bytes:
            memory.add(key, event.name, event.size_bytes)
        elif owners[key] > 1:
            owners[key] -= 1
        elif key not in held:
            memory.drop(key)


def replay_step(
    forward: Program,
    backward: Program,
    *,
    tangents: Mapping[str, int],
    saved_from: int,
    outputs_held: bool = False,
    copied: Collection[str] = (),
) -> StepPeak:
    """Peak of one step.

    ``tangents``: bytes of the backward program's tangent inputs by name. ``saved_from``: position in ``forward.outputs`` from
    which on the outputs are saved values; the ones before go to the caller. ``copied``: results of backward that autograd copies.
    """
    memory = _Memory(live={})
    _play(memory, forward, {}, "forward")
    forward_bytes, holders = memory.top_bytes, memory.at_top
    saved = {name: ("forward", block) for name, block in forward.outputs[saved_from:]}
    held = {("forward", block) for _, block in forward.outputs[:saved_from]} if outputs_held else set()
    if not outputs_held:
        for key in [key for key in memory.live if key not in saved.values() and memory.live[key][1] > _LOSS_BYTES]:
            memory.drop(key)
    saved_bytes = sum(memory.live[key][1] for key in set(saved.values()) if key in memory.live)
    memory.top_bytes = 0
    bound: dict[int, tuple[str, int]] = {}
    for name, block in backward.inputs:
        if name in tangents:
            bound[block] = ("tangent", block)
            memory.add(bound[block], name, tangents[name])
            if tangents[name] <= _LOSS_BYTES:
                held.add(bound[block])
        elif name in saved:
            bound[block] = saved[name]
    _play(memory, backward, bound, "backward", held)
    results = (bound.get(block, ("backward", block)) for name, block in backward.outputs if name in copied)
    copies = [memory.live[key][1] for key in results if key in memory.live]
    if copies:
        memory.mark(max(copies), "the copy of a gradient")
    if memory.top_bytes >= forward_bytes:
        holders = memory.at_top
    return StepPeak(forward_bytes, memory.top_bytes, saved_bytes, holders)
