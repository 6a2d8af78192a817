"""What the first look teaches: values that get a buffer only where they are computed again.

    stock: tanh folded into its readers        a plan: tanh_again has a buffer in backward
"""

from dataclasses import dataclass, replace

from torch import fx

from graphckpt.cost.roofline import SCALED
from graphckpt.inductor import DryStep
from graphckpt.ir.plan import recomputed_values
from graphckpt.rewrite.schedule import is_copy
from graphckpt.session.buffers import materialised_ops
from graphckpt.session.looks import Candidate, Looks
from graphckpt.session.pipeline import rank_plans, ranker_for
from tests.joint import captured
from tests.session.lowerers import FakeLowerer


@dataclass
class Folding(FakeLowerer):
    """Whatever may be folded is; where an order is held, what is computed again has a buffer."""

    def lower(self, forward: fx.GraphModule, backward: fx.GraphModule, *, hold_order: bool) -> DryStep:
        step = super().lower(forward, backward, hold_order=hold_order)
        copies = frozenset(name for name in step.backward.materialised if is_copy(name)) if hold_order else frozenset[str]()
        passes = (replace(low, materialised=kept) for low, kept in ((step.forward, frozenset()), (step.backward, copies)))
        return DryStep(*passes, step.peak, step.held_peak, step.time_us)


@dataclass
class Shrinking(FakeLowerer):
    """Peaks are as many bytes less as it is told."""

    less_bytes: int = 0

    def lower(self, forward: fx.GraphModule, backward: fx.GraphModule, *, hold_order: bool) -> DryStep:
        step = super().lower(forward, backward, hold_order=hold_order)
        less = replace(step.peak, forward_bytes=-self.less_bytes, backward_bytes=step.peak.backward_bytes - self.less_bytes)
        return replace(step, peak=less)


def _looks(lowerer: FakeLowerer) -> Looks:
    """Looks at the frontier of two attentions."""
    joint = captured("attention")
    graph, stock = joint.lowered.graph, joint.situation.stock
    step = lowerer.lower(*joint.stock_modules, hold_order=False)
    ranker = ranker_for(graph, stock, materialised_ops(graph, stock, step), step.time_us, SCALED)
    frontier = rank_plans(graph, stock, ranker, None)
    seen = Candidate(stock, joint.stock_modules, step)
    return Looks(joint.module, joint.num_outputs, joint.lowered, lowerer, ranker, frontier, seen)


def test_a_look_teaches_which_copies_have_a_buffer() -> None:
    """The smallest plan: what it computes again is no longer taken to be folded, in none of the plans."""
    joint = captured("attention")
    looks = _looks(Folding(joint.num_outputs))
    last = len(looks.frontier) - 1
    before = [looks.estimated_peak(index) for index in range(last + 1)]
    assert before == [ranked.estimated_peak_bytes for ranked in looks.frontier]
    looks.exact_peak(last, 0)
    again = set(recomputed_values(joint.lowered.graph, looks.candidates[last].plan))
    taught = looks.ranker.with_buffers(again)
    assert taught is looks.ranker
    after = [looks.estimated_peak(index) for index in range(last + 1)]
    assert after == [taught.rank(ranked.plan).estimated_peak_bytes for ranked in looks.frontier]
    assert sum(after) > sum(before)


def test_nothing_is_learnt_from_a_lowering_like_stocks() -> None:
    looks = _looks(FakeLowerer(captured("attention").num_outputs))
    ranker = looks.ranker
    looks.exact_peak(len(looks.frontier) - 1, 1e6)
    assert looks.ranker is ranker
    assert looks.smallest_peak_bytes is None


def test_the_smallest_peak_is_known_once_the_smallest_plan_was_lowered_as_small_as_it_gets() -> None:
    looks = _looks(FakeLowerer(captured("attention").num_outputs))
    last = len(looks.frontier) - 1
    looks.exact_peak(last, 1e6)
    assert looks.smallest_peak_bytes is None
    peak_bytes = looks.exact_peak(last, 0)
    assert looks.smallest_peak_bytes == peak_bytes


def test_of_all_that_was_seen_the_smallest_peak_is_known() -> None:
    """A plan that may spend happens to need less than the smallest one: the fewest bytes are its own."""
    lowerer = Shrinking(captured("attention").num_outputs)
    looks = _looks(lowerer)
    last = len(looks.frontier) - 1
    assert looks.exact_peak(last, 0) == looks.smallest_peak_bytes
    lowerer.less_bytes = 10**6
    assert looks.exact_peak(last - 1, 1e6) == looks.smallest_peak_bytes < 0


def test_what_was_seen_stays_over_another_frontier() -> None:
    """The frontier without its second plan: the last one is a place further to the front, its look and what it taught are there."""
    joint = captured("attention")
    looks = _looks(Folding(joint.num_outputs))
    last = len(looks.frontier) - 1
    peak_bytes = looks.exact_peak(last, 0)
    other = looks.over((looks.frontier[0], *looks.frontier[2:]))
    assert other.exact_peaks() == {0: looks.exact_peaks()[0], last - 1: peak_bytes}
    assert other.ranker is looks.ranker
    assert other.candidates[last - 1] is looks.candidates[last]
    assert other.smallest_index == last - 1
    assert other.smallest_peak_bytes == peak_bytes


def test_a_later_look_that_spends_leaves_the_smallest_peak_known() -> None:
    lowerer = Shrinking(captured("attention").num_outputs)
    looks = _looks(lowerer)
    last = len(looks.frontier) - 1
    smallest = looks.exact_peak(last, 0)
    lowerer.less_bytes = -1000
    assert looks.exact_peak(last, 1e6) > smallest
    assert looks.smallest_peak_bytes == smallest
