"""What to save for a price: one drawn graph, and random graphs against every way there is (`tests.solve.decisions`).

    x --mm--> h --exp--> e --view--> v
    x --split--> pair --element--> left --sin--> p      backward reads v, p and m; stock computes p there
    x --rand--> draw --mul--> m

left has 4 bytes, pair and x 8 more, every other value 8. Again: h 10, e 1, pair 7, p 2, draw 5, m 3.
"""

import random
from collections import Counter
from dataclasses import replace

import pytest

from graphckpt.errors import PlanError
from graphckpt.ir.check import check_graph, check_plan
from graphckpt.ir.graph import OpKind
from graphckpt.ir.plan import Plan
from graphckpt.ir.text import parse
from graphckpt.solve.saving import Saving, SavingProblem
from tests.solve.decisions import SavingCase, Way, random_saving

TEXT = """
s0 8B external
s1 8B
s2 8B
s3 4B
s4 8B
s5 8B
s6 8B
s7 8B
s8 8B
s9 8B
%0 x = input placeholder() @fwd s0
%1 h = compute mm(%0) @fwd s1
%2 e = compute exp(%1) @fwd s2
%3 v = alias aten.view(%2) @fwd s2
%4 pair = compute split(%0) @fwd s3 s4
%5 left = alias "<built-in function getitem>"(%4) @fwd s3
%6 p = compute sin(%5) @fwd s5
%7 draw = compute rand(%0) @fwd s6 pinned="random"
%8 m = compute mul(%7) @fwd s7
%9 t = tangent placeholder() @bwd s8
%10 g = compute back(%9, %3, %6, %8) @bwd s9
forward_outputs %3 %5 %8
backward_outputs %10
"""
DRAWN = SavingCase(
    parse(TEXT),
    Plan("stock", (1, 2, 3, 4, 5, 7, 8), (6, 10)),
    frozenset(),
    (0.0, 10.0, 1.0, 0.0, 7.0, 0.0, 2.0, 5.0, 3.0, 0.0, 0.0),
    (0.0,) * 11,
)
# Prices in microseconds a byte: 8 bytes cost 0.08, 8 and 80.
LOW, MIDDLE, HIGH = 0.01, 1.0, 10.0
PRICES = [0.0, 1e-8, 1e-7, 1e-6, 3e-6, 1e-5, 1e-4, 1e-2]


def _solved(problem: SavingProblem, price: float) -> tuple[set[str], Saving]:
    found = problem.solve([price] * len(problem.values))
    return {DRAWN.graph.ops[index].name for index in found.saved}, found


def _wishing(name: str, tag: str) -> SavingCase:
    ops = tuple(replace(op, tag=tag) if op.name == name else op for op in DRAWN.graph.ops)
    return DRAWN._replace(graph=replace(DRAWN.graph, ops=ops))


@pytest.mark.parametrize(
    ("price", "saved", "saved_bytes", "extra_us"),
    [
        (LOW, {"e", "left", "m"}, 8 + 4 + 8, 2.0),
        (MIDDLE, {"e", "left", "draw"}, 8 + 4, 2.0 + 3.0),
        (HIGH, {"draw"}, 0, 10.0 + 1.0 + 7.0 + 2.0 + 3.0),
    ],
)
def test_the_price_decides(price: float, saved: set[str], saved_bytes: int, extra_us: float) -> None:
    """From all that is read to the draw alone, which weighs nothing; v and pair, a view and a tuple, are never saved.

    p costs its computation wherever it is done, so it is computed late, from the smaller left.
    """
    names, found = _solved(DRAWN.problem(), price)
    assert names == saved
    assert (found.saved_bytes, found.extra_us) == (saved_bytes, extra_us)


@pytest.mark.parametrize(
    ("case", "price", "saved", "extra_us"),
    [
        # h is there in any case, so e comes again for 1.
        (_wishing("h", "save"), MIDDLE, {"h", "left", "draw"}, 1.0 + 2.0 + 3.0),
        (DRAWN._replace(always_saved=frozenset((1,))), MIDDLE, {"h", "left", "draw"}, 1.0 + 2.0 + 3.0),
        # Nobody asks for h where e is cheap to keep.
        (_wishing("h", "save"), LOW, {"e", "left", "m"}, 2.0),
        (_wishing("e", "recompute"), LOW, {"h", "left", "m"}, 1.0 + 2.0),
        (_wishing("left", "recompute"), LOW, {"e", "p", "m"}, 2.0),
        # What may run only once is saved, whatever the user wants.
        (_wishing("draw", "recompute"), HIGH, {"draw"}, 23.0),
        # The results of what is saved are there for nothing.
        (_wishing("pair", "save"), HIGH, {"left", "draw"}, 16.0),
        # No kernel writes e: 12 is more than h and e again, 10.5 is less.
        (DRAWN._replace(write_us=(0.0, 0.0, 12.0, *[0.0] * 8)), LOW, {"h", "left", "m"}, 1.0 + 2.0),
        (_wishing("h", "recompute")._replace(write_us=(0.0, 0.0, 12.0, *[0.0] * 8)), LOW, {"left", "m"}, 11.0 + 2.0),
        (
            _wishing("h", "recompute")._replace(write_us=(0.0, 0.0, 10.5, *[0.0] * 8)),
            LOW,
            {"e", "left", "m"},
            10.5 + 2.0,
        ),
    ],
)
def test_wishes_and_writes(case: SavingCase, price: float, saved: set[str], extra_us: float) -> None:
    names, found = _solved(case.problem(), price)
    assert (names, found.extra_us) == (saved, extra_us)


def test_what_is_forced_weighs_nothing_wherever_it_may_be_saved() -> None:
    """h forced: e comes again from it; pair forced: a tuple cannot be saved. The problem itself stays what it was."""
    problem = DRAWN.problem()
    names, found = _solved(problem.forcing(frozenset((1, 4))), HIGH)
    assert names == {"h", "draw"}
    assert (found.saved_bytes, found.extra_us) == (0, 1.0 + 7.0 + 2.0 + 3.0)
    assert _solved(problem, HIGH)[0] == {"draw"}


def test_what_can_neither_be_saved_nor_computed_again_is_refused() -> None:
    problem = DRAWN.problem()
    nothing = (None,) * len(problem.values)
    with pytest.raises(PlanError, match="may not be cut"):
        replace(problem, write_us=nothing, again_us=nothing).solve([LOW] * len(problem.values))


def _cost(case: SavingCase, way: Way, prices: dict[int, float]) -> float:
    return way.time_us + sum(prices[value] * case.weight(value) for value in way.saved)


def _check_solution(case: SavingCase, found: Saving, ways: list[Way], prices: dict[int, float]) -> None:
    """What was found is one of the ways, with its bytes and its time, and none is cheaper."""
    way = Way(found.saved, found.saved_bytes, found.extra_us)
    assert way in ways
    assert _cost(case, way, prices) == pytest.approx(min(_cost(case, other, prices) for other in ways), abs=1e-5)


def _kinds(case: SavingCase, found: Saving) -> list[str]:
    """What a solution has that a wrong count could stumble over."""
    ops, saved = case.graph.ops, found.saved
    is_late = {index: ops[index].kind is OpKind.COMPUTE and index not in case.stock.forward for index in saved}
    met = {
        "element saved": any(case.is_element(index) for index in saved),
        "pinned saved": any(ops[index].pinned for index in saved),
        "wish saved": any(ops[index].tag == "save" and not ops[index].pinned for index in saved),
        "caller's saved": any(index in case.always_saved for index in saved),
        "late value saved": any(is_late[index] and case.again_us[index] for index in saved),
        "write paid": any(case.write_us[index] for index in saved),
        "something again": found.extra_us > sum(case.write_us[index] for index in saved),
        "nothing saved": not saved and found.extra_us > 0,
    }
    return [name for name, is_met in met.items() if is_met]


def test_no_way_is_cheaper_on_random_graphs() -> None:
    """400 graphs, some with hundreds of ways: for one price of all bytes, from none to a high one, and for prices by value."""
    kinds = Counter[str]()
    for seed in range(400):
        case, rng = random_saving(seed), random.Random(seed)
        check_graph(case.graph)
        check_plan(case.graph, case.stock)
        problem, ways = case.problem(), case.ways()
        rows = [dict.fromkeys(problem.values, price) for price in PRICES]
        rows += [{value: rng.choice(PRICES) for value in problem.values} for _ in range(4)]
        for prices in rows:
            found = problem.solve([prices[value] for value in problem.values])
            _check_solution(case, found, ways, prices)
            kinds.update(_kinds(case, found))
        kinds["choice"] += len(ways) > 1
    assert min(kinds.values()) > 20, kinds
    assert len(kinds) == 9, kinds


def test_forced_values_on_random_graphs() -> None:
    """As if the caller saved them anyway, but for elements of a forced tuple: those must be forced by name."""
    changed = 0
    for seed in range(300):
        case, rng = random_saving(seed), random.Random(seed)
        single = (index for index in case.stock.forward if not case.is_picked_apart(index))
        forced = frozenset(index for index in single if rng.random() < 0.3)
        problem, forcing = case.problem(), case._replace(always_saved=case.always_saved | forced)
        ways = forcing.ways()
        for price in PRICES:
            found = problem.forcing(forced).solve([price] * len(problem.values))
            _check_solution(forcing, found, ways, dict.fromkeys(problem.values, price))
            changed += found != problem.solve([price] * len(problem.values))
    assert changed > 100
