"""Fewer layers, and back: schedules are legal whatever is done to them, and what all layers do comes back as it was."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from graphckpt.solve.remat.fold import Folded, fold
from graphckpt.solve.remat.instance import Instance, Kernels, make_instance, relabelled
from graphckpt.solve.remat.replay import replay
from graphckpt.solve.remat.search import Goal, Limits, Order, search
from tests.solve.remat.deep import Deep, deep, kept, recomputed

LAYERS = 24


def _folded(instance: Instance, schedule: list[int]) -> Folded:
    folded = fold(instance, schedule)
    assert folded is not None
    return folded


def _peak(instance: Instance, schedule: tuple[int, ...]) -> tuple[float, ...]:
    return (replay(instance, schedule).peak_bytes,)


@pytest.mark.parametrize("policy", ["kept", "recomputed"])
def test_what_all_layers_do_comes_back_as_it_was(policy: str) -> None:
    step = deep(LAYERS)
    schedule = kept(step) if policy == "kept" else recomputed(step, LAYERS)
    folded = _folded(step.instance, schedule)
    few = folded.restrict(schedule)
    whole = replay(step.instance, schedule)
    assert folded.instance.count < 0.6 * step.instance.count
    # The bytes of what is left out are there: peaks are the same, beside the layers that stay.
    assert replay(folded.instance, few).peak_bytes == whole.peak_bytes
    back = folded.lift(few, lambda found: _peak(step.instance, found))
    assert back is not None
    assert (replay(step.instance, back).cost, replay(step.instance, back).peak_bytes) == (whole.cost, whole.peak_bytes)


def test_nodes_that_stay_read_what_is_as_many_layers_away() -> None:
    """a, x and gb at the cut: their inputs in the smaller problem, by name and by layers from their own."""
    step = deep(LAYERS)
    folded = _folded(step.instance, kept(step))
    names = [step.names[node] if node >= 0 else ("bytes", node) for node in folded.nodes]
    layers = sorted({layer for name, layer in names if name == "a"})
    closer = {layer: place for place, layer in enumerate(layers)}
    assert len(layers) <= LAYERS / 2
    for node, (name, layer) in enumerate(names):
        if name in ("a", "b", "gb", "w"):
            sources = [names[source] for source in folded.instance.inputs[node]]
            found = {(kind, closer[at] - closer[layer]) for kind, at in sources if kind in ("a", "b", "gb")}
            assert found == {"a": set(), "b": {("a", 0)}, "gb": {("a", 0)}, "w": {("gb", 0), ("b", 0)}}[name]
    # The last node reads the w of those that stay.
    assert sum(names[source][0] == "w" for source in folded.instance.inputs[-1]) == len(layers)


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_found_is_legal_for_all_layers(order: Order, seed: int) -> None:
    """Searches that make a mess of it, kernels, nodes numbered by lot."""
    step = deep(LAYERS)
    schedule = recomputed(step, LAYERS) if seed % 2 else kept(step)
    lottery = list(range(step.instance.count))
    random.Random(seed).shuffle(lottery)
    place = {node: at for at, node in enumerate(lottery)}
    instance = relabelled(step.instance, tuple(lottery))
    folded = _folded(instance, [place[node] for node in schedule])
    few = folded.restrict([place[node] for node in schedule])
    assert folded.instance.is_in_order
    found = search(folded.instance, 0, Limits(20, 3_000, seed), order, Goal.SMALLEST, few)
    rated: list[int] = []

    def rate(back: tuple[int, ...]) -> tuple[float, ...]:
        # Raises where it is not legal.
        rated.append(replay(instance, back).peak_bytes)
        return (rated[-1],)

    lifted = folded.lift(found.schedule, rate)
    assert (lifted is None) == (not rated)
    if lifted is not None:
        assert replay(instance, lifted).peak_bytes == min(rated)


def test_what_a_few_layers_find_serves_all() -> None:
    """From a plan that keeps b of each layer: a few learn to compute it again where it counts, and with them all 40. In the
    smaller problem b of those left out stays."""
    step = deep(40)
    start = recomputed(step, 40, again=("a",))
    folded = _folded(step.instance, start)
    found = search(folded.instance, 0, Limits(20, 4_000), Order.FIXED, Goal.SMALLEST, folded.restrict(start))
    lifted = folded.lift(found.schedule, lambda back: _peak(step.instance, back))
    assert lifted is not None
    of_few, of_all, before = (
        replay(instance, schedule).peak_bytes
        for instance, schedule in ((folded.instance, found.schedule), (step.instance, lifted), (step.instance, start))
    )
    assert of_all < of_few < before


def test_a_layer_that_differs_is_not_left_out() -> None:
    """Among the layers that would be, nothing is; at the end of them, the others are."""
    step = deep(LAYERS, odd=12)
    assert fold(step.instance, recomputed(step, LAYERS)) is None
    step = deep(LAYERS, odd=20)
    folded = _folded(step.instance, recomputed(step, LAYERS))
    assert ("a", 20) in {step.names[node] for node in folded.nodes if node >= 0}


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
        back = folded.lift(few, lambda found: _peak(instance, found))
        assert back is not None
        replay(instance, back)


def test_few_layers_are_left_as_they_are() -> None:
    step = deep(7)
    assert fold(step.instance, kept(step)) is None


def test_kernels_fold_with_their_nodes() -> None:
    """b writes over a, x is shared, gb needs 5 bytes beside; what holds bytes does nothing of that."""
    plain = deep(LAYERS)
    of_name = {name: [node for node, (kind, _) in enumerate(plain.names) if kind == name] for name in ("b", "x", "gb")}
    scratch = tuple(5 if name == "gb" else 0 for name, _ in plain.names)
    kernels = Kernels(scratch, frozenset(of_name["b"]), frozenset(of_name["x"]))
    folded = _folded(replace(plain.instance, kernels=kernels), kept(plain))
    own = folded.instance.kernels
    assert own is not None
    for node, whole in enumerate(folded.nodes):
        name = plain.names[whole][0] if whole >= 0 else ""
        assert own.scratch_bytes[node] == (5 if name == "gb" else 0)
        assert (node in own.writers) == (name == "b")
        assert (node in own.shared) == (name in ("x", ""))


def _random_step(seed: int) -> Instance:
    """9 to 26 layers of 2 to 5 places, forward and backward, which read each other over up to three layers."""
    draw = random.Random(seed)
    layers, places = draw.randint(9, 26), draw.randint(2, 5)
    reads = [[(place - 1, 0)] if place else [(places - 1, -1)] for place in range(places)]
    for row in reads:
        row += [(draw.randrange(places), -draw.randint(1, 3)) for _ in range(draw.randint(0, 2))]
    nodes: dict[tuple[str, int, int], set[tuple[str, int, int]]] = {}
    for layer in range(layers):
        for place in range(places):
            sources = {("f", at, layer + further) for at, further in reads[place] if layer + further >= 0}
            nodes["f", place, layer] = sources
    for layer in reversed(range(layers)):
        for place in reversed(range(places)):
            known = {("f", at, layer + further) for at, further in reads[place] if layer + further >= 0}
            later = {("g", at, layer - further) for at, row in enumerate(reads) for to, further in row if to == place}
            nodes["g", place, layer] = known | {source for source in later if source in nodes} | {("f", places - 1, layers - 1)}
    number = {name: at for at, name in enumerate(nodes)}
    sizes = {(kind, place): draw.randint(1, 9) for kind in "fg" for place in range(places)}
    named = tuple(tuple(number[source] for source in sorted(row)) for row in nodes.values())
    own = tuple(sizes[kind, place] for kind, place, _ in nodes)
    return make_instance(f"step {seed}", own[::-1], own, named)


def test_random_layers_fold_and_come_back_legal_or_do_not_fold() -> None:
    """The smaller problem is in order, and so is a plan there; whatever is found is legal, and in order where that is asked for."""
    folds = 0
    for seed in range(60):
        instance = _random_step(seed)
        schedule = list(range(instance.count))
        folded = fold(instance, schedule)
        if folded is None:
            continue
        folds += 1
        assert folded.instance.is_in_order
        few = folded.restrict(schedule)
        assert replay(folded.instance, few).keeps_order
        order = list(Order)[seed % 2]
        found = search(folded.instance, 0, Limits(20, 1_000, seed), order, Goal.SMALLEST, few).schedule
        kept_order: list[bool] = []

        def rate(back: tuple[int, ...], instance: Instance = instance, kept_order: list[bool] = kept_order) -> tuple[float, ...]:
            whole = replay(instance, back)
            kept_order.append(whole.keeps_order)
            return (whole.peak_bytes,)

        folded.lift(found, rate, order)
        assert order is Order.FREE or all(kept_order)
    assert folds >= 10


def test_two_directions_are_no_forward_and_backward_but_come_back_in_order() -> None:
    """A recurrent network: x is computed in an order that is not that of its reverse direction.

    x[0..] -> f[0] -> f[1] -> ...      x[0..] -> r[last] -> ... -> r[0]      f[i], r[i] -> o[i]
    """
    steps = 24
    nodes: dict[tuple[str, int], list[tuple[str, int]]] = {("x", i): [] for i in range(steps)}
    nodes |= {("f", i): [("x", i), *([("f", i - 1)] if i else [])] for i in range(steps)}
    nodes |= {("r", i): [("x", i), *([("r", i + 1)] if i < steps - 1 else [])] for i in reversed(range(steps))}
    nodes |= {("o", i): [("f", i), ("r", i)] for i in range(steps)}
    number = {name: at for at, name in enumerate(nodes)}
    own = tuple("xfro".index(kind) + 2 for kind, _ in nodes)
    instance = make_instance("two ways", own, own, tuple(tuple(number[source] for source in row) for row in nodes.values()))
    schedule = list(range(instance.count))
    folded = _folded(instance, schedule)
    found = search(folded.instance, 0, Limits(20, 3_000), Order.FIXED, Goal.SMALLEST, folded.restrict(schedule)).schedule
    for order, in_order in ((Order.FREE, False), (Order.FIXED, True)):
        lifted = folded.lift(found, lambda back: _peak(instance, back), order)
        assert lifted is not None
        assert replay(instance, lifted).keeps_order == in_order
