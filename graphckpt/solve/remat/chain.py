"""A chain of equal layers by dynamic programming: what each of them does in backward, so that all fit at the least cost.

Backward comes to layer n - 1 first and to layer 0 last. A layer that is done in way k costs c[k], keeps h[k] bytes from forward
until backward comes to it, and needs p[k] bytes meanwhile, beside what the layers below it keep and those above have left, g bytes
each. With k(l) the way of layer l, B the budget, H(l) = h[k(0)] + ... + h[k(l - 1)] what is kept below it, and b, t, e what is
there beside (`Chain` names them):

    minimise  sum over l of c[k(l)]     such that     b + H(l) + g (n - 1 - l) + p[k(l)] <= B  for all l
                                                      t + H(n) <= B,   e + g n <= B

Layers are taken from below; a state is (H, cost so far), and one that has neither less than another goes. Exact for these sums, up
to `MOST_STATES` states a layer; of more, some are left out, and what is found still fits. That a layer takes as much whatever those
beside it do is the assumption. What Rotor does for a chain of layers that differ
(Beaumont et al., "Optimal checkpointing for heterogeneous chains", 2019) has the sequence in which they are computed again as part
of the problem; here the ways are given, and were found by a search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Kind(NamedTuple):
    """A way to do a layer: c, h and p of the module's docstring."""

    cost: int
    held_bytes: int
    peak_bytes: int


class Chain(NamedTuple):
    """n, g, b, t and e of the module's docstring."""

    layer_count: int
    left_bytes: int
    beside_bytes: int
    top_bytes: int
    end_bytes: int


MOST_STATES = 1024

# Held below, cost so far, the kind of the layer just taken, and its state below.
_State = tuple[int, int, int, int]


def cheapest(chain: Chain, kinds: Sequence[Kind], budget_bytes: int) -> tuple[int, ...] | None:
    """For each layer the index of its kind, so that all cost the least within the budget; None where nothing fits."""
    if chain.end_bytes + chain.left_bytes * chain.layer_count > budget_bytes:
        return None
    useful = [(kind, *kinds[kind]) for kind in _undominated(kinds)]
    fronts: list[list[_State]] = [[(0, 0, -1, -1)]]
    for layer in range(chain.layer_count):
        room_bytes = budget_bytes - chain.beside_bytes - chain.left_bytes * (chain.layer_count - 1 - layer)
        states = [
            (held_bytes + more_bytes, cost + more_cost, kind, below)
            for kind, more_cost, more_bytes, peak_bytes in useful
            for below, (held_bytes, cost, _, _) in enumerate(fronts[-1])
            if held_bytes + peak_bytes <= room_bytes
        ]
        fronts.append(_thinned(_front(states)))
    fitting = [state for state in fronts[-1] if chain.top_bytes + state[0] <= budget_bytes]
    if not fitting:
        return None
    chosen = []
    _, _, kind, below = min(fitting, key=lambda state: state[1])
    for front in reversed(fronts[:-1]):
        chosen.append(kind)
        _, _, kind, below = front[below]
    return tuple(reversed(chosen))


def _undominated(kinds: Sequence[Kind]) -> list[int]:
    """The kinds that no other, or equal earlier one, is at least as good as in everything."""
    useful: list[int] = []
    for index in sorted(range(len(kinds)), key=lambda index: kinds[index]):
        if not any(all(a <= b for a, b in zip(kinds[other], kinds[index], strict=True)) for other in useful):
            useful.append(index)
    return useful


def _front(states: list[_State]) -> list[_State]:
    """The states of which no other has less of both, by what they hold."""
    front: list[_State] = []
    for state in sorted(states):
        if not front or state[1] < front[-1][1]:
            front.append(state)
    return front


def _thinned(front: list[_State]) -> list[_State]:
    """Of too many states the one that holds least, and evenly of the others up to the cheapest."""
    if len(front) <= MOST_STATES:
        return front
    last = len(front) - 1
    return [front[last * place // (MOST_STATES - 1)] for place in range(MOST_STATES)]
