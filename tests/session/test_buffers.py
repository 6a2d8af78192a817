"""Which operation a buffer's name stands for.

    x -> stats (a tuple) -> mean, spread -> y -> seen (a view of y) -> out        backward: y again
"""

from dataclasses import replace

import pytest

from graphckpt.inductor import DryStep
from graphckpt.ir.plan import Plan
from graphckpt.ir.program import Event, Program
from graphckpt.ir.text import parse
from graphckpt.session.buffers import copies_with_buffer, inputs_laid_out, materialised_ops, with_workspaces
from tests.joint import captured
from tests.session.lowerers import FakeLowerer

GRAPH = parse("""
    s0 64B external
    s1 8B
    s2 8B
    s3 64B
    s4 8B
    s5 8B
    s6 8B
    %0 x = input placeholder() @fwd s0
    %1 stats = compute aten.var_mean(%0) @fwd s1 s2 fusible
    %2 mean = alias _operator.getitem(%1) @fwd s1
    %3 spread = alias _operator.getitem(%1) @fwd s2
    %4 y = compute mul(%0, %2, %3) @fwd s3 fusible
    %5 seen = alias view(%4) @fwd s3
    %6 out = compute mm(%5) @fwd s4
    %7 t = tangent placeholder() @bwd s5
    %8 g = compute mm(%7, %5) @bwd s6
    forward_outputs %6
    backward_outputs %8
""")
STATS, Y = 1, 4
# Nothing is saved: all of it is computed again.
ALL_AGAIN = Plan("again", (1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 8))


def _step(forward: set[str], backward: set[str]) -> DryStep:
    joint = captured("mlp")
    step = FakeLowerer(joint.num_outputs).lower(*joint.stock_modules, hold_order=False)
    passes = ((step.forward, forward), (step.backward, backward))
    low = (replace(half, materialised=frozenset(names)) for half, names in passes)
    return DryStep(*low, step.peak, step.held_peak, step.time_us)


@pytest.mark.parametrize(
    ("names", "real"),
    [({"mean", "seen"}, {STATS, Y}), ({"stats", "y"}, {STATS, Y}), ({"seen", "buf9"}, {Y}), ({"spread"}, {STATS}), (set(), set())],
)
def test_a_buffer_is_its_makers_by_whatever_name(names: set[str], real: set[int]) -> None:
    """mean and spread are the tuple's, seen is y's; a name that the graph does not have is nobody's."""
    flags = materialised_ops(GRAPH, ALL_AGAIN, _step(names, set()))
    assert {index for index in (STATS, Y) if flags[index]} == real
    again = {f"{name}_again" for name in names} | {"out"}
    assert copies_with_buffer(GRAPH, _step(names, again)) == real


def test_what_stock_saves_has_a_buffer() -> None:
    """Backward reads the view of y, and in the other plan mean and spread: no name says so."""
    assert materialised_ops(GRAPH, Plan("keeps y", (1, 2, 3, 4, 5, 6), (8,)), _step(set(), set()))[Y]
    flags = materialised_ops(GRAPH, Plan("keeps stats", (1, 2, 3, 4, 5, 6), (4, 5, 8)), _step(set(), set()))
    assert (flags[STATS], flags[Y]) == (True, False)


def test_inputs_that_forward_copies_for_backward() -> None:
    """x is result 0, for the caller, and result 1 as block 1, a copy of 80 bytes; as block 0, it is the input itself."""
    copy = Event(1, 80, 0, "buf0")
    forward = Program((("x", 0),), (copy, Event(2, 8, 0, "out")), (("x", 1), ("x", 1), ("out", 2)))
    assert inputs_laid_out(GRAPH, forward, 1) == {0: 80}
    assert inputs_laid_out(GRAPH, forward, 2) == {}
    assert inputs_laid_out(GRAPH, replace(forward, outputs=(("out", 2), ("x", 0))), 1) == {}


def test_a_workspace_is_what_a_kernel_holds_beside_its_results() -> None:
    """stats holds 15 bytes beside its 16; out 20, and 50 where backward computes it again; g 8. A buffer that the graph does not
    know is nobody's."""
    used = {"forward": [("stats", 15), ("out", 20), ("buf7", 99)], "backward": [("out_again", 50), ("g", 8)]}
    step = _step(set(), set())
    passes = {
        name: replace(getattr(step, name), program=Program((), tuple(Event(-1, 0, size, who) for who, size in events), ()))
        for name, events in used.items()
    }
    graph = with_workspaces(GRAPH, replace(step, **passes))
    assert {op.name: op.workspace_bytes for op in graph.ops if op.workspace_bytes} == {"stats": 15, "out": 50, "g": 8}
