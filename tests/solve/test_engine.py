"""The C++ core against the Python reference."""

import gc
import weakref

import pytest

from graphckpt.errors import PlanError
from graphckpt.ir import peak
from graphckpt.ir.plan import Plan
from graphckpt.ir.text import parse, render
from graphckpt.solve import engine
from graphckpt.solve.engine import Engine
from tests.graphs import random_case

SMALL = """
    s0 16B external
    s1 16B
    s2 8B
    %0 = input x() @fwd s0
    %1 = compute mm(%0) @fwd s1
    %2 = compute relu(%1) @fwd s2 fusible
    forward_outputs %2
    backward_outputs
"""


def test_equal_to_the_reference_on_random_cases() -> None:
    """Some 600 graphs with aliases, several results, virtual operations and repeats, each with and without virtual ones."""
    kinds_met = {"repeat": 0, "virtual": 0, "tangent held": 0, "takeover": 0}
    for seed in range(600):
        graph, plan, materialised = random_case(seed, op_count=10 + seed // 10)
        handle = Engine(graph)
        for flags in (None, materialised):
            wanted = peak.timeline(graph, plan, flags)
            assert handle.timeline(plan, flags) == wanted, f"seed {seed}, {plan}, {flags}\n{render(graph)}"
            kinds_met["tangent held"] += any(graph.ops[index].kind.value == "tangent" for index in wanted.held_at_peak)
        kinds_met["repeat"] += len(set(plan.backward)) < len(plan.backward)
        kinds_met["virtual"] += not all(materialised)
        unfused = parse(render(graph).replace(" fusible", ""))
        kinds_met["takeover"] += peak.timeline(unfused, plan).live_bytes != peak.timeline(graph, plan).live_bytes
    assert all(count > 50 for count in kinds_met.values()), kinds_met


def test_one_shot_is_the_same() -> None:
    """x -> mm -> relu."""
    graph, plan = parse(SMALL), Plan("p", (1, 2), ())
    assert engine.timeline(graph, plan) == peak.timeline(graph, plan) == Engine(graph).timeline(plan)
    assert engine.timeline(graph, plan).live_bytes == (16, 24)


@pytest.mark.parametrize(
    ("steps", "materialised"),
    [
        ((1, 7), None),
        ((-1,), None),
        ((1, 0), None),
        ((1, 2**40), None),
        ((1, 2), [True]),
        ((1, 2), [True, False, True]),
    ],
)
def test_errors_are_those_of_the_reference(steps: tuple[int, ...], materialised: list[bool] | None) -> None:
    graph = parse(SMALL)
    for plan in (Plan("bad", steps, ()), Plan("bad", (), steps)):
        with pytest.raises(PlanError) as wanted:
            peak.timeline(graph, plan, materialised)
        with pytest.raises(PlanError) as came:
            engine.timeline(graph, plan, materialised)
        assert str(came.value) == str(wanted.value)


def test_a_dropped_engine_is_collected() -> None:
    handle = weakref.ref(Engine(parse(SMALL)))
    gc.collect()
    assert handle() is None
