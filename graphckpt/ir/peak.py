"""The reference timeline: how many bytes are live at each step of a plan. ``csrc/peak.cpp`` computes the same, faster.

A `Graph`, a `Plan` that `graphckpt.ir.check.check_plan` accepts, and optionally which operations are materialised enter; a
`Timeline` leaves. A *step* computes one operation; a *block* is one allocation of one storage. The rules:

 1. A step reads the latest computation of each of its inputs. Inputs of the graph are always there, external storages never
    have blocks: neither is charged.
 2. Computing a COMPUTE operation allocates a fresh block for each of its storages; its value refers to these blocks.
 3. The storages of TANGENT operations are allocated right before the first backward step, one block a storage.
 4. Computing an ALIAS allocates nothing: its value refers to those blocks of its inputs' latest values that are allocations of
    the storages of the alias.
 5. Computing a *virtual* operation (COMPUTE, fusible, not materialised) allocates nothing: its value refers to all blocks that
    its inputs' latest values refer to at that moment, for it is computed inside the kernel that reads it. An alias of a virtual
    value (they share a storage) refers to all blocks of that value and is virtual itself.
 6. A block is freed after the last step that reads a value referring to it; one that nobody reads, after the step that
    allocated it (a tangent: after the first backward step). What the latest forward value of each forward output refers to when
    the forward pass ends, and the latest value of each backward output when the backward pass ends, is never freed.
 7. Takeover: if a fusible materialised operation has exactly one storage, not external, and its step is the last to read a block
    of exactly that size, the kernel writes over that block: the old one is freed as the new one is allocated, and the live bytes
    do not rise. At most one block a step, the first in the order of the inputs. Not what is shared: a block of a shared storage
    that a tangent or the forward pass allocated; one that backward computes again is nobody else's.
 8. The live bytes of a step are those after its allocations and before its frees, and the workspace of its operation.

Not modelled: fragmentation, and any reordering or buffer reuse of the inner compiler beyond rule 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from graphckpt.errors import PlanError
from graphckpt.ir.graph import Graph, Op, OpKind
from graphckpt.ir.plan import Plan


@dataclass(frozen=True, slots=True)
class Timeline:
    """Live bytes a step, forward then backward, and the top.

    ``peak_step``: the first step at the peak, -1 if there is no step; ``held_at_peak``: the operations that allocated the blocks
    (of more than 0 bytes) live there, ascending. The peak of a pass without steps is 0.
    """

    live_bytes: tuple[int, ...]
    peak_bytes: int
    peak_step: int
    forward_peak_bytes: int
    backward_peak_bytes: int
    held_at_peak: tuple[int, ...]


def timeline(graph: Graph, plan: Plan, materialised: Sequence[bool] | None = None) -> Timeline:
    """Walk the plan once; time grows with steps times fan-in.

    ``materialised``: one entry an operation, None for all True; False on aliases, inputs and tangents changes nothing. Raises
    `PlanError` if the plan lists what is not an operation to compute, or if an operation is virtual that may not be. That every
    input is computed before its reader is not checked: a value never computed refers to no block.
    """
    _check_arguments(graph, plan, materialised)
    walk = _Walk(graph, plan, materialised)
    walk.run()
    return walk.result()


@dataclass(slots=True, eq=False)
class _Block:
    size_bytes: int
    storage: int
    owner: int
    first_step: int
    last_step: int


@dataclass(frozen=True, slots=True)
class _Value:
    blocks: tuple[_Block, ...]
    virtual: bool


@dataclass(frozen=True, slots=True)
class _Writer:
    """A fusible operation's only block, and the blocks its step read."""

    block: _Block
    read: tuple[_Block, ...]


_NOTHING = _Value((), False)


class _Walk:
    """The state of one walk over one plan."""

    def __init__(self, graph: Graph, plan: Plan, materialised: Sequence[bool] | None) -> None:
        self.graph = graph
        self.steps = plan.forward + plan.backward
        self.forward_count = len(plan.forward)
        self.materialised = materialised
        self.latest = [_NOTHING] * len(graph.ops)
        self.blocks: list[_Block] = []
        self.writers: list[_Writer] = []

    def run(self) -> None:
        """Place every block in time."""
        for step, index in enumerate(self.steps):
            if step == self.forward_count:
                self._hold(self.graph.forward_outputs)
                self._allocate_tangents(step)
            self._compute(step, index)
        if self.forward_count == len(self.steps):
            self._hold(self.graph.forward_outputs)
        self._hold(self.graph.backward_outputs)
        for writer in self.writers:
            self._take_over(writer)

    def result(self) -> Timeline:
        """Sum up the blocks."""
        change = [0] * (len(self.steps) + 1)
        for block in self.blocks:
            change[block.first_step] += block.size_bytes
            change[min(block.last_step + 1, len(self.steps))] -= block.size_bytes
        kept = accumulate(change[:-1])
        live = tuple(now + self.graph.ops[index].workspace_bytes for now, index in zip(kept, self.steps, strict=True))
        peak_bytes = max(live, default=0)
        peak_step = live.index(peak_bytes) if live else -1
        held = {
            block.owner
            for block in self.blocks
            if block.first_step <= peak_step <= block.last_step and block.size_bytes > 0
        }
        return Timeline(
            live_bytes=live,
            peak_bytes=peak_bytes,
            peak_step=peak_step,
            forward_peak_bytes=max(live[: self.forward_count], default=0),
            backward_peak_bytes=max(live[self.forward_count :], default=0),
            held_at_peak=tuple(sorted(held)),
        )

    def _compute(self, step: int, index: int) -> None:
        op = self.graph.ops[index]
        read = tuple(dict.fromkeys(block for source in op.inputs for block in self.latest[source].blocks))
        for block in read:
            block.last_step = max(block.last_step, step)
        if op.kind is OpKind.ALIAS:
            self.latest[index] = self._alias(op)
        elif self.materialised is None or self.materialised[index]:
            blocks = self._allocate(step, index)
            if op.fusible and len(op.storages) == 1 and blocks:
                self.writers.append(_Writer(blocks[0], read))
            self.latest[index] = _Value(blocks, False)
        else:
            self.latest[index] = _Value(read, True)

    def _alias(self, op: Op) -> _Value:
        blocks: dict[_Block, None] = {}
        virtual = False
        for source in op.inputs:
            value = self.latest[source]
            if not value.virtual:
                blocks.update((block, None) for block in value.blocks if block.storage in op.storages)
            elif not set(op.storages).isdisjoint(self.graph.ops[source].storages):
                blocks.update(dict.fromkeys(value.blocks))
                virtual = True
        return _Value(tuple(blocks), virtual)

    def _allocate(self, step: int, index: int) -> tuple[_Block, ...]:
        storages = self.graph.storages
        blocks = tuple(
            _Block(storages[s].size_bytes, s, index, step, step)
            for s in self.graph.ops[index].storages
            if not storages[s].external
        )
        self.blocks.extend(blocks)
        return blocks

    def _allocate_tangents(self, step: int) -> None:
        shared: dict[int, _Block] = {}
        for index, op in enumerate(self.graph.ops):
            if op.kind is not OpKind.TANGENT:
                continue
            for storage in op.storages:
                if storage not in shared and not self.graph.storages[storage].external:
                    shared[storage] = _Block(self.graph.storages[storage].size_bytes, storage, index, step, step)
            self.latest[index] = _Value(tuple(shared[s] for s in op.storages if s in shared), False)
        self.blocks.extend(shared.values())

    def _hold(self, outputs: tuple[int, ...]) -> None:
        for index in outputs:
            for block in self.latest[index].blocks:
                block.last_step = len(self.steps)

    def _is_shared(self, block: _Block) -> bool:
        made_again = block.first_step >= self.forward_count and self.graph.ops[block.owner].kind is not OpKind.TANGENT
        return self.graph.storages[block.storage].shared and not made_again

    def _take_over(self, writer: _Writer) -> None:
        for block in writer.read:
            is_free = block.last_step == writer.block.first_step and not self._is_shared(block)
            if is_free and block.size_bytes == writer.block.size_bytes:
                block.last_step -= 1
                return


def _check_arguments(graph: Graph, plan: Plan, materialised: Sequence[bool] | None) -> None:
    for index in (*plan.forward, *plan.backward):
        if not 0 <= index < len(graph.ops):
            raise PlanError(f"plan {plan.name!r}: wanted operations 0 to {len(graph.ops) - 1}, came {index}")
        op = graph.ops[index]
        if op.kind in (OpKind.INPUT, OpKind.TANGENT):
            raise PlanError(
                f"plan {plan.name!r} lists {op.name!r} (%{index}), but what is {op.kind.value} is never computed"
            )
    if materialised is None:
        return
    if len(materialised) != len(graph.ops):
        raise PlanError(f"materialised: wanted {len(graph.ops)} entries, one an operation, came {len(materialised)}")
    for index, op in enumerate(graph.ops):
        if op.kind is OpKind.COMPUTE and not op.fusible and not materialised[index]:
            raise PlanError(f"{op.name!r} (%{index}) is not fusible, so it must be materialised")
