"""Plans of single tensors: on a chain of layers (drawn in `tests.solve.chains.chain`), and on captured graphs."""

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest

from graphckpt.cost.roofline import SCALED, recompute_times_us, saving_times_us
from graphckpt.ir.check import check_plan
from graphckpt.ir.graph import Phase, value_bytes
from graphckpt.ir.plan import Plan, saved_values
from graphckpt.solve.frontier import Ranked, Ranker, pareto
from graphckpt.solve.planner import saving_plans
from graphckpt.solve.policies import Situation, candidate_plans, survey
from graphckpt.solve.saving import state_saving
from graphckpt.solve.segments import base_of, cheap_values, cut_at
from tests.joint import captured
from tests.rewrite.models import MODELS
from tests.solve.chains import Chain, chain, pinned_view
from tests.solve.orders import check_order

# Times of one more h, a and mask: what is dear to compute, what is cheap, and all alike.
TIMES = [(10.0, 1.0, 1.0), (1.0, 10.0, 1.0), (10.0, 1.0, 0.0), (3.0, 3.0, 3.0)]
MIX = re.compile(r"saving:(\d+):mix_(\d+)")


def _times(case: Chain, times: tuple[float, float, float]) -> list[float]:
    h, a, mask = times
    by_name = {"mask": mask, "loss": 1.0}
    return [by_name.get(op.name, {"h": h, "a": a}.get(op.name[0], 0.0)) for op in case.graph.ops]


def _chain_plans(case: Chain, again_us: Sequence[float]) -> list[Plan]:
    situation = survey(case.graph, case.keep)
    nothing = [0.0] * len(case.graph.ops)
    return list(saving_plans(situation, state_saving(case.graph, case.keep, situation.always_saved, again_us, nothing)))


def _captured_plans(situation: Situation, folds: bool) -> list[Plan]:
    """With every value in a buffer, or with all that may be folded folded."""
    materialised = [not (folds and op.fusible) for op in situation.graph.ops]
    again_us = recompute_times_us(situation.graph, materialised, SCALED)
    write_us = saving_times_us(situation.graph, materialised, SCALED)
    problem = state_saving(situation.graph, situation.stock, situation.always_saved, again_us, write_us)
    return list(saving_plans(situation, problem))


@pytest.mark.parametrize("folds", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_plans_of_captured_graphs_are_legal_named_apart_and_always_the_same(name: str, folds: bool) -> None:
    """Every small model; each plan keeps all of the backward pass, in its order but for large gradients, and a second survey gives
    the same plans."""
    situation = captured(name).situation
    plans = _captured_plans(situation, folds)
    for plan in plans:
        check_plan(situation.graph, plan)
        check_order(situation, plan)
    assert plans
    assert len({plan.name for plan in plans}) == len(plans)
    assert _captured_plans(survey(situation.graph, situation.stock), folds) == plans


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("layers", [1, 2, 8, 20])
def test_plans_of_a_chain_are_legal_and_named_apart(layers: int, times: tuple[float, float, float]) -> None:
    """From all saved to nothing saved, none twice: on a chain what enters a layer is often saved without being forced."""
    case = chain(layers)
    plans = _chain_plans(case, _times(case, times))
    for plan in plans:
        check_plan(case.graph, plan)
    assert len({plan.name for plan in plans}) == len(plans)
    assert {plan.name.split(":")[0] for plan in plans} <= {"saving", "layered", "tailed"}
    assert len({(plan.forward, plan.backward) for plan in plans}) == len(plans)
    saved = [len(saved_values(case.graph, plan)) for plan in plans if plan.name.startswith("saving")]
    assert (max(saved), min(saved)) == (2 * layers + 1, 0)


def _strangers(situation: Situation, plan: Plan) -> int:
    """How often a plan reads a value that it computed again for another layer; cheap ones are copied, and do not count."""
    graph, base, cheap = situation.graph, base_of(situation.graph), cheap_values(situation.graph)
    of_op = cut_at(graph, situation.order, situation.layers).of_op
    again: set[int] = set()
    count = 0
    for reader in (index for index in plan.backward if graph.ops[index].phase is Phase.FORWARD):
        sources = {base[source] for source in graph.ops[reader].inputs} & again
        layers = {of_op[source] for source in sources if not cheap[source]} - {of_op[reader], -1}
        count += len(layers) if of_op[reader] >= 0 else 0
        again.add(reader)
    return count


def _saved_behind(situation: Situation, plan: Plan) -> int:
    """Bytes that a plan saves in the last layer and behind all layers."""
    cut = cut_at(situation.graph, situation.order, situation.layers)
    late = [i for i in saved_values(situation.graph, plan) if cut.of_op[i] in (-1, cut.count - 1)]
    return value_bytes(situation.graph, late)


def test_tailed_plans_save_more_behind_the_last_layer() -> None:
    """Each at least as much as the free plan of the same prices elsewhere, and some more: memory is cheap there."""
    situation = captured("attention").situation
    behind = {plan.name: _saved_behind(situation, plan) for plan in _captured_plans(situation, False)}
    twins = {name: name.replace("tailed", "saving") for name in behind if name.startswith("tailed")}
    both = [(behind[tailed], behind[free]) for tailed, free in twins.items() if free in behind]
    assert all(tailed >= free for tailed, free in both)
    assert any(tailed > free for tailed, free in both)


@pytest.mark.parametrize("name", ["mlp", "attention", "fused attention", "convolution", "dropout"])
def test_layered_plans_compute_no_layer_again_for_another(name: str) -> None:
    """On models with layers; the free plans of the same graphs do, or this test could not fail."""
    situation = captured(name).situation
    plans = [*_captured_plans(situation, False), *_captured_plans(situation, True)]
    strangers = {"saving": 0, "layered": 0, "tailed": 0}
    for plan in plans:
        strangers[plan.name.split(":")[0]] += _strangers(situation, plan)
    assert strangers["layered"] == 0
    assert strangers["saving"] > 0


@pytest.mark.parametrize("times", TIMES)
def test_layered_plans_save_what_enters_each_layer_of_a_chain(times: tuple[float, float, float]) -> None:
    """mask | h0 a0 | h1 a1 | ...: every a enters a layer or the head."""
    case = chain(8)
    entering = case.numbers(*(f"a{layer}" for layer in range(8)))
    saved = {plan.name: frozenset(saved_values(case.graph, plan)) for plan in _chain_plans(case, _times(case, times))}
    assert all(entering <= values for name, values in saved.items() if name.startswith("layered"))
    assert entering in saved.values()


@pytest.mark.parametrize("times", TIMES)
def test_a_mix_is_the_dearer_vertex_up_to_a_place_and_the_cheaper_one_behind_it(times: tuple[float, float, float]) -> None:
    """mask | h0 a0 | ... | loss: from left to right an h or an a is saved as by the dearer plan, then as by the cheaper one.

    Of mixtures between two free vertices, which part the bytes that only the cheaper one saves evenly, in shares of at most three
    values; a forced vertex that saves the same as a free one has no plan of its own.
    """
    case = chain(8)
    line = [case.number[f"{letter}{layer}"] for layer in range(8) for letter in "ha"]
    saved = {plan.name: frozenset(saved_values(case.graph, plan)) for plan in _chain_plans(case, _times(case, times))}
    left_bytes: dict[str, list[int]] = {}
    for name in saved:
        if not (mix := MIX.fullmatch(name)):
            continue
        number = int(mix[1])
        dearer, cheaper = saved[f"saving:{number}"], saved[f"saving:{number - 1}"]
        mixtures = [dearer.intersection(line[:place]) | cheaper.intersection(line[place:]) for place in range(len(line) + 1)]
        assert saved[name].intersection(line) in mixtures
        sizes = left_bytes.setdefault(mix[1], [value_bytes(case.graph, sorted(cheaper))])
        sizes.append(value_bytes(case.graph, sorted(saved[name])))
    assert sum(map(len, left_bytes.values())) > 6
    steps = [before - after for sizes in left_bytes.values() for before, after in pairwise(sizes)]
    assert all(0 < step <= 3 * 128 for step in steps)


@pytest.mark.parametrize("times", TIMES)
def test_no_policy_is_faster_at_its_own_peak(times: tuple[float, float, float]) -> None:
    """Eight layers: wherever a policy stands, the frontier of stock and these plans has one as small that takes no longer."""
    case = chain(8)
    again_us, count = _times(case, times), len(case.graph.ops)
    ranker = Ranker(case.graph, case.keep, 1000.0, [True] * count, again_us, [0.0] * count)
    ranked = [ranker.rank(plan) for plan in (case.keep, *_chain_plans(case, again_us))]
    frontier = pareto(ranked)
    policies = pareto([ranker.rank(plan) for plan in candidate_plans(survey(case.graph, case.keep))])
    assert len(policies) > 5

    def fastest(within: Ranked) -> float:
        return min(r.time_us for r in frontier if r.estimated_peak_bytes <= within.estimated_peak_bytes)

    margins = [policy.time_us - fastest(policy) for policy in policies]
    assert min(margins) >= 0
    assert max(margins) > 0


def test_a_plan_that_would_run_twice_what_may_run_once_is_left_out() -> None:
    """x -> view (pinned) -> y; backward reads the view, which nobody can save."""
    graph = pinned_view()
    situation = survey(graph, Plan("stock", (1, 2), (4,)))
    nothing = [0.0] * len(graph.ops)
    assert list(saving_plans(situation, state_saving(graph, situation.stock, frozenset(), nothing, nothing))) == []
