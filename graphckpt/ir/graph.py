"""The joint forward/backward graph, free of torch: operations over storages, in bytes.

What enters: records built by ``graphckpt.trace.lower``. What leaves: an immutable `Graph` that every floor above reads.

An *operation* computes one value (a tensor or a tuple of tensors). A value lives in one or more *storages*. An operation of
kind `ALIAS` (a view, a ``getitem``) allocates nothing and lives where its inputs live. Operations are numbered in a topological
order, so ``op.inputs`` always names smaller numbers.

Not guaranteed: ``flops`` counts matrix products and convolutions only; pointwise work is priced by its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class OpKind(Enum):
    """How a value comes to exist."""

    INPUT = "input"  # there before the step: parameters, buffers, the batch
    TANGENT = "tangent"  # made by autograd when the backward pass starts
    COMPUTE = "compute"  # allocates its results
    ALIAS = "alias"  # a view: no bytes, no kernel


class Phase(Enum):
    """The earliest phase an operation can run in: `BACKWARD` if it depends on a tangent, or is an effect tied to backward."""

    FORWARD = "forward"
    BACKWARD = "backward"


# Reasons of `Op.pinned` for which an operation must run even if nobody reads its value; of the others (random numbers, ties) only
# the value counts.
_EFFECTS = (
    "mutates its argument",
    "collective",
    "higher-order operator",
    "effects unknown",
    "runs only in forward",
    "runs only in backward",
)


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of device memory. ``external`` storages exist before the step and are never charged to it. What is ``shared`` may
    be somebody else's as well, so no kernel writes over it: tangents, and what forward returns."""

    size_bytes: int
    external: bool
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an operation comes from, for people: module path, source line, shape and dtype of its first result."""

    module: str
    source: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of the joint graph.

    ``storages``: where its value lives (indices into `Graph.storages`); ``pinned``: empty if the operation may be computed
    again, otherwise the reason why it must run exactly once; ``fusible``: a pointwise operation or reduction that the compiler
    may fold into the kernel of its reader; ``tag``: the user's wish from ``torch.utils.checkpoint`` ("save", "recompute" or "");
    ``workspace_bytes``: what its kernel holds beside its results while it runs, where that is known.
    """

    name: str
    target: str
    kind: OpKind
    phase: Phase
    inputs: tuple[int, ...]
    storages: tuple[int, ...]
    flops: int
    pinned: str
    fusible: bool
    tag: str
    origin: Origin
    workspace_bytes: int = 0

    @property
    def has_effect(self) -> bool:
        """Whether the operation must run exactly once, whoever reads its value."""
        return self.pinned in _EFFECTS


@dataclass(frozen=True, slots=True)
class Graph:
    """The joint graph. ``forward_outputs``/``backward_outputs`` name the operations whose values leave each phase."""

    ops: tuple[Op, ...]
    storages: tuple[Storage, ...]
    forward_outputs: tuple[int, ...]
    backward_outputs: tuple[int, ...]

    def readers(self) -> tuple[tuple[int, ...], ...]:
        """For each operation the operations that read its value, ascending."""
        readers: list[list[int]] = [[] for _ in self.ops]
        for index, op in enumerate(self.ops):
            for source in dict.fromkeys(op.inputs):
                readers[source].append(index)
        return tuple(tuple(row) for row in readers)

    def own_bytes(self, index: int) -> int:
        """Bytes that computing this operation allocates: 0 for inputs and aliases, and for what is written to an input."""
        if self.ops[index].kind is not OpKind.COMPUTE:
            return 0
        held = (self.storages[s] for s in self.ops[index].storages)
        return sum(storage.size_bytes for storage in held if not storage.external)


def value_bytes(graph: Graph, indices: Sequence[int]) -> int:
    """Bytes of the distinct, not external storages that hold these values."""
    held = {s for index in indices for s in graph.ops[index].storages}
    return sum(graph.storages[s].size_bytes for s in held if not graph.storages[s].external)
