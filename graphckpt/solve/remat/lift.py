"""From schedules of a few of a graph's equal layers (`graphckpt.solve.remat.fold`) to schedules of all of them.

A schedule of the smaller problem is cut where the layer above those left out begins in forward, where backward begins, and where
each layer begins in backward. What it does in backward between the beginning of one layer and that of the next is a *way* to do a
layer, with the places whose values it keeps from forward; what it does elsewhere is a *frame* for those left out, whose forward
repeats that of the last layer before them. A frame and a way for each layer make a schedule: of the values of forward those that a
layer does not keep are gone when backward begins, and who reads them computes them again; what may be computed only once stays. So
every choice of ways is legal, and keeps no more than that.

What a way costs and takes is measured where all layers do it. Which layer does which is then `graphckpt.solve.remat.chain`.

Not guaranteed: that a layer takes as much beside one that is done otherwise; peaks of what is mixed are replayed, and less is asked
for where they are over the budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from graphckpt.solve.remat.chain import Chain, Kind, cheapest
from graphckpt.solve.remat.fold import Folded
from graphckpt.solve.remat.replay import Replay, replay
from graphckpt.solve.remat.search import Order
from graphckpt.solve.remat.writer import ScheduleWriter

# So often less is asked for where a mixed schedule is over the budget.
_TURNS = 3


class Lifted(NamedTuple):
    """A schedule of the whole graph."""

    peak_bytes: int
    cost: int
    schedule: tuple[int, ...]


class Way(NamedTuple):
    """``steps``: in backward, as layer ``like`` of the smaller problem does them. ``held``: the places that are kept for it."""

    steps: tuple[int, ...]
    like: int
    held: frozenset[int]


class Frame(NamedTuple):
    """What a schedule of the smaller problem does, but for the layers of which a way is taken. In forward ``before``, then
    ``window`` for each layer that is left out, then ``between``; in backward ``above`` and, behind the ways, ``below``. ``held``:
    by layer of the smaller problem, the places that are kept for it."""

    before: tuple[int, ...]
    window: tuple[int, ...]
    between: tuple[int, ...]
    above: tuple[int, ...]
    below: tuple[int, ...]
    held: tuple[frozenset[int], ...]


class Tried(NamedTuple):
    """A way and what came of it where all layers do it: what it takes, and what is beside it."""

    way: Way
    kind: Kind
    chain: Chain
    alike: Lifted


class Learnt(NamedTuple):
    """What one schedule of the smaller problem teaches: a frame, and ways."""

    frame: Frame
    tried: tuple[Tried, ...]

    @property
    def smallest(self) -> Tried:
        """The way of the smallest peak."""
        return min(self.tried, key=lambda one: one.alike)


@dataclass(frozen=True)
class Lifter:
    """``order``: fixed if first computations are to stand in that of the whole graph's nodes, which is one."""

    folded: Folded
    order: Order = Order.FREE

    def learn(self, schedule: Sequence[int]) -> Learnt | None:
        """The frame and the ways of a legal schedule. None where layers are not begun one after another, in backward in the other
        order, behind all of forward; and where all that comes of it is too long."""
        parts = self._parts(schedule)
        if parts is None:
            return None
        frame, ways = parts
        tried = tuple(one for one in (self._tried(frame, way) for way in ways) if self._is_short(one.alike))
        return Learnt(frame, tried) if tried else None

    def cheapest(self, learnt: Sequence[Learnt], budget_bytes: int) -> Lifted | None:
        """The cheapest schedule within the budget that is found with one of these frames and all of the ways."""
        tried = [one for each in learnt for one in each.tried]
        found = [one.alike for one in tried]
        for each in learnt:
            asked_bytes = budget_bytes
            for _ in range(_TURNS):
                chosen = cheapest(each.smallest.chain, [one.kind for one in tried], asked_bytes)
                if chosen is None:
                    break
                found.append(self._lifted(each.frame, [tried[kind].way for kind in chosen]))
                if found[-1].peak_bytes <= budget_bytes:
                    break
                asked_bytes -= found[-1].peak_bytes - budget_bytes
        fitting = [lifted for lifted in found if lifted.peak_bytes <= budget_bytes and self._is_short(lifted)]
        return min(fitting, key=lambda lifted: (lifted.cost, lifted.peak_bytes), default=None)

    def _is_short(self, lifted: Lifted) -> bool:
        """Whether a search may begin with it."""
        return len(lifted.schedule) <= self.folded.whole.capacity

    def _parts(self, schedule: Sequence[int]) -> tuple[Frame, list[Way]] | None:
        """A schedule in its parts; the windows of backward are ways, but for those of the uppermost and the lowest layer, which
        begin and end with what no other layer has beside it."""
        folded, cut, layers = self.folded, self.folded.cut, self.folded.layers
        own = [node for node in schedule if folded.nodes[node] >= 0]
        steps = [folded.nodes[node] for node in own]
        at = {node: step for step, node in reversed(list(enumerate(steps)))}
        kept = range(layers.layer_count - cut.left_out)
        up, down = ([at[layers.nodes[place][cut.whole(layer)]] for layer in kept] for place in (cut.forward, cut.backward))
        begun = [*up, *reversed(down)]
        if begun != sorted(begun):
            return None
        start, begins = down[-1], schedule.index(own[down[-1]])
        held: list[set[int]] = [set() for _ in kept]
        for made, last in enumerate(replay(folded.instance, schedule).last_reads):
            node = folded.nodes[schedule[made]]
            place = layers.of[node] if node >= 0 else None
            if place is not None and made < begins <= last:
                held[cut.smaller(place.layer)].add(place.place)
        frame = Frame(
            tuple(steps[: up[cut.first]]),
            tuple(steps[up[cut.first - 1] : up[cut.first]]),
            tuple(steps[up[cut.first] : start]),
            tuple(steps[start : down[cut.first - 1]]),
            tuple(steps[down[cut.first - 1] :]),
            tuple(frozenset(places) for places in held),
        )
        ways = [Way(tuple(steps[down[like] : down[like - 1]]), like, frame.held[like]) for like in kept[1:-1]]
        return frame, ways

    def _lifted(self, frame: Frame, ways: Sequence[Way]) -> Lifted:
        """The schedule in which the layers that are left out do these, the lowest the first one."""
        schedule, _ = self._written(frame, ways)
        found = replay(self.folded.whole, schedule)
        return Lifted(found.peak_bytes, found.cost, schedule)

    def _written(self, frame: Frame, ways: Sequence[Way]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """That schedule, and the steps with which backward begins, then the ways of the layers that were left out, from the upper
        one, then what comes behind them."""
        cut, writer = self.folded.cut, ScheduleWriter(self.folded.whole, self.order)
        writer.put(self._shifted(frame.before, 0, 0))
        for layer in range(cut.first, cut.above):
            writer.put(self._shifted(frame.window, layer - (cut.first - 1), 0))
        writer.put(self._shifted(frame.between, cut.left_out, cut.first - 1))
        held = (*frame.held[: cut.first], *(way.held for way in ways), *frame.held[cut.first :])
        for place, row in enumerate(self.folded.layers.nodes):
            writer.drop(node for node, places in zip(row, held, strict=True) if place not in places)
        writer.mark()
        writer.put(self._shifted(frame.above, cut.left_out, cut.first - 1))
        for layer in reversed(range(cut.first, cut.above)):
            way = ways[layer - cut.first]
            writer.mark()
            writer.put(self._shifted(way.steps, layer - way.like, 0))
        writer.mark()
        writer.put(self._shifted(frame.below, 0, 0))
        return writer.parts()

    def _shifted(self, steps: Sequence[int], by: int, least: int) -> Iterator[int]:
        """Steps so many layers further, counted in layers of the smaller problem, from layer ``least`` on."""
        layers, cut = self.folded.layers, self.folded.cut
        for node in steps:
            place = layers.of[node]
            if place is None:
                yield node
                continue
            layer = cut.smaller(place.layer)
            layer += by if layer >= least else 0
            if 0 <= layer < layers.layer_count:
                yield layers.nodes[place.place][layer]

    def _tried(self, frame: Frame, way: Way) -> Tried:
        """What layers take that all do the same: the kind is that of the one in the middle."""
        whole, cut = self.folded.whole, self.folded.cut
        schedule, (backward, *begins) = self._written(frame, [way] * cut.left_out)
        found = replay(whole, schedule)
        held, left = self._held_and_left(schedule, found, backward)
        live = found.live_bytes
        middle, inside = (cut.first + cut.above - 1) // 2, slice(cut.first, cut.above)
        window = slice(*begins[cut.above - 1 - middle :][:2])
        beside_bytes = sum(held[:middle]) + sum(left[middle + 1 :])
        kind = Kind(
            sum(whole.cost[node] for node in schedule[window]),
            held[middle],
            max(live[window], default=0) - beside_bytes,
        )
        chain = Chain(
            cut.left_out,
            left[middle],
            sum(held[: cut.first]) + sum(left[cut.above :]),
            max(live[: begins[0]], default=0) - sum(held[inside]),
            max(live[begins[-1] :], default=0) - sum(left[inside]),
        )
        return Tried(way, kind, chain, Lifted(found.peak_bytes, found.cost, schedule))

    def _held_and_left(self, schedule: Sequence[int], found: Replay, begins: int) -> tuple[list[int], list[int]]:
        """By layer of the whole graph the bytes that are kept for it when backward begins, and those that it leaves for good."""
        whole, layers = self.folded.whole, self.folded.layers
        held, left = [0] * layers.layer_count, [0] * layers.layer_count
        for made, last in enumerate(found.last_reads):
            place, size_bytes = layers.of[schedule[made]], whole.size_bytes[schedule[made]]
            if place is not None and made < begins <= last:
                held[place.layer] += size_bytes
            elif place is not None and made >= begins and last == len(schedule) - 1:
                left[place.layer] += size_bytes
        return held, left
