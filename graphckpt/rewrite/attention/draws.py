"""What an attention's dropout draws with: its probability, and a call that draws a seed, written where the dropout stood."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from graphckpt.compat.ops import SEED
from graphckpt.rewrite.attention.no_match import NoMatch

SeedWriter = Callable[[fx.Graph, torch.device], fx.Node]
# Seeds that aten draws are below this.
_SEEDS = 2**31 - 1


def seed_of_inductor(graph: fx.Graph, device: torch.device) -> fx.Node:
    """A seed as Inductor makes one for each random call that it generates code for."""
    return graph.call_function(SEED, (device,))


def seed_of_aten(graph: fx.Graph, device: torch.device) -> fx.Node:
    """A seed for graphs that Inductor does not compile: AOTAutograd merges equal calls, but for those of aten that are random."""
    return graph.call_function(torch.randint, (0, _SEEDS, ()), {"dtype": torch.int64, "device": device})


def probability_in(dtype: torch.dtype, probability: float) -> float:
    """A probability of dropout as it is compared with drawn numbers: in the type of what is dropped.

    Raises:
        NoMatch: everything is dropped; torch draws nothing then.
    """
    if probability >= 1:
        raise NoMatch("all of its weights are dropped")
    return float(torch.tensor(probability, dtype=dtype))
