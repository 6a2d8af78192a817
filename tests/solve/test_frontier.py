"""The frontier of hand-made figures: what is kept, and what a plan is ranked by."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from graphckpt.ir import peak
from graphckpt.ir.plan import Plan
from graphckpt.ir.text import parse
from graphckpt.solve.frontier import Ranked, Ranker, pareto
from tests.solve.chains import chain


def test_pareto_keeps_what_no_faster_plan_beats() -> None:
    """Slower and larger (b), faster than stock (e): out; two of one time: the smaller stays. As small as the smallest, and slower
    (d): it saves the least, and the model cannot tell which of the two is smaller."""
    figures = {"stock": (100, 10.0), "a": (80, 11.0), "b": (90, 12.0), "c": (50, 13.0), "c2": (40, 13.0)}
    figures |= {"d": (40, 14.0), "e": (30, 9.0), "f": (20, 10.0)}
    ranked = [Ranked(Plan(name, (), ()), peak, time) for name, (peak, time) in figures.items()]
    assert [entry.plan.name for entry in pareto(ranked[:1], ranked[1:])] == ["stock", "f"]
    assert [entry.plan.name for entry in pareto(ranked[:1], ranked[1:-1])] == ["stock", "a", "c2", "d"]
    assert pareto(ranked[:1]) == tuple(ranked[:1])


def test_the_smallest_plan_is_kept_however_little_it_gains() -> None:
    """Of 1024 bytes, 2 are too few for b (999), not for c, and the last one, d, needs one less. If d is illegal, b is the last."""
    figures = {"stock": (1024, 10.0), "a": (1000, 11.0), "b": (999, 12.0), "c": (900, 13.0), "d": (899, 14.0)}
    ranked = [Ranked(Plan(name, (), ()), peak, time) for name, (peak, time) in figures.items()]
    assert [entry.plan.name for entry in pareto(ranked[:1], ranked[1:])] == ["stock", "a", "c", "d"]
    assert [entry.plan.name for entry in pareto(ranked)] == ["stock", "a", "b", "c", "d"]
    assert [entry.plan.name for entry in pareto(ranked[:1], ranked[1:3])] == ["stock", "a", "b"]
    without_d = [*ranked[:2], ranked[4], ranked[2]]
    assert [entry.plan.name for entry in pareto(without_d[:1], without_d[1:], lambda plan: plan.name != "d")] == ["stock", "a", "b"]


@given(
    st.lists(st.tuples(st.integers(0, 100) | st.integers(99_000, 100_000), st.integers(0, 20)), min_size=1, max_size=30),
    st.integers(1, 30),
)
def test_pareto_is_monotone(figures: list[tuple[int, int]], count: int) -> None:
    """Stock first whatever it costs; then time goes up and peak goes down. A policy that was left out is beaten by something kept,
    and so is another plan, but for what is below notice: a 512th of stock's peak."""
    ranked = [Ranked(Plan(str(i), (), ()), peak, time) for i, (peak, time) in enumerate(figures)]
    kept = pareto(ranked[:count], ranked[count:])
    assert kept[0] == ranked[0]
    for fast, slow in pairwise(kept):
        assert fast.time_us <= slow.time_us
        assert fast.estimated_peak_bytes > slow.estimated_peak_bytes or (slow is kept[-1] and fast is not kept[0])
        assert fast.estimated_peak_bytes >= slow.estimated_peak_bytes
    for place, entry in enumerate(ranked):
        notice_bytes = ranked[0].estimated_peak_bytes / 512 if place >= count else 0
        enough_bytes = entry.estimated_peak_bytes + notice_bytes
        beaten = (k.time_us <= entry.time_us and k.estimated_peak_bytes <= enough_bytes for k in kept)
        assert entry.time_us < ranked[0].time_us or any(beaten)
    slower = [entry.estimated_peak_bytes for entry in ranked if entry.time_us >= ranked[0].time_us]
    assert kept[-1].estimated_peak_bytes == min(slower)


def test_legality_is_asked_only_of_what_would_be_kept() -> None:
    """a is refused, so b (slower and larger than a, smaller than stock) is asked and kept; c is beaten by b, and never asked."""
    figures = {"stock": (100, 10.0), "a": (80, 11.0), "b": (90, 12.0), "c": (95, 13.0), "d": (70, 14.0), "e": (10, 9.0)}
    ranked = [Ranked(Plan(name, (), ()), peak, time) for name, (peak, time) in figures.items()]
    asked = []

    def admits(plan: Plan) -> bool:
        asked.append(plan.name)
        return plan.name != "a"

    assert [entry.plan.name for entry in pareto(ranked[:1], ranked[1:], admits)] == ["stock", "b", "d"]
    assert asked == ["a", "b", "d"]


def test_a_plan_is_priced_by_what_it_recomputes_beyond_stock() -> None:
    """x -> h0 -> a0 -> h1 -> a1; h0 again costs 7, the mask that stock itself repeats costs nothing more."""
    case = chain(2)
    mask, h0 = case.number["mask"], case.number["h0"]
    stock = Plan("stock", case.keep.forward, (mask, *case.keep.backward))
    again = Plan("again", case.keep.forward, (mask, h0, *case.keep.backward))
    prices = [0.0] * len(case.graph.ops)
    prices[mask], prices[h0] = 3.0, 7.0
    everything = [True] * len(case.graph.ops)
    ranker = Ranker(case.graph, stock, 50.0, everything, prices, [0.0] * len(prices))
    ranked = [ranker.rank(plan) for plan in (stock, again, case.keep)]
    assert [entry.time_us for entry in ranked] == [50.0, 57.0, 47.0]
    assert [entry.plan for entry in ranked] == [stock, again, case.keep]
    assert [e.estimated_peak_bytes for e in ranked] == [peak.timeline(case.graph, e.plan).peak_bytes for e in ranked]
    live = peak.timeline(case.graph, again).live_bytes
    assert ranker.room_bytes(again, min(live)) == [0] * len(live)
    assert ranker.room_bytes(again, max(live) + 1.5) == [max(live) + 1 - step for step in live]


def test_an_input_laid_out_anew_is_there_from_backwards_first_step_to_its_last_reader() -> None:
    """x -> h0 -> a0 -> h1 -> a1: a copy of x has 1000 bytes, and w0, the gradient of the first weight, reads it last."""
    case = chain(2)
    free, ample = [0.0] * len(case.graph.ops), 10**6
    everything = [True] * len(case.graph.ops)
    plain = Ranker(case.graph, case.keep, 50.0, everything, free, free).room_bytes(case.keep, ample)
    copied = Ranker(case.graph, case.keep, 50.0, everything, free, free, {case.number["x"]: 1000}).room_bytes(case.keep, ample)
    added = [without - left for without, left in zip(plain, copied, strict=True)]
    last = len(case.keep.forward) + case.keep.backward.index(case.number["w0"])
    assert added == [1000 * (len(case.keep.forward) <= step <= last) for step in range(len(added))]


FOLDED = parse("""
s0 8B external
s1 128B
s2 64B
s3 4B
s4 4B
s5 4B
%0 x = input placeholder() @fwd s0
%1 h = compute mm(%0) @fwd s1
%2 a = compute exp(%1) @fwd s2 fusible
%3 v = alias view(%2) @fwd s2
%4 y = compute mm(%3) @fwd s3
%5 t = tangent placeholder() @bwd s4
%6 g = compute mm(%5, %3) @bwd s5
forward_outputs %4
backward_outputs %6
""")
# Writing a costs 5; a view is not written, whatever the figures say.
WRITE_US = [0.0, 0.0, 5.0, 1000.0, 0.0, 0.0, 0.0]


def test_a_saved_value_that_stock_folds_gets_a_buffer_and_is_written() -> None:
    """x -> h -> a -> v -> y, a folded into its reader, v a view of it; backward reads v.

    Stock computes a and v again from h (128 bytes), which lives on. Saving v is saving a, 64 bytes; both are there while a is made.
    """
    stock, saves = Plan("stock", (1, 2, 3, 4), (2, 3, 6)), Plan("saves", (1, 2, 3, 4), (6,))
    folded = [index != 2 for index in range(len(FOLDED.ops))]
    ranker = Ranker(FOLDED, stock, 50.0, folded, [0.0] * len(FOLDED.ops), WRITE_US)
    assert ranker.rank(stock) == Ranked(stock, 128 + 4 + 4 + 4, 50.0)
    assert ranker.rank(saves) == Ranked(saves, 128 + 64, 55.0)


def test_what_stock_itself_saves_and_writes_is_not_paid_twice() -> None:
    """The same with a plan that saves a in stock's place: a again for 2 spares the write of 5; a view again is free."""
    stock, again = Plan("stock", (1, 2, 3, 4), (6,)), Plan("again", (1, 2, 3, 4), (2, 3, 6))
    again_us = [0.0, 0.0, 2.0, 1000.0, 0.0, 0.0, 0.0]
    ranker = Ranker(FOLDED, stock, 50.0, [True] * len(FOLDED.ops), again_us, WRITE_US)
    assert (ranker.rank(stock).time_us, ranker.rank(again).time_us) == (50.0, 47.0)
