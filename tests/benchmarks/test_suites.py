"""Which rows a suite names, and how budgets follow from measured peaks."""

from __future__ import annotations

from itertools import pairwise

from benchmarks.configs import Family
from benchmarks.judge import allowed_peak_bytes
from benchmarks.record import Measurement, RowRecord
from benchmarks.suites import SUITES, Scope, attention, budget_ways, budgets, curve, gradients, peers, prediction
from tests.benchmarks import samples

GPT2_EAGER = Scope((Family.GPT2,), ("eager",))
SMALLEST = samples.step_row(50_000_000)
LARGEST = samples.step_row(190_000_000)


def test_peers_are_all_ways_on_all_models() -> None:
    specs = peers(Scope(), ())
    configs = {spec.config.text() for spec in specs}
    assert len(configs) == 5 * 2 + 1
    assert len(specs) == len(configs) * 7


def test_every_suite_names_rows_before_anything_is_measured() -> None:
    for name, suite in SUITES.items():
        keys = [spec.key("abc") for spec in suite(GPT2_EAGER, ())]
        assert keys, name
        assert len(set(keys)) == len(keys), name


def test_budgets_are_evenly_spaced_from_smallest_to_unbudgeted() -> None:
    allowed = [allowed_peak_bytes(LARGEST, way) for way in budget_ways(SMALLEST, LARGEST)]
    assert allowed[0] == 50_000_000
    assert allowed[-1] == 190_000_000
    assert [high - low for low, high in pairwise(allowed) if low is not None and high is not None] == [20_000_000] * 7


def test_the_lowest_budget_is_the_one_that_was_promised() -> None:
    """The measured peak may be some bytes below: a budget there would rightly be refused."""
    promised = samples.step_row(50_000_000, predictions=(samples.prediction(50_000_004),))
    assert allowed_peak_bytes(promised, budget_ways(promised, LARGEST)[0]) == 50_000_004


def test_half_of_the_budgets_are_of_the_whole_device_and_reserve_no_optimizer() -> None:
    whole = [way for way in budget_ways(SMALLEST, LARGEST) if way.option("budget") is not None]
    assert len(whole) == 4
    assert {way.option("optimizer") for way in whole} == {0}


def test_budgets_follow_once_both_ends_are_measured() -> None:
    rows = [samples.record("ours", LARGEST)]
    assert len(budgets(GPT2_EAGER, rows)) == 3
    rows.append(samples.record("ours:policy=smallest", SMALLEST))
    assert len(budgets(GPT2_EAGER, rows)) == 3 + 8


def budgets_of_the_curve(rows: list[RowRecord]) -> list[str]:
    """What `curve` asks for between the seven peers and our smallest, once torch.compile is known to peak at 200 MB."""
    stock = samples.record("compile", samples.step_row(200_000_000))
    ways = [spec.way.text() for spec in curve(GPT2_EAGER, [stock, *rows])]
    assert len(ways[:7]) == 7
    assert not any(way.startswith("ours") for way in ways[:7])
    assert ways[-1] == "ours:policy=smallest"
    return ways[7:-1]


def peer(way: str, peak_bytes: int, **figures: int) -> RowRecord:
    return samples.record(way, samples.step_row(peak_bytes, **figures))


def test_the_curve_gives_ours_what_each_peer_took() -> None:
    rows = [peer("hf_ckpt", 70_000_000), peer("knob:0.4", 120_000_001)]
    assert budgets_of_the_curve(rows) == ["ours:activation_budget=70000000", "ours:activation_budget=120000001"]


def test_the_curve_needs_no_row_of_ours_where_stock_fits_or_the_peer_does_not_count() -> None:
    rows = [peer("hf_ckpt", 70_000_000, graphs=3), peer("knob:0.8", 200_000_000), peer("knob:0.6", 199_999_999)]
    assert budgets_of_the_curve(rows) == ["ours:activation_budget=199999999"]


def test_two_knobs_with_one_peak_are_one_budget() -> None:
    rows = [peer("knob:0.2", 90_000_000), peer("knob:0.05", 90_000_000, flops=2_000)]
    assert budgets_of_the_curve(rows) == ["ours:activation_budget=90000000"]


def test_the_curve_names_no_budget_before_torch_compile_is_measured() -> None:
    assert len(curve(GPT2_EAGER, [peer("hf_ckpt", 70_000_000)])) == 7 + 1


def test_predictions_walk_the_frontier() -> None:
    step = samples.step_row(predictions=(samples.prediction(frontier_count=9),))
    ways = [spec.way.text() for spec in prediction(GPT2_EAGER, [samples.record("ours", step)])]
    assert ways[3:] == ["ours:policy=index:2", "ours:policy=index:4", "ours:policy=index:6"]


def test_fused_attention_is_given_budgets_between_its_ends() -> None:
    """Ends at 50 and 190 MB: a quarter, a half and three quarters of the way."""
    config = attention(Scope(), ())[0].config.text()
    ends = {"ours:attention=auto": LARGEST, "ours:attention=auto,policy=smallest": SMALLEST}
    rows = [samples.record(way, step, config=config) for way, step in ends.items()]
    known = attention(Scope(), rows[:1])
    between = attention(Scope(), rows)[len(known) :]
    assert [spec.way.option("activation_budget") for spec in between] == [85_000_000, 120_000_000, 155_000_000]
    assert {spec.way.option("attention") for spec in between} == {"auto"}


def test_resnet_gradients_are_compared_in_fp64_only() -> None:
    specs = gradients(Scope((Family.RESNET,)), ())
    assert [(spec.config.dtype, spec.measurement) for spec in specs] == [("fp64", Measurement.GRADIENTS)]


def test_gradients_cover_both_dtypes_with_and_without_dropout() -> None:
    drawn = {(spec.config.dtype, spec.config.dropout) for spec in gradients(GPT2_EAGER, ())}
    assert drawn == {("fp32", 0.0), ("fp32", 0.1), ("fp64", 0.0), ("fp64", 0.1)}


def test_the_layer_count_reaches_every_model_that_has_one() -> None:
    layers = {config.family: config.layers for config in Scope(layers=2).configs()}
    assert layers[Family.T5] == 2
    assert layers[Family.RESNET] == 8
