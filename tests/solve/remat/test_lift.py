"""From a few layers to all: legal whatever is done, as it was where all layers do the same, and within a budget.

    smaller problem: layers 0 .. 3, 20 .. 23 of 24      way: what one of them does in backward      lifted: one way for each of 24
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from graphckpt.solve.remat.chain import Chain, Kind
from graphckpt.solve.remat.fold import Folded, fold
from graphckpt.solve.remat.instance import Instance, make_instance, relabelled
from graphckpt.solve.remat.lift import Learnt, Lifter
from graphckpt.solve.remat.replay import replay
from graphckpt.solve.remat.search import Goal, Limits, Order, search
from tests.solve.remat.deep import Deep, deep, kept, must_fold, random_step, recomputed

LAYERS = 24


def _learnt(folded: Folded, few: tuple[int, ...], order: Order = Order.FREE) -> Learnt:
    learnt = Lifter(folded, order).learn(few)
    assert learnt is not None
    return learnt


@pytest.mark.parametrize("policy", ["kept", "recomputed"])
def test_what_all_layers_do_comes_back_as_it_was(policy: str) -> None:
    step = deep(LAYERS)
    schedule = kept(step) if policy == "kept" else recomputed(step, LAYERS)
    folded = must_fold(step.instance, schedule)
    whole = replay(step.instance, schedule)
    for tried in _learnt(folded, folded.restrict(schedule)).tried:
        assert (tried.alike.cost, tried.alike.peak_bytes) == (whole.cost, whole.peak_bytes)
        found = replay(step.instance, tried.alike.schedule)
        assert (found.cost, found.peak_bytes) == (whole.cost, whole.peak_bytes)


def _predicted(chain: Chain, kind: Kind) -> int:
    """The peak of layers that all are of one kind, by the formula of `graphckpt.solve.remat.chain`."""
    layers = range(chain.layer_count)
    of_layers = [layer * kind.held_bytes + chain.left_bytes * (chain.layer_count - 1 - layer) for layer in layers]
    return max(
        chain.beside_bytes + max(of_layers) + kind.peak_bytes,
        chain.top_bytes + chain.layer_count * kind.held_bytes,
        chain.end_bytes + chain.layer_count * chain.left_bytes,
    )


@pytest.mark.parametrize("again", [(), ("a",), ("b",), ("a", "b")])
def test_what_is_measured_of_a_layer_is_what_it_takes(again: tuple[str, ...]) -> None:
    """Held: a (4 bytes) and b (3) if they are not computed again, and x (2), which is not then either; left: w (2)."""
    step = deep(LAYERS)
    schedule = recomputed(step, LAYERS, again)
    folded = must_fold(step.instance, schedule)
    for tried in _learnt(folded, folded.restrict(schedule)).tried:
        held_bytes = 4 * ("a" not in again) + 3 * ("b" not in again) + 2 * ("a" in again)
        assert (tried.kind.held_bytes, tried.chain.left_bytes) == (held_bytes, 2)
        assert tried.kind.cost == 6 + 6 + 2 + 5 * ("a" in again) + 3 * ("b" in again)
        assert _predicted(tried.chain, tried.kind) == tried.alike.peak_bytes


def test_within_a_budget_some_layers_keep_and_some_compute_again() -> None:
    """Two plans teach: everything is kept, or a and b are computed again. Between their peaks each budget is met, at a cost that
    falls from the one's to the other's; below and above there is nothing to choose."""
    step = deep(LAYERS)
    plans = [kept(step), recomputed(step, LAYERS)]
    folded = must_fold(step.instance, plans[1])
    lifter = Lifter(folded)
    learnt = [_learnt(folded, folded.restrict(plan)) for plan in plans]
    fast, small = (replay(step.instance, plan) for plan in plans)
    budgets = range(small.peak_bytes, fast.peak_bytes + 1, 7)
    found = [lifter.cheapest(learnt, budget_bytes) for budget_bytes in budgets]
    costs = []
    for lifted, budget_bytes in zip(found, budgets, strict=True):
        assert lifted is not None
        assert replay(step.instance, lifted.schedule).peak_bytes == lifted.peak_bytes <= budget_bytes
        costs.append(lifted.cost)
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) > LAYERS / 3
    assert costs[0] <= small.cost
    assert lifter.cheapest(learnt, small.peak_bytes - 1) is None
    top = lifter.cheapest(learnt, fast.peak_bytes)
    assert top is not None
    assert top.cost == fast.cost


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_found_is_legal_for_all_layers(order: Order, seed: int) -> None:
    """Searches that make a mess of it, nodes numbered by lot."""
    step = deep(LAYERS)
    schedule = recomputed(step, LAYERS) if seed % 2 else kept(step)
    lottery = list(range(step.instance.count))
    random.Random(seed).shuffle(lottery)
    place = {node: at for at, node in enumerate(lottery)}
    instance = relabelled(step.instance, tuple(lottery))
    folded = must_fold(instance, [place[node] for node in schedule])
    few = folded.restrict([place[node] for node in schedule])
    found = search(folded.instance, 0, Limits(20, 3_000, seed), order, Goal.SMALLEST, few)
    learnt = Lifter(folded).learn(found.schedule)
    if learnt is not None:
        for tried in learnt.tried:
            # Raises where it is not legal.
            assert replay(instance, tried.alike.schedule).peak_bytes == tried.alike.peak_bytes


def test_what_a_few_layers_find_serves_all() -> None:
    """From a plan that keeps b of each layer: a few learn to compute it again where it counts, and with them all 40. In the
    smaller problem b of those left out stays."""
    step = deep(40)
    start = recomputed(step, 40, again=("a",))
    folded = must_fold(step.instance, start)
    found = search(folded.instance, 0, Limits(20, 4_000), Order.FIXED, Goal.SMALLEST, folded.restrict(start))
    of_all = _learnt(folded, found.schedule).smallest.alike.peak_bytes
    assert of_all < replay(folded.instance, found.schedule).peak_bytes < replay(step.instance, start).peak_bytes


def _reading(step: Deep, reader: tuple[str, int], source: tuple[str, int]) -> Instance:
    """The instance with one more edge."""
    at, read = step.nodes(reader, source)
    inputs = tuple(tuple(sorted({*row, read})) if node == at else row for node, row in enumerate(step.instance.inputs))
    return replace(step.instance, inputs=inputs)


@pytest.mark.parametrize("source", [2, 8, 12, LAYERS - 3])
@pytest.mark.parametrize("reader", [("a", LAYERS - 1), ("gb", LAYERS - 1), ("gb", LAYERS - 2), ("gb", 1), ("w", 12)])
def test_edges_across_many_layers_fold_or_do_not_but_stay_right(reader: tuple[str, int], source: int) -> None:
    """One node reads b of a layer far away, as in a U-Net: every schedule of the smaller problem comes back legal, or there is
    none."""
    step = deep(LAYERS)
    instance = _reading(step, reader, ("b", source)) if source < reader[1] or reader[0] != "a" else step.instance
    folded = fold(instance, kept(step))
    if folded is not None:
        few = folded.restrict(kept(step))
        replay(folded.instance, few)
        for tried in _learnt(folded, few).tried:
            replay(instance, tried.alike.schedule)


def test_random_layers_come_back_legal_and_in_order_where_that_is_asked_for() -> None:
    lifts = 0
    for seed in range(60):
        instance = random_step(seed)
        schedule = list(range(instance.count))
        folded = fold(instance, schedule)
        if folded is None:
            continue
        order, few = list(Order)[seed % 2], folded.restrict(schedule)
        lifter, found = Lifter(folded, order), search(folded.instance, 0, Limits(20, 1_000, seed), order, Goal.SMALLEST, few)
        learnt = [one for one in (lifter.learn(few), lifter.learn(found.schedule)) if one is not None]
        mixed = [lifter.cheapest(learnt, int(share * replay(instance, schedule).peak_bytes)) for share in (0.5, 0.8, 1.0)]
        for lifted in (*(tried.alike for one in learnt for tried in one.tried), *mixed):
            if lifted is not None:
                lifts += 1
                whole = replay(instance, lifted.schedule)
                assert (whole.peak_bytes, whole.cost) == (lifted.peak_bytes, lifted.cost)
                assert order is Order.FREE or whole.keeps_order
    assert lifts >= 100


def _two_ways() -> Instance:
    """A recurrent network: x is computed in an order that is not that of its reverse direction.

    x[0..] -> f[0] -> f[1] -> ...      x[0..] -> r[last] -> ... -> r[0]      f[i], r[i] -> o[i]
    """
    nodes: dict[tuple[str, int], list[tuple[str, int]]] = {("x", i): [] for i in range(LAYERS)}
    nodes |= {("f", i): [("x", i), *([("f", i - 1)] if i else [])] for i in range(LAYERS)}
    nodes |= {("r", i): [("x", i), *([("r", i + 1)] if i < LAYERS - 1 else [])] for i in reversed(range(LAYERS))}
    nodes |= {("o", i): [("f", i), ("r", i)] for i in range(LAYERS)}
    number = {name: at for at, name in enumerate(nodes)}
    own = tuple("xfro".index(kind) + 2 for kind, _ in nodes)
    return make_instance("two ways", own, own, tuple(tuple(number[source] for source in row) for row in nodes.values()))


def test_two_directions_come_back_in_order() -> None:
    instance = _two_ways()
    schedule = list(range(instance.count))
    folded = must_fold(instance, schedule)
    found = search(folded.instance, 0, Limits(20, 3_000), Order.FIXED, Goal.SMALLEST, folded.restrict(schedule)).schedule
    for tried in _learnt(folded, found, Order.FIXED).tried:
        assert replay(instance, tried.alike.schedule).keeps_order


def test_layers_that_are_not_begun_one_after_another_teach_nothing() -> None:
    """Of two layers the x change places: nobody minds, but a window has no end there."""
    instance = _two_ways()
    schedule = list(range(instance.count))
    folded = must_fold(instance, schedule)
    few = list(folded.restrict(schedule))
    begins = folded.layers.nodes[folded.cut.forward]
    one, other = (few.index(folded.nodes.index(begins[layer])) for layer in (0, 1))
    few[one], few[other] = few[other], few[one]
    replay(folded.instance, few)
    assert Lifter(folded).learn(few) is None
