"""Fewer layers: the smaller problem, the bytes of what is left out, and what does not fold. The way back is in test_lift.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphckpt.solve.remat.fold import fold
from graphckpt.solve.remat.instance import Kernels, make_instance
from graphckpt.solve.remat.replay import replay
from tests.solve.remat.deep import deep, kept, must_fold, random_step, recomputed

LAYERS = 24


@pytest.mark.parametrize("policy", ["kept", "recomputed"])
def test_the_bytes_of_what_is_left_out_are_there(policy: str) -> None:
    """Peaks are the same, beside the layers that stay."""
    step = deep(LAYERS)
    schedule = kept(step) if policy == "kept" else recomputed(step, LAYERS)
    folded = must_fold(step.instance, schedule)
    assert folded.instance.count < 0.6 * step.instance.count
    few, whole = folded.restrict(schedule), replay(step.instance, schedule)
    assert replay(folded.instance, few).peak_bytes == whole.peak_bytes


def test_a_schedule_without_some_layers_is_in_the_order_of_the_nodes() -> None:
    """h[i], one of a chain beside the layers, is computed again right before each w[i]: of the first copies many are read by what
    is left out alone, and stay all the same.

    x[i] -> a[i] -> x[i+1]     g[i+1], a[i] -> gb[i] -> g[i]     h[i+1], gb[i] -> h[i]     h[i] -> w[i]
    """
    nodes: dict[tuple[str, int], list[tuple[str, int]]] = {("x", 0): []}
    for i in range(LAYERS):
        nodes |= {("a", i): [("x", i)], ("x", i + 1): [("a", i), ("x", i)]}
    nodes |= {("g", LAYERS): [("x", LAYERS)], ("h", LAYERS): [("g", LAYERS)]}
    for i in reversed(range(LAYERS)):
        nodes |= {("gb", i): [("g", i + 1), ("a", i)], ("h", i): [("h", i + 1), ("gb", i)], ("g", i): [("gb", i), ("g", i + 1)]}
        if i < LAYERS - 1:
            nodes["w", i + 1] = [("h", i + 1), ("a", i + 1)]
    nodes["end", 0] = [("g", 0), *(("w", i) for i in range(1, LAYERS))]
    number = {name: at for at, name in enumerate(nodes)}
    size_bytes = tuple({"a": 4, "gb": 3}.get(kind, 2) for kind, _ in nodes)
    instance = make_instance("chains", size_bytes, size_bytes, tuple(tuple(number[s] for s in row) for row in nodes.values()))
    schedule = []
    for name, node in number.items():
        schedule += [number["h", name[1]], node] if name[0] == "w" else [node]
    folded = must_fold(instance, schedule)
    few = folded.restrict(schedule)
    assert replay(folded.instance, few).computations == 2
    assert replay(folded.instance, few).keeps_order


def test_nodes_that_stay_read_what_is_as_many_layers_away() -> None:
    """a, x and gb at the cut: their inputs in the smaller problem, by name and by layers from their own."""
    step = deep(LAYERS)
    folded = must_fold(step.instance, kept(step))
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


def test_a_layer_that_differs_is_not_left_out() -> None:
    """Among the layers that would be, nothing is; at the end of them, the others are."""
    step = deep(LAYERS, odd=12)
    assert fold(step.instance, recomputed(step, LAYERS)) is None
    step = deep(LAYERS, odd=20)
    folded = must_fold(step.instance, recomputed(step, LAYERS))
    assert ("a", 20) in {step.names[node] for node in folded.nodes if node >= 0}


def test_few_layers_are_left_as_they_are() -> None:
    step = deep(7)
    assert fold(step.instance, kept(step)) is None


def test_kernels_fold_with_their_nodes() -> None:
    """b writes over a, x is shared, gb needs 5 bytes beside; what holds bytes does nothing of that."""
    plain = deep(LAYERS)
    of_name = {name: [node for node, (kind, _) in enumerate(plain.names) if kind == name] for name in ("b", "x", "gb")}
    scratch = tuple(5 if name == "gb" else 0 for name, _ in plain.names)
    kernels = Kernels(scratch, frozenset(of_name["b"]), frozenset(of_name["x"]))
    folded = must_fold(replace(plain.instance, kernels=kernels), kept(plain))
    own = folded.instance.kernels
    assert own is not None
    for node, whole in enumerate(folded.nodes):
        name = plain.names[whole][0] if whole >= 0 else ""
        assert own.scratch_bytes[node] == (5 if name == "gb" else 0)
        assert (node in own.writers) == (name == "b")
        assert (node in own.shared) == (name in ("x", ""))


def test_random_layers_fold_in_order_or_do_not_fold() -> None:
    """The smaller problem is in order, and so is a plan there; bytes of what is left out are never fewer than none."""
    folds = 0
    for seed in range(60):
        instance = random_step(seed)
        schedule = list(range(instance.count))
        folded = fold(instance, schedule)
        if folded is not None:
            folds += 1
            assert folded.instance.is_in_order
            assert replay(folded.instance, folded.restrict(schedule)).keeps_order
    assert folds >= 10


