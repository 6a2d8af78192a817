"""From plans of small models to their records.

    dropout:  x -> (linear -> relu -> dropout) x 3 -> sum of squares,    one seed of 8 bytes for each dropout
"""

from collections import Counter
from dataclasses import replace

import pytest

from graphckpt.config import Options
from graphckpt.ir.graph import Phase, value_bytes
from graphckpt.ir.plan import recomputed_values
from graphckpt.report.record import Record
from graphckpt.report.render import from_json, full_text, to_json
from graphckpt.rewrite.schedule import traced_name
from graphckpt.session.describe import describe, name_holders
from graphckpt.session.pipeline import Planned, plan_joint
from tests.session.lowerers import joint_graph, limit

PLENTY = 2**40


def _described(name: str, allowance_bytes: int = PLENTY, **options: object) -> tuple[Planned, Record]:
    given, lowerer = joint_graph(name)
    budget = limit(allowance_bytes)
    planned = plan_joint(given, Options(**options), lowerer, lambda _: budget)  # type: ignore[arg-type]
    return planned, describe(planned, 7, budget, lowerer.runs, 1.5, ("a note",))


@pytest.mark.parametrize("policy", ["stock", "full", "smallest"])
@pytest.mark.parametrize("name", ["mlp", "dropout", "several results", "fused attention"])
def test_saved_and_recomputed_entries_add_up(name: str, policy: str) -> None:
    """Three views of one storage are one entry; a tuple's elements are entries, itself is none."""
    planned, record = _described(name, policy=policy)
    graph, numbers = planned.lowered.graph, planned.lowered.index
    crossing = [numbers[traced_name(node.name)] for node in planned.backward.graph.find_nodes(op="placeholder")]
    crossing = [index for index in crossing if graph.ops[index].phase is Phase.FORWARD]
    assert sum(entry.size_bytes for entry in record.saved) == value_bytes(graph, crossing)
    assert {numbers[entry.name] for entry in record.saved} <= set(crossing)
    plan = planned.frontier[planned.choice.index].plan
    again = Counter(recomputed_values(graph, plan)) - Counter(recomputed_values(graph, planned.stock))
    assert Counter(numbers[entry.name] for entry in record.recomputed) >= again
    assert sum(entry.size_bytes for entry in record.recomputed) == record.recomputed_bytes
    assert record.plan == plan.name


def test_nothing_is_recomputed_beyond_stock_where_stock_fits() -> None:
    planned, record = _described("dropout")
    assert recomputed_values(planned.lowered.graph, planned.stock)
    assert (record.plan, record.recomputed_bytes, record.recomputed) == ("stock", 0, ())
    assert record.smallest_peak_bytes is None
    assert record.predicted_peak_bytes == record.unbudgeted_peak_bytes == record.saved_bytes
    assert {entry.reason for entry in record.saved} == {"saved by Inductor's own cut"}
    assert record.random_saved_bytes == 0


def test_of_dropout_seeds_alone_are_saved_where_all_is_recomputed() -> None:
    """What enters the layers, and 3 seeds of 8 bytes; the random numbers and the masks are made again."""
    _, record = _described("dropout", policy="full")
    assert record.random_saved_bytes == 3 * 8
    (seeds,) = (entry for entry in record.saved if "inductor" in entry.name)
    assert (seeds.name, seeds.size_bytes, seeds.reason) == ("inductor_seeds_default", 24, "random")
    assert not [entry for entry in record.saved if entry.dtype == "bool"]
    again = [entry.name for entry in record.recomputed]
    assert sum("inductor_random" in name for name in again) == 3
    assert "inductor_seeds_default" not in again


def test_entries_say_where_a_tensor_comes_from() -> None:
    """Module path, source line, shape and type of the product of the second layer."""
    _, record = _described("mlp")
    (entry,) = (entry for entry in record.saved if entry.name == "addmm_1")
    assert entry.module.endswith("layers.1.linear")
    assert entry.source.startswith("models.py:")
    assert (entry.shape, entry.dtype, entry.size_bytes, entry.action) == ((4, 8), "float32", 128, "saved")


def test_the_frontier_has_exact_peaks_where_plans_were_lowered() -> None:
    planned, record = _described("attention", 1)
    assert [entry.plan for entry in record.frontier] == [ranked.plan.name for ranked in planned.frontier]
    exact = {i: entry.predicted_peak_bytes for i, entry in enumerate(record.frontier) if entry.predicted_peak_bytes is not None}
    assert exact == dict(planned.choice.looked_at)
    assert record.smallest_peak_bytes == min(exact.values()) == record.predicted_peak_bytes
    assert record.dry_lowerings == len(exact)
    assert record.gap.endswith(" %")
    assert float(record.gap.removesuffix(" %")) >= 0


@pytest.mark.parametrize("allowance_bytes", [-1000, -1])
def test_a_plan_that_does_not_fit_has_a_gap_all_the_same(allowance_bytes: int) -> None:
    """To what is possible at its own peak: what is live already leaves less than nothing."""
    planned, record = _described("attention", allowance_bytes, activation_budget="1")
    assert not planned.choice.fits
    assert record.gap.endswith(" %")


@pytest.mark.parametrize(
    ("least_us", "gap"),
    [(None, "no bound"), (0.0, "no bound"), (100.0, "0.0 %"), (80.0, "25.0 %"), (100.1, "unknown: the bound is above")],
)
def test_the_gap_in_words(least_us: float | None, gap: str) -> None:
    planned, _ = _described("mlp", 1)
    index = planned.choice.index
    frontier = (*planned.frontier[:index], replace(planned.frontier[index], time_us=100.0), *planned.frontier[index + 1 :])
    planned = replace(planned, frontier=frontier, least_time_us=least_us)
    assert describe(planned, 0, limit(1), 0, 0.0, ()).gap.startswith(gap)


@pytest.mark.parametrize("name", ["mlp", "attention", "convolution", "dropout"])
@pytest.mark.parametrize("policy", ["smallest", "sqrt", "index:0"])
def test_no_peak_is_below_the_smallest(name: str, policy: str) -> None:
    """Of a plan by its name nothing is known about others."""
    _, record = _described(name, policy=policy)
    assert (record.smallest_peak_bytes is None) == (policy == "sqrt" or (policy == "index:0" and len(record.frontier) > 1))
    if record.smallest_peak_bytes is not None:
        assert record.smallest_peak_bytes <= min(record.predicted_peak_bytes, record.unbudgeted_peak_bytes)


def test_holders_are_named_by_what_was_traced() -> None:
    """Largest first; a copy is named as its original, a buffer of nobody by its own name."""
    planned, record = _described("mlp")
    named = name_holders(planned.lowered.graph, planned.step)
    assert record.holders == named[:12]
    assert [size for _, size in named] == sorted((size for _, size in named), reverse=True)
    assert named[-1] == ("buf7", 1)
    assert any("layers.1.linear aten.addmm.default 4x8 models.py:" in text for text, _ in named)


@pytest.mark.parametrize("added", ["", "_again", "_again_1", "_held", "_again_1_held"])
def test_a_copy_and_a_fence_are_named_by_what_was_traced(added: str) -> None:
    planned, _ = _described("mlp")
    peak = replace(planned.step.peak, holders=((f"addmm_1{added}", 128),))
    ((text, _),) = name_holders(planned.lowered.graph, replace(planned.step, peak=peak))
    assert "layers.1.linear aten.addmm.default 4x8 models.py:" in text


def test_what_was_measured_is_handed_on() -> None:
    _, record = _described("mlp")
    assert (record.graph_id, record.budget, record.lower_seconds, record.notes) == (7, limit(PLENTY), 1.5, ("a note",))
    assert from_json(to_json(record)) == record
    assert "layers.{0-3}.linear" in full_text(record)
