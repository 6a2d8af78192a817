"""Writes a legal schedule from steps of which some may be missing and others in vain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from graphckpt.solve.remat.instance import Instance
from graphckpt.solve.remat.search import Order


class ScheduleWriter:
    """A schedule as it grows. What a step reads that is not there is computed just before it; in a fixed ``order``, in which an
    instance must be, so is all that comes before what is computed first."""

    def __init__(self, instance: Instance, order: Order) -> None:
        self._instance, self._order = instance, order
        self._steps: list[int] = []
        self._there: set[int] = set()
        self._met: set[int] = set()
        self._marks: list[int] = []

    def put(self, nodes: Iterable[int]) -> None:
        """Compute these, one after another; what may be computed only once is not computed again."""
        for node in nodes:
            if self._order is Order.FIXED:
                for before in range(len(self._met), node):
                    self._compute(before)
            if node not in self._met or node not in self._instance.once:
                self._compute(node)

    def drop(self, nodes: Iterable[int]) -> None:
        """These are no longer there for what comes, but what may be computed only once is."""
        self._there.difference_update(set(nodes) - self._instance.once)

    def mark(self) -> None:
        """What comes next begins a part."""
        self._marks.append(len(self._steps))

    def schedule(self) -> tuple[int, ...]:
        """The schedule, with what was never computed at its end, and without copies that nobody reads."""
        return self.parts()[0]

    def parts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The schedule, and the step of it that each marked part begins with."""
        for node in self._instance.topological_order:
            if node not in self._met:
                self._compute(node)
        wanted = _wanted(self._instance, self._steps, self._order)
        schedule = tuple(node for node, is_wanted in zip(self._steps, wanted, strict=True) if is_wanted)
        before = (0, *accumulate(wanted))
        return schedule, tuple(before[mark] for mark in self._marks)

    def _compute(self, wanted: int) -> None:
        stack = [wanted]
        while stack:
            missing = [source for source in self._instance.inputs[stack[-1]] if source not in self._there]
            stack.extend(missing)
            if missing:
                continue
            node = stack.pop()
            # What two read that are missing is asked for twice.
            if node not in self._there or not stack:
                self._steps.append(node)
                self._there.add(node)
                self._met.add(node)


def _wanted(instance: Instance, schedule: Sequence[int], order: Order) -> list[bool]:
    """Which copies are read; of what has no reader the last copy is wanted, in a fixed order the first one of each."""
    wanted: set[int] = {node for node in range(instance.count) if not instance.readers[node]}
    first = {node: step for step, node in reversed(list(enumerate(schedule)))} if order is Order.FIXED else {}
    is_wanted = [False] * len(schedule)
    for step, node in reversed(list(enumerate(schedule))):
        if node in wanted or first.get(node) == step:
            is_wanted[step] = True
            wanted.discard(node)
            wanted.update(instance.inputs[node])
    return is_wanted
