"""One random row: a model, and a budget somewhere between the smallest that is promised and what no budget needs.

Enters: a config and `ours:share=0.37`. Leaves: a `SpotRow`: the peak of a step on a batch never seen, and the gradients of the
first step against those of the same backend without a budget. The budget is the share of the way from `LEAST` times the smallest
peak, which the backend names when it refuses a budget of one byte, to the peak without a budget.
Not guaranteed: that a model of several graphs is refused for the one that needs most; the models of the rig are one graph each.
"""

from __future__ import annotations

import random
from dataclasses import replace
from math import ceil

from benchmarks.configs import DROPOUTS, FAMILIES, Family, ModelConfig, default_config, make_batch
from benchmarks.gradients import difference_ratio, first_step
from benchmarks.measure import unseen_step_memory
from benchmarks.modelled import record_kernels
from benchmarks.prediction import read_predictions
from benchmarks.record import SpotRow
from benchmarks.ways import SHARE, Way, WayError, ours, without_budget

# Budgets are promised from here on, in terms of the smallest peak.
LEAST = 1.02
LAYERS = (2, 12)
WIDTHS = (128, 192, 256, 384)
SEQUENCES = (64, 96, 128, 192, 256, 320)
BATCHES = (1, 2, 4)
# One row in four is at the smallest budget that is promised.
TIGHTEST = 0.25


def measure_spot(config: ModelConfig, way: Way) -> SpotRow:
    """Train without a budget, ask for the smallest, train inside the budget that follows."""
    share = way.option(SHARE)
    if not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise WayError(f"{SHARE}: wanted a number from 0 to 1, got {share!r}; write ours:{SHARE}=0.37")
    # A cached graph would skip the partitioner, and with it the plan that is on trial.
    with record_kernels():
        return _measured(config, without_budget(way), share)


def _measured(config: ModelConfig, free: Way, share: float) -> SpotRow:
    reference = first_step(config, free)
    reference_gradients = reference.gradients()
    unbudgeted_bytes = max(graph.unbudgeted_peak_bytes for graph in read_predictions(free))
    smallest_bytes = refused_bytes(config, free)
    budget_bytes = drawn_budget_bytes(smallest_bytes, unbudgeted_bytes, share)
    known = len(read_predictions(free))
    first = first_step(config, _within(free, budget_bytes))
    ratio = difference_ratio(first.gradients(), reference_gradients)
    memory, _ = unseen_step_memory(first.run, first.model, lambda seed: make_batch(config, seed))
    largest = max(read_predictions(free)[known:], key=lambda graph: graph.peak_bytes)
    return SpotRow(
        smallest_bytes=smallest_bytes,
        unbudgeted_bytes=unbudgeted_bytes,
        budget_bytes=budget_bytes,
        predicted_bytes=largest.peak_bytes,
        peak_bytes=memory.peak_bytes,
        difference_ratio=ratio,
        loss=first.loss,
        reference_loss=reference.loss,
        plan=largest.plan,
    )


def drawn_budget_bytes(smallest_bytes: int, unbudgeted_bytes: int, share: float) -> int:
    """The budget at this share of the way; where even the smallest promised one is above, that one."""
    least_bytes = ceil(LEAST * smallest_bytes)
    return least_bytes + max(0, round(share * (unbudgeted_bytes - least_bytes)))


def refused_bytes(config: ModelConfig, free: Way) -> int:
    """The smallest peak the backend names when ``free``, which has no budget, is asked for one byte."""
    try:
        first_step(config, _within(free, 1))
    except Exception as error:
        # Dynamo wraps what a backend raises.
        named = getattr(getattr(error, "inner_exception", error), "smallest_bytes", None)
        if not isinstance(named, int):
            raise
        return named
    raise RuntimeError("wanted a refusal of a budget of one byte, got a step; the backend does not keep its budgets")


def _within(free: Way, budget_bytes: int) -> Way:
    return ours(**dict(free.options), activation_budget=budget_bytes)


def drawn_rows(count: int, seed: int = 0) -> list[tuple[ModelConfig, Way]]:
    """Configs of all families and the ways to run them, no two alike, the same for the same seed."""
    draw = random.Random(seed)
    found: dict[tuple[ModelConfig, Way], None] = {}
    while len(found) < count:
        found[_drawn(draw)] = None
    return list(found)


def _drawn(draw: random.Random) -> tuple[ModelConfig, Way]:
    # Every draw is made whatever the family, so that one row does not change the next.
    family = draw.choice(FAMILIES)
    attention, layers, width = draw.choice(("eager", "sdpa")), draw.randint(*LAYERS), draw.choice(WIDTHS)
    sequence, batch, dropout = draw.choice(SEQUENCES), draw.choice(BATCHES), draw.choice(DROPOUTS)
    share, is_tightest = draw.random(), draw.random() < TIGHTEST
    config = replace(default_config(family), batch=batch)
    if family is Family.RESNET:
        config = replace(config, dtype="fp64")
    else:
        config = replace(config, attention=attention, layers=layers, width=width, sequence=sequence, dropout=dropout)
    return config, ours(**{SHARE: 0.0 if is_tightest else round(share, 3)})
