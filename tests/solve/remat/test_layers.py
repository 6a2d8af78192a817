"""Equal layers by hashing: found whatever nodes are numbered, and only where they are equal."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from graphckpt.solve.remat.instance import Instance, Kernels, relabelled
from graphckpt.solve.remat.layers import Layers, colours, equal_layers
from tests.solve.remat.deep import Deep, deep
from tests.solve.remat.problems import random_instance


def _shuffled(step: Deep, seed: int) -> Deep:
    order = list(range(step.instance.count))
    random.Random(seed).shuffle(order)
    return Deep(relabelled(step.instance, tuple(order)), tuple(step.names[node] for node in order))


def _rows(step: Deep, layers: Layers) -> list[list[tuple[str, int]]]:
    return [[step.names[node] for node in row] for row in layers.nodes]


@pytest.mark.parametrize("seed", range(6))
def test_layers_are_found_whatever_nodes_are_numbered(seed: int) -> None:
    """20 layers: each row is one name, of layers that follow each other; forward and backward of a layer are together."""
    step = _shuffled(deep(20), seed)
    layers = equal_layers(step.instance)
    assert layers is not None
    assert layers.layer_count >= 16
    for row in _rows(step, layers):
        assert len({name for name, _ in row}) == 1
        first = row[0][1]
        assert [layer for _, layer in row] == list(range(first, first + layers.layer_count))
    assert {row[0][0] for row in _rows(step, layers)} == {"x", "a", "b", "gb", "w", "g"}
    for place, row in enumerate(layers.nodes):
        for layer, node in enumerate(row):
            assert layers.of[node] == (layer, place)
    assert sum(found is not None for found in layers.of) == 6 * layers.layer_count


@pytest.mark.parametrize(
    "change",
    [
        {"cost": (1, 2)},
        {"size_bytes": (3, 4)},
        {"once": frozenset({1})},
        {"kernels": Kernels((0, 8), frozenset(), frozenset())},
        {"kernels": Kernels((0, 0), frozenset({1}), frozenset())},
        {"kernels": Kernels((0, 0), frozenset(), frozenset({1}))},
    ],
)
def test_whatever_tells_nodes_apart_tells_colours_apart(change: dict[str, Any]) -> None:
    """Two nodes that nobody reads."""
    alike = Instance("two", (1, 1), (3, 3), ((), ()), frozenset(), Kernels((0, 0), frozenset(), frozenset()))
    assert colours(alike, 1) == [0, 0]
    assert colours(replace(alike, **change), 0) == [0, 1]


def test_where_there_are_no_layers_none_are_found() -> None:
    for seed in range(40):
        assert equal_layers(random_instance(seed, 40)) is None
    assert equal_layers(deep(3).instance) is None
