"""The chain of layers, against all sequences of kinds.

    layer 0 (backward comes to it last) .. layer n - 1 (first)      each: a kind, which costs, keeps and takes something
"""

from __future__ import annotations

import random
from itertools import product

import pytest

from graphckpt.solve.remat import chain as chain_module
from graphckpt.solve.remat.chain import Chain, Kind, cheapest


def _peak(chain: Chain, kinds: list[Kind], chosen: tuple[int, ...]) -> int:
    """The module's formula, written out."""
    taken = [kinds[kind] for kind in chosen]
    peaks = [chain.top_bytes + sum(kind.held_bytes for kind in taken), chain.end_bytes + chain.left_bytes * len(taken)]
    for layer, kind in enumerate(taken):
        below, above = sum(other.held_bytes for other in taken[:layer]), chain.left_bytes * (len(taken) - 1 - layer)
        peaks.append(chain.beside_bytes + below + above + kind.peak_bytes)
    return max(peaks)


def _random(seed: int, layers: int, most_kinds: int) -> tuple[Chain, list[Kind]]:
    draw = random.Random(seed)
    kinds = [Kind(draw.randint(1, 9), draw.randint(0, 9), draw.randint(0, 20)) for _ in range(draw.randint(1, most_kinds))]
    return Chain(layers, draw.randint(0, 5), draw.randint(0, 9), draw.randint(0, 15), draw.randint(0, 15)), kinds


@pytest.mark.parametrize("seed", range(60))
def test_no_sequence_of_kinds_is_cheaper(seed: int) -> None:
    chain, kinds = _random(seed, layers=1 + seed % 5, most_kinds=4)
    sequences = list(product(range(len(kinds)), repeat=chain.layer_count))
    peaks = {chosen: _peak(chain, kinds, chosen) for chosen in sequences}
    for budget_bytes in sorted({*peaks.values(), min(peaks.values()) - 1}):
        found = cheapest(chain, kinds, budget_bytes)
        costs = [sum(kinds[kind].cost for kind in chosen) for chosen in sequences if peaks[chosen] <= budget_bytes]
        if not costs:
            assert found is None
            continue
        assert found is not None
        assert peaks[found] <= budget_bytes
        assert sum(kinds[kind].cost for kind in found) == min(costs)


def test_layers_at_the_top_take_what_those_below_leave() -> None:
    """To keep is free and takes 3 bytes a layer, to compute again costs 1 and takes 1: of 4 layers as many keep as fit."""
    kinds = [Kind(cost=1, held_bytes=1, peak_bytes=5), Kind(cost=0, held_bytes=3, peak_bytes=5)]
    chain = Chain(layer_count=4, left_bytes=0, beside_bytes=0, top_bytes=0, end_bytes=0)
    counts = [sum(cheapest(chain, kinds, budget_bytes) or ()) for budget_bytes in range(8, 15)]
    assert counts == [1, 1, 2, 2, 3, 3, 4]


def test_more_states_than_are_kept_leave_a_sequence_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_module, "MOST_STATES", 3)
    for seed in range(40):
        chain, kinds = _random(seed, layers=12, most_kinds=6)
        smallest = min(_peak(chain, kinds, (kind,) * chain.layer_count) for kind in range(len(kinds)))
        for budget_bytes in (smallest, smallest + 5, smallest + 20):
            found = cheapest(chain, kinds, budget_bytes)
            assert found is not None
            assert _peak(chain, kinds, found) <= budget_bytes
