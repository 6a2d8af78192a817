"""Every plan of a small graph that could be worth anything: what the planner and its bounds are held against.

A plan here computes each forward operation at most once in forward, in the traced order, and any number of times in backward, and
each *late* one (of the backward phase) once, in any order that the inputs allow. Of these nothing is left out but what cannot help:
computing what nobody reads before it is computed once more, computing in forward what neither its outputs nor saved values are made
from, and saving a plain view instead of what it looks at, which is as large.

Found by shortest paths. A state is what may still be read, with the blocks behind it; a step computes one operation and drops what
is not read again. What is saved is chosen first, for it decides who has a buffer and what forward computes. Ways are continued in
the order of their time (`graphckpt.solve.frontier.Ranker`'s, without its constant), and only where they peak lower than every
faster way to the same state. A value is dropped at one of its reads or kept, which is a guess of the last one: some path of a plan
has the frees of the reference timeline (`graphckpt.ir.peak`), and none peaks below it.

Not modelled: effects that must keep their order, and wishes of users (tags).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations, count
from typing import NamedTuple

from graphckpt.ir.graph import Graph, OpKind, Phase, Storage
from graphckpt.ir.peak import timeline
from graphckpt.ir.plan import Plan
from graphckpt.solve.segments import base_of, is_element

# For each value its blocks, a bit each.
_Live = dict[int, int]


class Found(NamedTuple):
    """A plan, its peak, and its time beyond what every plan takes."""

    peak_bytes: int
    extra_us: float
    plan: Plan


@dataclass(frozen=True)
class Question:
    """What to plan. ``late``: the operations of the backward phase to compute; ``held``: outputs of forward that stay in memory;
    buffers and times by operation, as `Ranker` takes them."""

    graph: Graph
    late: tuple[int, ...]
    held: tuple[int, ...]
    materialised: Sequence[bool]
    again_us: Sequence[float]
    write_us: Sequence[float]

    def sets_to_save(self) -> Iterator[frozenset[int]]:
        """All sets of what backward could read."""
        reads = chain.from_iterable(self.graph.ops[index].inputs for index in self.late)
        values = [*filter(self._is_saved_itself, made_in_forward(self.graph, [*reads, *self.graph.backward_outputs]))]
        for size in range(len(values) + 1):
            yield from map(frozenset, combinations(values, size))

    def _is_saved_itself(self, value: int) -> bool:
        """Not those views that hold just what they look at and can be made from it at any time."""
        op = self.graph.ops[value]
        if op.kind is OpKind.COMPUTE:
            return True
        is_plain = len({*op.inputs}) == 1 and {*op.storages} >= {*self.graph.ops[op.inputs[0]].storages}
        return bool(op.pinned) or is_element(self.graph, value) or not is_plain


class _State(NamedTuple):
    """In the middle of backward. ``live``: what may still be read, ascending; ``made``: what was computed in backward first."""

    live: tuple[tuple[int, int], ...]
    made: frozenset[int]


def fastest_plans(question: Question) -> tuple[Found, ...]:
    """The exact front: from fastest to smallest, each plan smaller than every faster one."""
    front: list[Found] = []
    # Numbers keep searches and states from being compared.
    number = count()
    heap: list[tuple[float, int, int, _Search, _State, tuple[int, ...]]] = []
    for search in (_Search(question, saved) for saved in question.sets_to_save()):
        heapq.heappush(heap, (search.write_us, search.forward_peak_bytes(), next(number), search, search.start(), ()))
    lowest: dict[tuple[frozenset[int], _State], int] = {}
    while heap:
        extra_us, peak_bytes, _, search, state, steps = heapq.heappop(heap)
        key = (search.saved, state)
        if peak_bytes >= lowest.get(key, peak_bytes + 1) or (front and peak_bytes >= front[-1].peak_bytes):
            continue
        lowest[key] = peak_bytes
        if search.is_complete(state):
            front.append(Found(peak_bytes, extra_us, Plan("exact", search.forward, steps)))
            continue
        for index, step_us, step_bytes, after in search.steps_from(state):
            entry = (extra_us + step_us, max(peak_bytes, step_bytes), next(number), search, after, (*steps, index))
            heapq.heappush(heap, entry)
    return tuple(front)


def made_in_forward(graph: Graph, values: Iterable[int]) -> list[int]:
    """The forward operations among these and all that they are made from, ascending."""
    found: set[int] = set()
    todo = [*values]
    while todo:
        value = todo.pop()
        if value not in found:
            found.add(value)
            todo.extend(graph.ops[value].inputs)
    return [i for i in sorted(found) if graph.ops[i].phase is Phase.FORWARD and graph.ops[i].kind is not OpKind.INPUT]


class _Search:
    """The plans that save one set of values."""

    def __init__(self, question: Question, saved: frozenset[int]) -> None:
        self.question, self.saved, self.graph, self.ops = question, saved, question.graph, question.graph.ops
        base = base_of(self.graph)
        bases = frozenset(base[value] for value in saved)
        self.write_us = sum(question.write_us[value] for value in bases)
        self.real = [entry or index in bases for index, entry in enumerate(question.materialised)]
        self.early = [op.phase is Phase.FORWARD and op.kind is not OpKind.INPUT for op in self.ops]
        self.forward = tuple(made_in_forward(self.graph, [*self.graph.forward_outputs, *saved]))
        self.virtual = [False] * len(self.ops)
        for index, op in enumerate(self.ops):
            folded = op.kind is OpKind.COMPUTE and not self.real[index]
            looks = op.kind is OpKind.ALIAS and any(self.virtual[s] and self.shares(index, s) for s in op.inputs)
            self.virtual[index] = folded or looks
        self.outputs = frozenset(i for i in self.graph.backward_outputs if self.ops[i].kind is not OpKind.INPUT)
        # For each value the late operations that read it or what is made from it in forward, and such values that are outputs.
        self.reach = [frozenset({i} & self.outputs if self.early[i] else ()) for i in range(len(self.ops))]
        for index in range(len(self.ops) - 1, -1, -1):
            for source in self.ops[index].inputs:
                self.reach[source] |= self.reach[index] if self.early[index] else {index} & {*question.late}
        self.sizes: dict[int, int] = {}
        self.wanted_after: dict[frozenset[int], frozenset[int]] = {}
        self.held_blocks = 0
        self.computed: _Live = {}
        for index in self.forward:
            self.computed[index] = self.blocks_of(index, self.computed)
        self.held_blocks = _union(self.computed.get(index, 0) for index in question.held)

    def forward_peak_bytes(self) -> int:
        """The reference timeline's, with what is saved held to the end."""
        kept = replace(self.graph, forward_outputs=(*self.question.held, *self.saved), backward_outputs=())
        return timeline(kept, Plan("forward", self.forward, ()), self.real).peak_bytes

    def start(self) -> _State:
        """Behind forward; tangents are there."""
        tangents = {i: self.fresh_blocks(i, {}) for i, op in enumerate(self.ops) if op.kind is OpKind.TANGENT}
        live = {value: self.computed[value] for value in self.saved} | tangents
        return _State(tuple(sorted(live.items())), frozenset())

    def is_complete(self, state: _State) -> bool:
        """Whether all is computed, and nothing is left that was kept in vain."""
        return {value for value, _ in state.live} == self.outputs and state.made.issuperset(self.question.late)

    def steps_from(self, state: _State) -> Iterator[tuple[int, float, int, _State]]:
        """Every operation that could come next, with its time and live bytes, and every choice of what to drop behind it."""
        live = dict(state.live)
        for index in self.may_come(state.made):
            op = self.ops[index]
            if index in live or not all(s in live or self.ops[s].kind is OpKind.INPUT for s in op.inputs):
                continue
            is_again = index in self.forward or index in state.made
            step_us = self.question.again_us[index] if is_again and op.kind is OpKind.COMPUTE else 0.0
            made = state.made if is_again else state.made | {index}
            new = self.blocks_of(index, live)
            read = frozenset(source for source in op.inputs if source in live)
            for dropped in self.drops(frozenset((*live, index)), read, made):
                after = {value: blocks for value, blocks in (live | {index: new}).items() if value not in dropped}
                yield index, step_us, self.step_bytes(index, live, new, after), _State(tuple(sorted(after.items())), made)

    def may_come(self, made: frozenset[int]) -> Iterator[int]:
        """Late operations that are missing, and forward values that are wanted and may be computed here."""
        yield from (index for index in self.question.late if index not in made)
        yield from (value for value in sorted(self.wanted(made)) if self.may_be_made(value, made))

    def may_be_made(self, value: int, made: frozenset[int]) -> bool:
        """Whether backward may compute a forward value, once more if need be."""
        return self.early[value] and (not self.ops[value].pinned or (value not in self.forward and value not in made))

    def wanted(self, made: frozenset[int]) -> frozenset[int]:
        """What leaves backward, or could be made something that does, or a late operation that is missing."""
        if made not in self.wanted_after:
            missing = (any(self.early[i] or i not in made for i in reach) for reach in self.reach)
            self.wanted_after[made] = self.outputs.union(value for value, is_read in enumerate(missing) if is_read)
        return self.wanted_after[made]

    def drops(self, live: frozenset[int], read: frozenset[int], made: frozenset[int]) -> Iterator[frozenset[int]]:
        """The choices behind a step: what is not wanted goes; forward values that were read may go too, and come again."""
        gone = live - self.wanted(made)
        if any(self.early[value] and value not in read for value in gone):
            return  # Kept, or even saved, in vain: another way is without it.
        free = [value for value in sorted(read - gone) if self.early[value]]
        for size in range(len(free) + 1):
            yield from (gone.union(chosen) for chosen in combinations(free, size))

    def step_bytes(self, index: int, before: _Live, new: int, after: _Live) -> int:
        """Live bytes of a step, which may write over one block of its size that is read for the last time and not shared."""
        op, held = self.ops[index], self.held_blocks
        live_bytes = self.size(_union(before.values()) | new | held) + op.workspace_bytes
        if op.kind is OpKind.ALIAS or not self.real[index] or not op.fusible or len(op.storages) != 1 or not new:
            return live_bytes
        freed = _union(before.get(source, 0) for source in op.inputs) & ~_union(after.values()) & ~held
        old = (block for block in _bits(freed) if not self.storage_of(block).shared)
        return live_bytes - (self.size(new) if self.size(new) in map(self.size, old) else 0)

    def size(self, blocks: int) -> int:
        """Bytes of these blocks."""
        if blocks not in self.sizes:
            self.sizes[blocks] = sum(self.storage_of(block).size_bytes for block in _bits(blocks))
        return self.sizes[blocks]

    def storage_of(self, block: int) -> Storage:
        """What a block is an allocation of."""
        return self.graph.storages[(block.bit_length() - 1) // len(self.ops)]

    def fresh_blocks(self, index: int, live: _Live) -> int:
        """What computing it allocates: of each storage the first copy that is not live. There are no more than live values."""
        taken, copies = _union(live.values()) | self.held_blocks, len(self.ops)
        own = (s for s in self.ops[index].storages if not self.graph.storages[s].external)
        return _union(next(1 << k for k in range(s * copies, (s + 1) * copies) if not taken >> k & 1) for s in own)

    def blocks_of(self, index: int, live: _Live) -> int:
        """What its value refers to: rules 2, 4 and 5 of the timeline."""
        op = self.ops[index]
        if op.kind is OpKind.COMPUTE and self.real[index]:
            return self.fresh_blocks(index, live)
        sources = {source: live.get(source, 0) for source in op.inputs}
        if op.kind is OpKind.COMPUTE:
            return _union(sources.values())
        copies = len(self.ops)
        places = _union(((1 << copies) - 1) << s * copies for s in op.storages)
        looks = (blocks for s, blocks in sources.items() if self.virtual[s] and self.shares(index, s))
        return _union(looks) | _union(blocks & places for s, blocks in sources.items() if not self.virtual[s])

    def shares(self, one: int, other: int) -> bool:
        """Whether two values live in one storage."""
        return not {*self.ops[one].storages}.isdisjoint(self.ops[other].storages)


def _union(blocks: Iterable[int]) -> int:
    union = 0
    for block in blocks:
        union |= block
    return union


def _bits(blocks: int) -> Iterator[int]:
    while blocks:
        yield blocks & -blocks
        blocks &= blocks - 1
