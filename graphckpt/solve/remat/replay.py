"""The definition: what a schedule with repeats costs and takes. Plain Python, no engine; every answer is replayed by it.

A schedule ``s[0], s[1], ...`` of nodes is legal if every node is in it and every step finds its inputs computed before it. Step t
reads of each input the latest copy; a copy made at step t is kept up to the last step that reads it, and is dropped after step t
itself if none does. With ``keep[t]`` that last step:

    peak = max over t of the sum of size_bytes[s[q]] over the copies q with q <= t <= keep[q]        cost = sum of cost[s[t]]

Of `graphckpt.solve.remat.instance.Kernels` step t adds its scratch space to that sum, and takes its own size from it once where
it is a writer and keep[q] = t for a copy q of that size, made before t and not shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from graphckpt.errors import PlanError
from graphckpt.solve.remat.instance import Instance, Kernels


class Replay(NamedTuple):
    """A legal schedule's figures. ``computations``: how often each node is computed, at most. ``last_reads``: for each step the
    last one that reads the copy it makes; itself where none does."""

    cost: int
    peak_bytes: int
    live_bytes: tuple[int, ...]
    computations: int
    keeps_order: bool
    last_reads: tuple[int, ...]


def replay(instance: Instance, schedule: Sequence[int]) -> Replay:
    """Walk a schedule. ``keeps_order``: first computations are in the order 0, 1, 2, ...

    Raises:
        PlanError: a step is no node, an input is not there, a node is missing, or one that may not is computed again.
    """
    count = instance.count
    latest = [-1] * count
    computed = [0] * count
    first_order = []
    keep = list(range(len(schedule)))
    for step, node in enumerate(schedule):
        if not 0 <= node < count:
            raise PlanError(f"step {step}: wanted a node 0 to {count - 1}, came {node}")
        for source in instance.inputs[node]:
            if latest[source] < 0:
                raise PlanError(f"step {step}: node {node} reads node {source}, which was not computed before")
            keep[latest[source]] = step
        if not computed[node]:
            first_order.append(node)
        elif node in instance.once:
            raise PlanError(f"step {step}: node {node} may be computed once only, and is computed again")
        computed[node] += 1
        latest[node] = step
    if len(first_order) < count:
        raise PlanError(f"wanted every node, came none of node {next(v for v in range(count) if not computed[v])}")
    change = [0] * (len(schedule) + 1)
    for step, node in enumerate(schedule):
        change[step] += instance.size_bytes[node]
        change[keep[step] + 1] -= instance.size_bytes[node]
    live = list(accumulate(change))[:-1]
    if instance.kernels is not None:
        _run_kernels(instance, instance.kernels, schedule, keep, live)
    return Replay(
        cost=sum(instance.cost[node] for node in schedule),
        peak_bytes=max(live),
        live_bytes=tuple(live),
        computations=max(computed),
        keeps_order=first_order == sorted(first_order),
        last_reads=tuple(keep),
    )


def _run_kernels(instance: Instance, kernels: Kernels, schedule: Sequence[int], keep: Sequence[int], live: list[int]) -> None:
    """What kernels take and spare at their own steps, put into ``live``."""
    for step, node in enumerate(schedule):
        live[step] += kernels.scratch_bytes[node]
    written_over: set[int] = set()
    for made, node in enumerate(schedule):
        last, size_bytes = keep[made], instance.size_bytes[node]
        reader = schedule[last]
        can = last > made and node not in kernels.shared and reader in kernels.writers
        if can and size_bytes == instance.size_bytes[reader] and last not in written_over:
            written_over.add(last)
            live[last] -= size_bytes
