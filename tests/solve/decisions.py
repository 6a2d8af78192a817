"""Every way to save forward values or to compute them again, one by one: what `graphckpt.solve.saving` is held against.

How a way is counted, from its meaning and not from any cut. Backward needs the forward values that its operations read and those
that leave it. For each needed value, last one first, there are two ways to have it:

    save it           costs its write; if stock's forward does not compute it, also its computation; weighs its own storages
    compute it again  costs its computation; then its inputs are needed too, unless they are inputs of the graph

A computation that may run only once, or that the user wants saved, is saved where stock's forward computes it, and else left to
backward. Saved, it costs and weighs nothing, as does what the caller saves anyway, and each element of either. A view, a tuple
whose elements are picked, and what the user wants recomputed are not saved; an element is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from graphckpt.ir.graph import Graph, Op, OpKind, Phase, Storage
from graphckpt.ir.plan import Plan
from graphckpt.solve.saving import SavingProblem, state_saving
from tests.graphs import random_graph, random_plan

ELEMENT = "<built-in function getitem>"
# Times in microseconds; with these and whole megabytes every sum is exact, and any two that differ do so by more than rounding.
_TIME_STEP_US = 16.0
_STORAGE_SCALE = 1_000_000


class Way(NamedTuple):
    """The values saved, what they weigh, and the time spent."""

    saved: frozenset[int]
    saved_bytes: int
    time_us: float


class SavingCase(NamedTuple):
    """All that a saving problem is stated from."""

    graph: Graph
    stock: Plan
    always_saved: frozenset[int]
    again_us: tuple[float, ...]
    write_us: tuple[float, ...]

    def problem(self) -> SavingProblem:
        """The problem under test."""
        return state_saving(*self)

    def ways(self) -> list[Way]:
        """Every way, some of them far from sensible."""
        late = [self.graph.ops[i].inputs for i in self.stock.backward if self.graph.ops[i].phase is Phase.BACKWARD]
        needed = {source for sources in (*late, self.graph.backward_outputs) for source in sources}
        return [
            Way(saved, sum(map(self.weight, saved)), time_us)
            for saved, time_us in self._ways(self._made(needed), frozenset(), 0.0)
        ]

    def weight(self, value: int) -> int:
        """Bytes of a saved value."""
        if self.is_free(value):
            return 0
        return sum(
            self.graph.storages[s].size_bytes
            for s in self.graph.ops[value].storages
            if not self.graph.storages[s].external
        )

    def runs_once(self, value: int) -> bool:
        """Whether a value is computed once."""
        op = self.graph.ops[value]
        return op.kind is OpKind.COMPUTE and (op.pinned != "" or op.tag == "save")

    def is_forced(self, value: int) -> bool:
        """Whether a value is saved whatever it costs: forward computes it, and nobody may again."""
        return self.runs_once(value) and value in self.stock.forward

    def is_free(self, value: int) -> bool:
        """Whether a value is there in any case, by itself or as one of the results of what is."""
        there = value in self.always_saved or self.is_forced(value)
        return there or (self.is_element(value) and self.is_free(self.graph.ops[value].inputs[0]))

    def may_be_saved(self, value: int) -> bool:
        """Whether a value may be saved at all."""
        op = self.graph.ops[value]
        if self.runs_once(value) or op.tag == "recompute":
            return self.is_forced(value)
        return self.is_element(value) or (op.kind is OpKind.COMPUTE and not self.is_picked_apart(value))

    def is_element(self, value: int) -> bool:
        """Whether a value is one of the results of a computation."""
        op = self.graph.ops[value]
        return op.target == ELEMENT and self.graph.ops[op.inputs[0]].kind is OpKind.COMPUTE

    def is_picked_apart(self, value: int) -> bool:
        """Whether a value is a tuple that elements are picked out of."""
        return any(self.is_element(reader) for reader in self.graph.readers()[value])

    def _ways(
        self, needed: frozenset[int], saved: frozenset[int], time_us: float
    ) -> Iterator[tuple[frozenset[int], float]]:
        if not needed:
            yield saved, time_us
            return
        value = max(needed)
        others = needed - {value}
        if self.may_be_saved(value):
            moved_us = 0.0 if value in self.stock.forward else self.again_us[value]
            written_us = 0.0 if self.is_free(value) else self.write_us[value]
            yield from self._ways(others, saved | {value}, time_us + written_us + moved_us)
        if not self.is_forced(value):
            inputs = self._made({*self.graph.ops[value].inputs})
            yield from self._ways(others | inputs, saved, time_us + self.again_us[value])

    def _made(self, values: set[int]) -> frozenset[int]:
        """Those that a forward operation makes."""
        made = (OpKind.COMPUTE, OpKind.ALIAS)
        return frozenset(
            v for v in values if self.graph.ops[v].phase is Phase.FORWARD and self.graph.ops[v].kind in made
        )


def random_saving(seed: int) -> SavingCase:
    """A small random graph with elements, wishes and pinned operations, a random legal plan for stock's, and random times."""
    rng = random.Random(seed)
    graph = random_graph(rng, rng.randint(16, 40))
    ops = tuple(_with_wishes(rng, graph, op) for op in graph.ops)
    storages = tuple(Storage(storage.size_bytes * _STORAGE_SCALE, storage.external) for storage in graph.storages)
    graph = replace(graph, ops=ops, storages=storages)
    always_saved = frozenset(index for index in range(len(ops)) if rng.random() < 0.05)
    again_us = tuple(_TIME_STEP_US * rng.choice([0, 1, 2, 5]) if op.kind is OpKind.COMPUTE else 0.0 for op in ops)
    write_us = tuple(_TIME_STEP_US * rng.choice([0, 0, 1, 3]) if op.kind is OpKind.COMPUTE else 0.0 for op in ops)
    return SavingCase(graph, random_plan(rng, graph), always_saved, again_us, write_us)


def _with_wishes(rng: random.Random, graph: Graph, op: Op) -> Op:
    if op.kind is OpKind.ALIAS and len(set(op.inputs)) == 1 and rng.random() < 0.7:
        op = replace(op, target=ELEMENT, inputs=op.inputs[:1])
    wish = rng.choice(["", "", "", "", "save", "recompute"]) if op.kind is OpKind.COMPUTE else ""
    return replace(op, tag=wish)
