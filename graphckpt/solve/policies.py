"""The named policies, each a rule that says which forward values to save, and the plans they give.

`stock`: Inductor's own cut, as it is. `every_N`: the forward pass is cut at every N-th layer; only what crosses a cut is saved.
`full` is ``every_1``; `sqrt` takes N = round(sqrt(layers)) (Chen et al. 2016, arXiv:1604.06174). `selective`: what lies between
the two products of an attention is dropped, the rest is stock's choice (Korthikanti et al. 2022, arXiv:2205.05198).
Between `stock` and `full` lie the plans ``full:first_K``: only the first K layers are recomputed.

These are baselines. They know nothing of a single tensor's price, and none of them is optimal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from graphckpt.errors import OptionError, PlanError
from graphckpt.ir.check import check_plan
from graphckpt.ir.graph import Graph, OpKind, Phase
from graphckpt.ir.plan import Plan, saved_values
from graphckpt.solve.demand import Demand
from graphckpt.solve.order import LargeGradient, gradients_early, gradients_last, large_gradients
from graphckpt.solve.segments import (
    Segments,
    base_of,
    cut_at,
    forward_order,
    is_element,
    layer_boundaries,
    narrow_boundaries,
    spread,
    tiny_bytes,
)

# At most so many plans between stock and `full`, and at most so many N of `every_N`: time to plan stays close to linear in the
# number of layers.
_PARTIAL = 8
_EVERY = 32


@dataclass(frozen=True, slots=True)
class Situation:
    """What every policy needs, computed once a graph: stock's plan, its saved values, the cuts, and who is too small to drop."""

    graph: Graph
    stock: Plan
    stock_saved: frozenset[int]
    order: tuple[int, ...]
    backward_order: tuple[int, ...]
    layers: tuple[int, ...]
    valleys: tuple[int, ...]
    always_saved: frozenset[int]
    demand: Demand
    large: tuple[LargeGradient, ...]

    def plan(self, name: str, saved: Collection[int], of_op: Sequence[int]) -> Plan:
        """`Demand.plan` of this backward pass, whose large gradients come last where what they read is saved."""
        late = gradients_last(self.backward_order, self.large, saved)
        return self.demand.plan(name, saved, of_op, late)


def survey(graph: Graph, stock: Plan) -> Situation:
    """Look at a graph once: where its layers start, what stock saves, what is not worth dropping."""
    base = base_of(graph)
    order = forward_order(graph)
    small = tiny_bytes(graph, order)
    kept = frozenset(
        i
        for i in order
        if graph.ops[i].kind is OpKind.COMPUTE and not graph.ops[i].fusible and graph.own_bytes(i) <= small
    )
    saved = frozenset(base[i] for i in saved_values(graph, stock) if graph.ops[base[i]].kind is not OpKind.INPUT)
    backward = gradients_early(graph, [i for i in stock.backward if graph.ops[i].phase is Phase.BACKWARD])
    layers = layer_boundaries(graph, order)
    valleys = narrow_boundaries(graph, order)
    return Situation(graph, stock, saved, order, backward, layers, valleys, kept, Demand(graph), large_gradients(graph, backward))


def named_plan(situation: Situation, name: str) -> Plan:
    """The plan of one policy by its name.

    Raises:
        OptionError: no such policy, or it has no plan for this graph.
    """
    if name == "stock":
        return situation.stock
    if name == "selective":
        return _selective(situation)
    boundaries = situation.valleys if name == "valleys" else situation.layers[:: _step(name, len(situation.layers))]
    segments = cut_at(situation.graph, situation.order, boundaries)
    return checkpoint_first(situation, name, segments, segments.count - 1)


def _step(name: str, layer_count: int) -> int:
    """At every how many layers a policy cuts."""
    if name == "full":
        return 1
    if name == "sqrt":
        return max(1, round(math.sqrt(layer_count)))
    if name.startswith("every_"):
        return int(name.removeprefix("every_"))
    raise OptionError(f"policy {name!r} is not known; known are stock, every_N, sqrt, full and selective")


def checkpoint_first(situation: Situation, name: str, segments: Segments, count: int) -> Plan:
    """The plan that recomputes the first ``count`` segments from what enters them, and keeps stock's choice in the others."""
    saved = set(situation.always_saved)
    for index in situation.stock_saved:
        if segments.of_op[index] >= count:
            saved.add(index)
    for entering in segments.crossing[: count + 1]:
        saved |= entering
    return situation.plan(name, saved, segments.of_op)


def _selective(situation: Situation) -> Plan:
    graph = situation.graph
    inside = attention_interior(graph)
    saved = {i for i in situation.stock_saved if i not in inside} | situation.always_saved
    saved |= _readable_from_outside(graph, inside)
    segments = cut_at(graph, situation.order, situation.layers)
    return situation.plan("selective", saved, segments.of_op)


def attention_interior(graph: Graph) -> frozenset[int]:
    """Operations between the two matrix products of an attention, the first product included: they hold the square scores.

    Found as the pointwise neighbourhood of each exponential that lies between products. A fused attention has no interior.
    """
    readers = graph.readers()
    products = {i for i, op in enumerate(graph.ops) if op.flops and op.phase is Phase.FORWARD}
    inside: set[int] = set()
    for index, op in enumerate(graph.ops):
        if op.phase is not Phase.FORWARD or not op.target.startswith(("aten.exp.", "aten._softmax.", "prims.prepare_softmax")):
            continue
        above, found_above = _pointwise_reach(graph, index, lambda i: graph.ops[i].inputs, products)
        below, found_below = _pointwise_reach(graph, index, lambda i: readers[i], products)
        if found_above and found_below:
            inside |= above | below | found_above
    return frozenset(inside)


def _pointwise_reach(
    graph: Graph, start: int, neighbours: Callable[[int], Sequence[int]], stops: set[int]
) -> tuple[set[int], set[int]]:
    """Forward operations reached from ``start`` without passing a product, no smaller than it; and the products met."""
    seen, met, todo = {start}, set[int](), [start]
    size = graph.own_bytes(start)
    while todo:
        for other in neighbours(todo.pop()):
            if other in stops:
                met.add(other)
            elif other not in seen and _may_be_inside(graph, other, size):
                seen.add(other)
                todo.append(other)
    return seen, met


def _may_be_inside(graph: Graph, index: int, size_bytes: int) -> bool:
    """A forward view, or a forward value at least a quarter as large as the exponential."""
    op = graph.ops[index]
    if op.phase is not Phase.FORWARD or op.kind is OpKind.INPUT:
        return False
    return op.kind is OpKind.ALIAS or graph.own_bytes(index) * 4 >= size_bytes


def _readable_from_outside(graph: Graph, inside: frozenset[int]) -> set[int]:
    """What the interior reads from outside and must be there to recompute it: products, not views of them."""
    base = base_of(graph)
    reads = {base[s] for i in inside for s in graph.ops[i].inputs} - inside
    return {i for i in reads if graph.ops[i].kind is OpKind.COMPUTE or is_element(graph, i)}


def candidate_plans(situation: Situation) -> Iterator[Plan]:
    """Every plan the policies offer, stock's first; of more than 33 layers not every N of ``every_N``. Those a graph does not admit
    are left out."""
    yield situation.stock
    for make in _makers(situation):
        try:
            plan = make()
            check_plan(situation.graph, plan)
        except PlanError:
            continue
        yield plan


def _makers(situation: Situation) -> Iterator[Callable[[], Plan]]:
    layer_count = len(situation.layers)
    steps = {_step("sqrt", layer_count), *(1 + step for step in spread(layer_count - 1, _EVERY))} - {1}
    for name in ("selective", "full", *(f"every_{step}" for step in sorted(steps))):
        yield partial(named_plan, situation, name)
    whole = cut_at(situation.graph, situation.order, situation.layers)
    for count in spread(whole.count - 2, _PARTIAL):
        yield partial(checkpoint_first, situation, f"full:first_{count}", whole, count)
    if situation.valleys:
        fine = cut_at(situation.graph, situation.order, situation.valleys)
        yield partial(named_plan, situation, "valleys")
        yield partial(checkpoint_first, situation, "valleys:all", fine, fine.count)
