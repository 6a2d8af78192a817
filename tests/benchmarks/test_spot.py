"""Random rows: what is drawn, which budgets follow, and what keeps a row from counting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks import spot as module
from benchmarks.configs import Family, parse_config
from benchmarks.judge import problems
from benchmarks.record import Status, from_line, to_line
from benchmarks.spot import drawn_budget_bytes, drawn_rows, measure_spot, refused_bytes
from benchmarks.suites import SUITES, Scope
from benchmarks.summary import render_models, render_spots
from benchmarks.table import failing, render
from benchmarks.ways import WayError, ours, parse_way
from tests.benchmarks.samples import record, spot

TINY = parse_config("gpt2:layers=4,width=32,sequence=256,batch=1")


def test_the_same_seed_draws_the_same_rows() -> None:
    """A longer list begins with the shorter; a row's text is enough to run it; every family and both ends of budgets are there."""
    rows = drawn_rows(100)
    assert drawn_rows(40) == rows[:40] != drawn_rows(40, seed=1)
    assert [(parse_config(config.text()), parse_way(way.text())) for config, way in rows] == rows
    assert {config.family for config, _ in rows} == set(Family) - {Family.LLAMA_LARGE}
    shares = [way.option("share") for _, way in rows]
    assert shares.count(0.0) > 10
    assert max(shares) > 0.9
    layers = {config.layers for config, _ in rows if config.family is not Family.RESNET}
    assert layers == set(range(2, 13))


def test_the_suite_is_a_hundred_rows_of_the_families_in_scope() -> None:
    specs = SUITES["random"](Scope(), ())
    assert len(specs) == len({spec.key("abc") for spec in specs}) == 100
    mine = SUITES["random"](Scope(families=(Family.VIT,)), ())
    assert mine == [spec for spec in specs if spec.config.family is Family.VIT]


@pytest.mark.parametrize(
    ("smallest", "unbudgeted", "share", "budget"),
    [(100, 202, 0.0, 102), (100, 202, 1.0, 202), (100, 202, 0.5, 152), (101, 400, 0.0, 104), (100, 101, 1.0, 102)],
)
def test_budgets_lie_where_they_are_promised(smallest: int, unbudgeted: int, share: float, budget: int) -> None:
    """From 1.02 of the smallest, rounded up; a graph with less to give than that has this one alone."""
    assert drawn_budget_bytes(smallest, unbudgeted, share) == budget


@pytest.mark.parametrize("way", ["ours", "ours:share=1.5", "ours:share=much"])
def test_a_row_without_a_share_says_what_it_wants(way: str) -> None:
    with pytest.raises(WayError, match="share: wanted a number from 0 to 1"):
        measure_spot(TINY, parse_way(way))


class _Refusal(Exception):
    smallest_bytes = 77


class _Wrapped(Exception):
    inner_exception = _Refusal()


@pytest.fixture
def _fails_with(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def first_step(*_: object) -> None:
        if request.param is not None:
            raise request.param

    monkeypatch.setattr(module, "first_step", first_step)
    yield


@pytest.mark.parametrize("_fails_with", [_Wrapped(), _Refusal()], indirect=True)
@pytest.mark.usefixtures("_fails_with")
def test_the_smallest_is_what_the_refusal_names() -> None:
    assert refused_bytes(TINY, ours()) == 77


@pytest.mark.parametrize("_fails_with", [KeyError("something else"), None], indirect=True)
@pytest.mark.usefixtures("_fails_with")
def test_another_error_or_none_at_all_is_no_refusal() -> None:
    with pytest.raises((KeyError, RuntimeError), match=r"something else|the backend does not keep its budgets"):
        refused_bytes(TINY, ours())


# torch says so wherever its caches are turned off.
@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled")
def test_a_tiny_model_inside_a_drawn_budget() -> None:
    """The whole way, node by node: a plan of ours keeps the budget, and the gradients are the same."""
    row = measure_spot(TINY, ours(share=0.25, inner="eager"))
    assert row.smallest_bytes < row.budget_bytes < row.unbudgeted_bytes
    assert row.peak_bytes <= row.budget_bytes
    assert row.peak_bytes == pytest.approx(row.predicted_bytes, rel=0.01)
    assert row.plan != "stock"
    assert row.loss == pytest.approx(row.reference_loss, rel=1e-6)
    assert row.difference_ratio < 1e-6


def test_what_keeps_a_random_row_from_counting() -> None:
    assert problems(spot(), ()) == []
    assert problems(spot(peak_bytes=100_000_001), ()) == ["over budget by 0.000 MB"]
    assert problems(spot(difference_ratio=2e-5), ()) == ["gradients differ by 2.00e-05, wanted 1e-05"]
    assert problems(spot("resnet:dtype=fp64", difference_ratio=2e-9), ()) == ["gradients differ by 2.00e-09, wanted 1e-09"]
    assert problems(spot(difference_ratio=float("nan")), ()) == ["gradients differ by nan, wanted 1e-05"]


def test_random_rows_in_words_and_in_a_table() -> None:
    """Three that ran, one over its budget; one refused, one that died. They are no models of the other table."""
    rows = [
        spot(),
        spot("bert", peak_bytes=100_000_005),
        spot("resnet:dtype=fp64", difference_ratio=2e-16),
        spot("vit", Status.REFUSED),
        spot("t5", Status.TIMEOUT),
    ]
    text = render_spots(rows)
    assert "5 random models and budgets (3 with a plan of ours, at abc): 2 count; 1 over budget, 1 refused, 1 failed" in text
    assert "off by at most 10000005 bytes; gradients off by at most 1e-08 in fp32, 2e-16 in fp64" in text
    assert render_spots([record("compile")]) == ""
    newer = replace(spot("bert"), key=replace(spot("bert").key, commit="def"))
    again = render_spots([*rows, newer])
    # The same model and budget, measured anew.
    assert "5 random models and budgets (3 with a plan of ours, at abc, def): 3 count; 0 over budget, 1 refused, 1 failed" in again
    assert "layers=3" not in render_models([record("compile"), *rows])
    table = render(rows).splitlines()
    assert [line.split("|")[-2].strip() for line in table[2:5]] == ["counts", "over budget by 0.000 MB", "counts"]
    assert failing(rows) == 3


def test_a_random_row_comes_back_as_it_went_and_older_lines_have_none() -> None:
    assert from_line(to_line(spot())) == spot()
    older = to_line(record("compile")).replace(', "spot": null', "")
    assert "spot" not in older
    assert from_line(older) == record("compile")
