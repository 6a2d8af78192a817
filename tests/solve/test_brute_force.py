"""The planner and its bound against every plan there is (`tests.solve.brute_force`), of four kinds of small graphs.

Chains of layers, drawn in `tests.solve.chains.chain`. Residual nets of blocks; backward reads p, x, each r:

    x --mm--> p --act--> a --add--> r         p and a have 32 MB, x and r 16, gradients of weights 4
    '--------------------------^

Random nets, with the backward pass that autograd would make. Random graphs of any shape (`tests.graphs`), some of whose views pick
an element out of a tuple. Sizes are megabytes: a kernel takes microseconds, and picoseconds do not matter.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import pytest

from graphckpt.cost.roofline import SCALED
from graphckpt.ir.check import check_plan
from graphckpt.ir.graph import Graph, Op, OpKind, Phase, value_bytes
from graphckpt.ir.plan import Plan, saved_values
from graphckpt.ir.text import parse
from graphckpt.session.pipeline import is_legal, rank_plans, ranker_for
from graphckpt.solve.bound import TimeBound, bound_times
from graphckpt.solve.frontier import Ranked, Ranker
from graphckpt.solve.segments import base_of
from tests.graphs import random_graph, random_plan
from tests.solve.brute_force import Found, Question, fastest_plans, made_in_forward
from tests.solve.chains import chain
from tests.solve.decisions import ELEMENT

MB = 1_000_000
STOCK_US = 1000.0
COMPUTED = (OpKind.COMPUTE, OpKind.ALIAS)
# Sums of times, in another order.
ROUNDING_US = 1e-9
# What the bound gives away for the whole picoseconds of cuts, of a few values.
CUT_US = 1e-4


class Case(NamedTuple):
    """A graph, a legal plan for stock's, and who has a buffer."""

    graph: Graph
    stock: Plan
    materialised: tuple[bool, ...]

    def ranker(self) -> Ranker:
        """As the pipeline makes it."""
        return ranker_for(self.graph, self.stock, self.materialised, STOCK_US, SCALED)

    def bound(self) -> TimeBound:
        """The bound under test."""
        ranker = self.ranker()
        return bound_times(self.graph, self.stock, STOCK_US, self.materialised, ranker.again_us, ranker.write_us)

    def question(self) -> Question:
        """For all plans there are. Of forward's outputs the pipeline holds those of a few bytes, which here have none."""
        ranker = self.ranker()
        late = tuple(i for i in self.stock.backward if self.graph.ops[i].phase is Phase.BACKWARD)
        held = tuple(out for out in self.graph.forward_outputs if value_bytes(self.graph, [out]) == 0)
        return Question(self.graph, late, held, self.materialised, ranker.again_us, ranker.write_us)

    def early(self) -> list[int]:
        """The forward operations that backward could compute."""
        reads = [source for index in self.question().late for source in self.graph.ops[index].inputs]
        return made_in_forward(self.graph, [*reads, *self.graph.backward_outputs])


class Solved(NamedTuple):
    """A case, and its exact front: as found, and by the model's figures."""

    case: Case
    front: tuple[Found, ...]
    ranked: tuple[Ranked, ...]


def solve(case: Case) -> Solved:
    front, ranker = fastest_plans(case.question()), case.ranker()
    return Solved(case, front, tuple(ranker.rank(found.plan) for found in front))


class Value(NamedTuple):
    """One value of a net. ``needs``: what its backward reads if it is no product, "result", "inputs" or nothing."""

    name: str
    reads: tuple[str, ...]
    size_bytes: int
    flops: int
    needs: str
    layer: str


def net(values: Sequence[Value]) -> Graph:
    """x and the values, the square of the last as the loss, then their gradients, and those of the weights of products."""
    storages, lines, number = ["s0 16000000B external"], ["%0 x = input placeholder() @fwd s0"], {"x": 0}

    def add(name: str, reads: Sequence[str], size_bytes: int, phase: str, flops: int = 0, layer: str = "") -> None:
        number[name] = len(lines)
        kind, work = "tangent" if name == "t" else "compute", f"flops={flops}" if flops else "fusible"
        where = f' ; layers.{layer} "" f32[]' if layer else ""
        sources = ", ".join(f"%{number[source]}" for source in reads)
        lines.append(f"%{len(lines)} {name} = {kind} f({sources}) @{phase} s{len(storages)} {work}{where}")
        storages.append(f"s{len(storages)} {size_bytes}B")

    for value in values:
        add(value.name, value.reads, value.size_bytes, "fwd", value.flops, value.layer)
    add("loss", [values[-1].name], 0, "fwd")
    add("t", [], 0, "bwd")
    results = []
    for value in reversed(values):
        readers = [reader for reader in values if value.name in reader.reads]
        needs = [f"g{reader.name}" for reader in readers] + (["t", value.name] if value is values[-1] else [])
        needs += [reader.name for reader in readers if reader.needs == "result"]
        needs += [value.name] * any(reader.needs == "inputs" for reader in readers)
        add(f"g{value.name}", needs, value.size_bytes, "bwd", max((reader.flops for reader in readers), default=0))
        if value.flops:
            add(f"w{value.name}", [f"g{value.name}", *value.reads], 4 * MB, "bwd", value.flops)
            results.append(f"w{value.name}")
    results += [] if values[0].flops else [f"g{values[0].name}"]
    outputs = " ".join(f"%{number[name]}" for name in results)
    return parse("\n".join([*storages, *lines, f"forward_outputs %{number['loss']}", f"backward_outputs {outputs}"]))


def residual_net(blocks: int) -> Graph:
    """The blocks drawn above."""
    values, before, flops = [], "x", 960 * MB
    for k in map(str, range(blocks)):
        values.append(Value(f"p{k}", (before,), 32 * MB, flops, "", k))
        values.append(Value(f"a{k}", (f"p{k}",), 32 * MB, 0, "inputs", k))
        values.append(Value(f"r{k}", (before, f"a{k}"), 16 * MB, 0, "", k))
        before = f"r{k}"
    return net(values)


def random_net(rng: random.Random, count: int) -> Graph:
    """Products and pointwise operations, each reading the one before and maybe another."""
    values, names = list[Value](), ["x"]
    for k in range(count):
        reads = (names[-1], *({rng.choice(names)} - {names[-1]} if rng.random() < 0.4 else ()))
        flops = rng.choice([0, 0, 60 * MB, 300 * MB])
        needs = "" if flops else rng.choice(["result", "inputs", "inputs", ""])
        values.append(Value(f"v{k}", reads, MB * rng.choice([4, 8, 16, 32]), flops, needs, str(k // 2)))
        names.append(f"v{k}")
    return net(values)


def scaled_chain(layers: int) -> Graph:
    """In megabytes; the loss and its gradient, a few bytes, are nothing."""
    graph = chain(layers).graph
    sizes = (storage.size_bytes if storage.size_bytes > 4 else 0 for storage in graph.storages)
    storages = (replace(s, size_bytes=MB * size) for s, size in zip(graph.storages, sizes, strict=True))
    return replace(graph, storages=tuple(storages), ops=tuple(replace(op, flops=MB * op.flops) for op in graph.ops))


def keeping(graph: Graph) -> Case:
    """Everything computed once, in buffers, and all that backward reads saved."""
    late = [i for i, op in enumerate(graph.ops) if op.phase is Phase.BACKWARD and op.kind in COMPUTED]
    reads = [source for index in late for source in graph.ops[index].inputs]
    early = made_in_forward(graph, [*graph.forward_outputs, *graph.backward_outputs, *reads])
    return Case(graph, Plan("keep", tuple(early), tuple(late)), (True,) * len(graph.ops))


def folding(rng: random.Random, case: Case) -> Case:
    """Some fusible operations without a buffer, but for what stock saves."""
    base = base_of(case.graph)
    saved = {base[value] for value in saved_values(case.graph, case.stock)}
    folds = (op.fusible and rng.random() < 0.3 and index not in saved for index, op in enumerate(case.graph.ops))
    return case._replace(materialised=tuple(not is_folded for is_folded in folds))


def small_graphs(most_early: int, most_late: int) -> Iterator[Case]:
    """Random graphs with few operations to choose from, and any legal plan for stock's."""
    for seed in range(100_000):
        rng = random.Random(seed)
        graph = random_graph(rng, rng.randint(6, 14))
        storages = tuple(replace(storage, size_bytes=MB * storage.size_bytes) for storage in graph.storages)
        graph = replace(graph, ops=tuple(_picking(rng, op) for op in graph.ops), storages=storages)
        case = keeping(graph)
        case = folding(rng, case._replace(stock=random_plan(rng, graph)) if rng.random() < 0.5 else case)
        if 1 <= len(case.question().late) <= most_late and 2 <= len(case.early()) <= most_early:
            yield case


def _picking(rng: random.Random, op: Op) -> Op:
    is_view = op.kind is OpKind.ALIAS and len({*op.inputs}) == 1 and rng.random() < 0.7
    return replace(op, flops=MB * op.flops, **({"target": ELEMENT, "inputs": op.inputs[:1]} if is_view else {}))


@cache
def solved() -> tuple[Solved, ...]:
    """Random graphs, random nets, chains and a residual net."""
    rngs = [random.Random(seed) for seed in range(100)]
    cases = [case for case, _ in zip(small_graphs(5, 4), range(150), strict=False)]
    cases += [folding(rng, keeping(random_net(rng, rng.randint(3, 4)))) for rng in rngs]
    cases += [keeping(graph) for graph in (scaled_chain(2), scaled_chain(3), residual_net(1), residual_net(2))]
    return tuple(map(solve, cases))


def test_the_front_has_the_models_figures() -> None:
    """Every plan of it is legal, with the peak of the reference timeline and the ranker's time but for one constant a graph."""
    longer = 0
    for case, front, ranked in solved():
        fixed_us = ranked[0].time_us - front[0].extra_us
        for found, entry in zip(front, ranked, strict=True):
            check_plan(case.graph, found.plan)
            assert entry.estimated_peak_bytes == found.peak_bytes
            assert entry.time_us == pytest.approx(fixed_us + found.extra_us, abs=ROUNDING_US)
        assert all(fast.peak_bytes > slow.peak_bytes and fast.extra_us < slow.extra_us for fast, slow in pairwise(front))
        longer += len(front) > 1
    assert longer > 50


def _all_plans(case: Case) -> Iterator[Plan]:
    """Every set of forward operations in their order, then late ones once and forward ones at most twice, in any order."""
    ops, early, late = case.graph.ops, case.early(), case.question().late
    candidates = made_in_forward(case.graph, [*case.graph.forward_outputs, *early])

    def backward(there: frozenset[int], steps: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        yield steps
        for index in (*late, *early):
            is_there = all(s in there or ops[s].kind in (OpKind.INPUT, OpKind.TANGENT) for s in ops[index].inputs)
            if is_there and steps.count(index) < (1 if index in late else 2):
                yield from backward(there | {index}, (*steps, index))

    for chosen in range(1 << len(candidates)):
        forward = tuple(index for place, index in enumerate(candidates) if chosen >> place & 1)
        plans = (Plan("listed", forward, steps) for steps in backward(frozenset(forward), ()) if {*late} <= {*steps})
        yield from (plan for plan in plans if is_legal(case.graph, plan))


def _point(entry: Ranked) -> tuple[int, float]:
    return entry.estimated_peak_bytes, round(entry.time_us, 6)


def test_the_front_is_that_of_all_plans() -> None:
    """Listed without a thought, for small graphs: none beats the front, and each point of it is met."""
    graphs = (case for case in small_graphs(3, 2) if len(case.early()) + len(case.question().late) <= 4)
    cases = [case for case, _ in zip(graphs, range(50), strict=False)]
    plans, choices = 0, 0
    for case in [*cases, *(folding(rng, keeping(random_net(rng, 2))) for rng in map(random.Random, range(2)))]:
        ranker, front = case.ranker(), solve(case).ranked
        listed = Counter(_point(ranker.rank(plan)) for plan in _all_plans(case))
        points = [_point(entry) for entry in front]
        assert all(any(peak <= other[0] and time <= other[1] for peak, time in points) for other in listed)
        assert listed.keys() >= {*points}
        plans, choices = plans + listed.total(), choices + (len(points) > 1)
    assert plans > 10_000
    assert choices > 3


def _frontier(case: Case) -> tuple[Ranked, ...]:
    return rank_plans(case.graph, case.stock, case.ranker(), None)


def _unbeaten(frontier: tuple[Ranked, ...]) -> tuple[Ranked, ...]:
    """Without a last plan that is as small as the one before it."""
    peaks = [entry.estimated_peak_bytes for entry in frontier[-2:]]
    return frontier[:-1] if len(peaks) == 2 and peaks[0] == peaks[1] else frontier


def test_no_plan_of_the_frontier_is_faster_than_possible() -> None:
    """At its own peak. Stock's is left out: here it may compute values twice in forward, which the model gives it for nothing."""
    slower = 0
    for case, _, ranked in solved():
        for entry in _frontier(case)[1:]:
            smaller = [exact for exact in ranked if exact.estimated_peak_bytes <= entry.estimated_peak_bytes]
            margin_us = entry.time_us - min(exact.time_us for exact in smaller)
            assert margin_us >= -ROUNDING_US
            slower += margin_us > ROUNDING_US
    assert slower > 5


def test_no_plan_is_below_the_bound() -> None:
    """Neither in time nor in its peak; and the bound is met, even by plans that are slower than another."""
    met, met_late, smallest = 0, 0, 0
    for case, _, ranked in solved():
        bound = case.bound()
        assert bound.least_peak_bytes <= ranked[-1].estimated_peak_bytes
        margins = [entry.time_us - bound.time_us(entry.estimated_peak_bytes) for entry in ranked]
        assert min(margins) >= -ROUNDING_US
        met += margins[0] < CUT_US
        met_late += sum(margin_us < CUT_US for margin_us in margins[1:])
        smallest += bound.least_peak_bytes == ranked[-1].estimated_peak_bytes
    assert min(met / 100, met_late / 5, smallest / 10) > 1


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_on_chains_the_frontier_is_the_front(layers: int) -> None:
    """Whatever is dropped lowers the peak there, which is where backward starts: so the bound is met at every point too."""
    case, _, ranked = solve(keeping(scaled_chain(layers)))
    assert [_point(entry) for entry in _unbeaten(_frontier(case))] == [_point(entry) for entry in ranked]
    assert all(case.bound().time_us(r.estimated_peak_bytes) == pytest.approx(r.time_us, abs=CUT_US) for r in ranked)
    assert len(ranked) == layers


@pytest.mark.parametrize("blocks", [1, 2])
def test_on_residual_nets_the_frontier_is_the_front(blocks: int) -> None:
    """With everything saved, and with p of the first block computed again; that of the second is of no use dropped as well."""
    case, _, ranked = solve(keeping(residual_net(blocks)))
    assert [_point(entry) for entry in _unbeaten(_frontier(case))] == [_point(entry) for entry in ranked]
    assert len(ranked) == 2
