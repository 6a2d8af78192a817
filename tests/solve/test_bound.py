"""The bound on times: by hand on one drawn graph, and against random plans of random graphs (`tests.solve.decisions`). Against the
fastest plans there are it is held in `tests.solve.test_brute_force`.

    x --mm--> h --exp--> e --square--> loss         again: h 10, e 4 microseconds, the others 1
    |                                               h has 8 MB, e 4, m 1, t 2, loss and g none
    '--lt--> m                                      g reads t, h, e and m

h and e saved, 12 MB, nothing is computed again; h alone, 8 MB for 4; nothing, 0 MB for 14. e alone, 4 MB for 10, is above the line
between the last two. m is made for backward alone: there it costs nothing.
"""

import math
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import pytest

from graphckpt.errors import PlanError
from graphckpt.ir.check import check_plan
from graphckpt.ir.graph import Graph, Phase
from graphckpt.ir.peak import timeline
from graphckpt.ir.plan import Plan
from graphckpt.ir.text import parse
from graphckpt.solve import bound
from graphckpt.solve.bound import TimeBound, bound_times
from graphckpt.solve.demand import Demand
from graphckpt.solve.frontier import Ranked, Ranker
from tests.graphs import random_plan
from tests.solve.decisions import ELEMENT, SavingCase, random_saving

MB = 1_000_000
# What whole picoseconds may take from the bound, of a few values.
CUT_US = 1e-4
TEXT = """
s0 8B external
s1 8000000B
s2 4000000B
s3 0B
s4 1000000B
s5 2000000B
s6 0B
%0 x = input placeholder() @fwd s0
%1 h = compute mm(%0) @fwd s1
%2 e = compute exp(%1) @fwd s2 fusible
%3 loss = compute square(%2) @fwd s3 fusible
%4 m = compute lt(%0) @fwd s4 fusible
%5 t = tangent placeholder() @bwd s5
%6 g = compute mul(%5, %1, %2, %4) @bwd s6
forward_outputs %3
backward_outputs %6
"""
GRAPH = parse(TEXT)
STOCK = Plan("stock", (1, 2, 3, 4), (6,))
AGAIN_US = [0.0, 10.0, 4.0, 1.0, 1.0, 0.0, 1.0]


def _bound(graph: Graph = GRAPH, stock: Plan = STOCK, write_us: Sequence[float] = (0.0,) * 7) -> TimeBound:
    return bound_times(graph, stock, 100.0, [True] * 7, AGAIN_US, write_us)


def _with(name: str, **changes: str) -> Graph:
    return replace(GRAPH, ops=tuple(replace(op, **changes) if op.name == name else op for op in GRAPH.ops))


def _times(found: TimeBound, *peaks_mb: float) -> list[float]:
    return [found.time_us(peak_mb * MB) for peak_mb in peaks_mb]


def test_by_hand() -> None:
    """With 2 MB of tangents: the vertices, half way between, below the third plan (6 MB: 10, and no less than 9), and far above."""
    found = _bound()
    assert _times(found, 14, 10, 2) == pytest.approx([100, 104, 114], abs=CUT_US)
    assert _times(found, 12, 6, 1000) == pytest.approx([102, 109, 100], abs=CUT_US)
    assert _times(found, 1.999) == [math.inf]
    assert found.least_peak_bytes == 2 * MB


def test_what_stock_pays_is_not_what_every_plan_pays() -> None:
    """Stock computes e again for 4, or writes it for 3: a plan may do without."""
    again = Plan("again", STOCK.forward, (2, 6))
    assert _times(_bound(stock=again), 14, 10) == pytest.approx([96, 100], abs=CUT_US)
    writes = [0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0]
    assert _times(_bound(write_us=writes), 14, 10) == pytest.approx([100, 101], abs=CUT_US)
    assert _times(_bound(stock=again, write_us=writes), 14, 10) == pytest.approx([99, 100], abs=CUT_US)


def test_nothing_is_there_for_nothing() -> None:
    """h may run only once: it is saved, and its 8 MB count. The user's wishes change nothing, a plan need not follow them."""
    pinned = _bound(_with("h", pinned="random"))
    assert pinned.least_peak_bytes == 10 * MB
    assert _times(pinned, 14, 10, 9.999) == pytest.approx([100, 104, math.inf], abs=CUT_US)
    assert _bound(_with("h", tag="save")) == _bound(_with("e", tag="recompute")) == _bound()


def test_what_only_backward_needs_is_free_there() -> None:
    """m for g alone, whether stock's forward computes it or not; were it made for the loss, it would cost 1 more, or 1 MB."""
    late = Plan("late", (1, 2, 3), (4, 6))
    assert _bound(stock=late) == _bound()
    needed = replace(GRAPH, forward_outputs=(3, 4))
    assert _times(_bound(needed), 15, 14) == pytest.approx([100, 101], abs=CUT_US)


def test_lines_are_ever_steeper_and_the_first_is_level() -> None:
    found = _bound()
    prices = [line.price_us_per_byte for line in found.lines]
    assert prices == pytest.approx([0.0, 1e-6, 1.25e-6])
    assert [line.at(line.peak_bytes) for line in found.lines] == [line.time_us for line in found.lines]


def test_without_a_backward_pass_there_are_no_tangents() -> None:
    """Backward hands out h, which forward returns too: a plan may have no step there."""
    graph = replace(GRAPH, backward_outputs=(1,))
    found = _bound(graph, Plan("stock", (1, 2, 3), ()))
    assert found.least_peak_bytes == 0
    assert _times(found, 8, 0) == pytest.approx([100, 110], abs=CUT_US)


def test_times_below_a_picosecond_do_not_lift_it() -> None:
    """Writing h takes 0.4, computing it again 0.3: to the cut it is all the same."""
    writes, again_us = [0.0, 4e-7, *[0.0] * 5], [0.0, 3e-7, *[0.0] * 5]
    found = bound_times(GRAPH, STOCK, 4e-7, [True] * 7, again_us, writes)
    assert found.time_us(14 * MB) <= 3e-7


@pytest.mark.parametrize(("target", "least_mb"), [(ELEMENT, 8), ("aten.view", 0)])
def test_elements_share_a_storage_and_a_view_may_hold_part_of_a_value(target: str, least_mb: int) -> None:
    """x -> pair (runs once) of 8 and 16 MB; left and right, both views of the first 8, are read in backward: 8 MB are saved."""
    graph = parse(f"""
        s0 8B external
        s1 8000000B
        s2 16000000B
        s3 0B
        s4 0B
        %0 x = input placeholder() @fwd s0
        %1 pair = compute draw(%0) @fwd s1 s2 pinned="random"
        %2 left = alias "{target}"(%1) @fwd s1
        %3 right = alias "{target}"(%1) @fwd s1
        %4 t = tangent placeholder() @bwd s3
        %5 g = compute mul(%4, %2, %3) @bwd s4
        forward_outputs %1
        backward_outputs %5
    """)
    stock, nothing = Plan("stock", (1, 2, 3), (5,)), [0.0] * 6
    assert timeline(replace(graph, forward_outputs=()), stock).backward_peak_bytes == 8 * MB
    assert bound_times(graph, stock, 100.0, [True] * 6, nothing, nothing).least_peak_bytes == least_mb * MB


def _plans(rng: random.Random, case: SavingCase) -> list[Plan]:
    """Random legal ones that compute what stock's backward does, and some that follow from sets of saved values."""
    late = [index for index in case.stock.backward if case.graph.ops[index].phase is Phase.BACKWARD]
    plans = [case.stock, *(random_plan(rng, case.graph) for _ in range(6))]
    demand, segments = Demand(case.graph), [0] * len(case.graph.ops)
    for share in (0.0, 0.3, 0.6, 1.0):
        saved = [index for index in range(len(case.graph.ops)) if rng.random() < share]
        with suppress(PlanError):
            plan = demand.plan("demand", saved, segments, late)
            check_plan(case.graph, plan)
            plans.append(plan)
    return [plan for plan in plans if {*late} <= {*plan.backward}]


@pytest.mark.parametrize("resolution", [0.0, 1 / 64, 1.0])
def test_no_plan_is_below(monkeypatch: pytest.MonkeyPatch, resolution: float) -> None:
    """400 random graphs with views, tuples, wishes, pinned operations and values without a buffer: thousands of plans are on the
    bound or above, whatever prices are looked for."""
    monkeypatch.setattr(bound, "_RESOLUTION", resolution)
    seen, met = 0, 0
    for seed in range(400):
        case, rng = random_saving(seed), random.Random(seed)
        materialised = [not (op.fusible and rng.random() < 0.5) for op in case.graph.ops]
        model = (case.graph, case.stock, 1000.0, materialised, case.again_us, case.write_us)
        found, ranker = bound_times(*model), Ranker(*model)
        ranked: list[Ranked] = [ranker.rank(plan) for plan in _plans(rng, case)]
        margins = [entry.time_us - found.time_us(entry.estimated_peak_bytes) for entry in ranked]
        assert min(margins) >= 0
        seen, met = seen + len(ranked), met + sum(margin_us < CUT_US for margin_us in margins)
    assert seen > 1500
    assert met > 200
