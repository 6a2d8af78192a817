"""Which forward values to save, exactly, for a price per saved byte: a minimum cut.

For each forward value v two decisions: a(v), it is there in backward; r(v), it is there because it was computed again.

    minimise    sum over v of   (price(v) * bytes(v) + write(v)) * a(v) * (1 - r(v))  +  again(v) * r(v)
    such that   a(v) = 1 for what backward reads,   r(v) <= a(u) for every input u of v

Each product couples two decisions and pays where they differ, so this is a cut: v is two nodes, one for a, one for r; ones are on
the source's side. ``again``: time of one more computation; ``write``: time of writing what no kernel would otherwise write. Views
are never saved: what they look at is. Raising one price for all bytes walks down the lower convex hull of (saved bytes, time).

The same cut as torch's partitioner makes, but with times for bans. Exact for: values computed at most once more, each for a
price of its own. It knows nothing of the peak: when things live is the schedule's business, and prices that differ by layer are how
a schedule has its say. Not counted: what a value that only backward computes would take along, were it saved and so moved to
forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphckpt.ir.graph import Graph, Op, OpKind, Phase, value_bytes
from graphckpt.ir.plan import Plan
from graphckpt.solve.flow import UNCUTTABLE, Network
from graphckpt.solve.segments import is_element

# Whole numbers for the flow: a picosecond is far below what any model of time can tell.
_PICOSECONDS = 1e6


@dataclass(frozen=True, slots=True)
class Saving:
    """A solution: the values saved, their bytes, and the modelled time that it adds."""

    saved: frozenset[int]
    saved_bytes: int
    extra_us: float


@dataclass(frozen=True, slots=True)
class SavingProblem:
    """One graph's problem. For each of ``values`` (forward operations, ascending) its bytes and its time if saved, and the time of
    computing it in backward; None where that may not be. ``network``: first an edge each for saving, then one each for computing
    again, then those that may not be cut.
    """

    values: tuple[int, ...]
    size_bytes: tuple[int, ...]
    write_us: tuple[float | None, ...]
    again_us: tuple[float | None, ...]
    network: Network
    uncuttable_count: int

    def solve(self, price_us_per_byte: Sequence[float]) -> Saving:
        """The cheapest decisions; one price for each of ``values``.

        Raises:
            PlanError: what backward reads can neither be saved nor computed again.
        """
        facts = zip(self.write_us, price_us_per_byte, self.size_bytes, strict=True)
        capacities = [_capacity(None if write_us is None else write_us + price * size) for write_us, price, size in facts]
        capacities += [_capacity(again_us) for again_us in self.again_us]
        side = self.network.min_cut([*capacities, *[UNCUTTABLE] * self.uncuttable_count]).source_side
        there = [place for place in range(len(self.values)) if side[2 * place]]
        kept = [place for place in there if not side[2 * place + 1]]
        again = [place for place in there if side[2 * place + 1]]
        return Saving(
            frozenset(self.values[place] for place in kept),
            sum(self.size_bytes[place] for place in kept),
            sum(self.write_us[place] or 0.0 for place in kept) + sum(self.again_us[place] or 0.0 for place in again),
        )

    def forcing(self, forced: frozenset[int]) -> SavingProblem:
        """The same problem with these values of forward saved for nothing, wherever that may be: they are no longer a choice."""
        is_forced = [value in forced for value in self.values]
        sizes = (0 if free else size for size, free in zip(self.size_bytes, is_forced, strict=True))
        writes = (0.0 if free and write is not None else write for write, free in zip(self.write_us, is_forced, strict=True))
        return replace(self, size_bytes=tuple(sizes), write_us=tuple(writes))


def state_saving(
    graph: Graph, stock: Plan, always_saved: frozenset[int], again_us: Sequence[float], write_us: Sequence[float]
) -> SavingProblem:
    """The problem of one graph; ``stock`` tells what forward computes and what backward reads, times are by operation."""
    values = [i for i, op in enumerate(graph.ops) if op.phase is Phase.FORWARD and op.kind in (OpKind.COMPUTE, OpKind.ALIAS)]
    place = {value: k for k, value in enumerate(values)}
    tuples = {graph.ops[i].inputs[0] for i in values if is_element(graph, i)}
    in_forward = frozenset(stock.forward)
    forced = frozenset(i for i in values if _runs_once(graph.ops[i]) and i in in_forward)
    free = forced | always_saved
    free |= {i for i in values if is_element(graph, i) and graph.ops[i].inputs[0] in free}
    sizes, saves, agains = [], [], []
    for value in values:
        sizes.append(0 if value in free else value_bytes(graph, [value]))
        # What forward does not compute by itself costs its computation wherever it is done.
        moved_us = 0.0 if value in in_forward else again_us[value]
        save_us = moved_us if value in free else moved_us + write_us[value]
        may_be_saved = value in forced or _may_be_saved(graph, value, value in tuples)
        saves.append(save_us if may_be_saved else None)
        agains.append(None if value in forced else again_us[value])
    reads = [(place[value], place[source]) for value in values for source in graph.ops[value].inputs if source in place]
    late = [graph.ops[i].inputs for i in stock.backward if graph.ops[i].phase is Phase.BACKWARD]
    required = {place[s] for sources in (*late, graph.backward_outputs) for s in sources if s in place}
    count = len(values)
    source, sink = 2 * count, 2 * count + 1
    decisions = [(2 * k, 2 * k + 1) for k in range(count)] + [(2 * k + 1, sink) for k in range(count)]
    bound = [(2 * reader + 1, 2 * read) for reader, read in reads] + [(source, 2 * k) for k in sorted(required)]
    network = Network(sink + 1, decisions + bound, source, sink)
    return SavingProblem(tuple(values), tuple(sizes), tuple(saves), tuple(agains), network, len(bound))


def _runs_once(op: Op) -> bool:
    """What is not computed again: saved whatever it costs where forward computes it, and otherwise left to backward."""
    return op.kind is OpKind.COMPUTE and (bool(op.pinned) or op.tag == "save")


def _may_be_saved(graph: Graph, value: int, is_tuple: bool) -> bool:
    op = graph.ops[value]
    if _runs_once(op) or op.tag == "recompute" or is_tuple:
        return False
    return op.kind is OpKind.COMPUTE or is_element(graph, value)


def _capacity(time_us: float | None) -> int:
    return UNCUTTABLE if time_us is None else round(_PICOSECONDS * time_us)
