"""One row: its keys, its fallbacks, and what becomes of errors."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from benchmarks import prediction, row
from benchmarks.commit import current_commit
from benchmarks.configs import Family, ModelConfig
from benchmarks.modelled import KernelLog, Phase
from benchmarks.prediction import PlanPoint, SavedTensor, read_predictions
from benchmarks.record import Status
from benchmarks.row import RowSpec, run_row
from benchmarks.ways import Kind, Unsupported, Way, ours
from tests.benchmarks import samples

SPEC = RowSpec(ModelConfig(Family.GPT2, layers=2), ours(policy="sqrt"))


class BudgetInfeasible(RuntimeError):
    """Named as our backend names its refusal."""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unsupported("no checkpointing"), Status.UNSUPPORTED),
        (BudgetInfeasible("wanted 5 MB, smallest is 9 MB"), Status.REFUSED),
        (RuntimeError("backend raised: BudgetInfeasible: smallest is 9 MB"), Status.REFUSED),
        (RuntimeError("out of memory"), Status.ERROR),
    ],
)
def test_an_error_is_a_status_and_a_reason(monkeypatch: pytest.MonkeyPatch, error: Exception, status: Status) -> None:
    def fail(spec: RowSpec) -> None:
        raise error

    monkeypatch.setattr(row, "_measure_step", fail)
    record = run_row(SPEC, "abc")
    assert record.status is status
    assert record.key == SPEC.key("abc")
    assert str(error) in record.reason
    assert record.step is None


def test_a_reason_names_no_folder_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(spec: RowSpec) -> None:
        raise RuntimeError("in /home/someone/lib-1.0/torch/graph.py:7\nratio 3/4")

    monkeypatch.setattr(row, "_measure_step", fail)
    assert run_row(SPEC, "abc").reason == "RuntimeError: in graph.py:7 ratio 3/4"


COMPILE = Way(Kind.COMPILE)
ONE_GRAPH = [Phase.FORWARD, Phase.BACKWARD]


@pytest.mark.parametrize(
    ("way", "compilations", "graphs", "reports", "found"),
    [
        (COMPILE, ONE_GRAPH, 1, 0, []),
        (Way(Kind.EAGER), [], 0, 0, []),
        (ours(), ONE_GRAPH, 1, 1, []),
        (COMPILE, [Phase.FORWARD], 1, 0, ["no backward graph was compiled"]),
        (COMPILE, ONE_GRAPH, 2, 0, ["2 graphs but 1 forward compilations"]),
        (COMPILE, ONE_GRAPH * 2, 1, 0, ["1 graphs but 2 forward compilations"]),
        (ours(), ONE_GRAPH, 1, 0, ["1 backward graphs but 0 reports of the backend"]),
    ],
)
def test_what_ran_elsewhere_is_a_fallback(
    way: Way, compilations: list[Phase], graphs: int, reports: int, found: list[str]
) -> None:
    log = KernelLog(compilations=compilations)
    assert row._fallbacks(way, log, graphs, (samples.prediction(),) * reports) == found


def test_warnings_of_the_backend_are_collected() -> None:
    logger = logging.getLogger("graphckpt.plan")
    with row._backend_warnings() as texts:
        logger.warning("fell back to %s", "stock")
        logger.info("planned")
    logger.warning("afterwards")
    assert texts == ["fell back to stock"]


REPORT = SimpleNamespace(
    graph_id=0,
    predicted_peak_bytes=90,
    unbudgeted_peak_bytes=200,
    smallest_peak_bytes=None,
    plan="sqrt",
    frontier=(SimpleNamespace(plan="sqrt", predicted_peak_bytes=None, modelled_time_us=1.5),),
    dry_lowerings=2,
    plan_seconds=3.5,
    saved=(SimpleNamespace(name="seeds", size_bytes=16, reason="random"),),
    random_saved_bytes=16,
)


def test_reports_become_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = SimpleNamespace(reports=lambda: [REPORT])
    monkeypatch.setattr(prediction.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(prediction.importlib, "import_module", lambda name: backend)
    (read,) = read_predictions(ours())
    assert (read.peak_bytes, read.smallest_peak_bytes, read.plan) == (90, None, "sqrt")
    assert read.frontier == (PlanPoint("sqrt", None, 1.5),)
    assert read.saved == (SavedTensor("seeds", 16, "random"),)
    assert read_predictions(COMPILE) == ()


def test_a_backend_that_is_not_installed_predicts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction.importlib.util, "find_spec", lambda name: None)
    assert read_predictions(ours()) == ()


def test_the_commit_says_when_the_tree_differs_from_it() -> None:
    head, _, dirty = current_commit().partition("-dirty.")
    assert head
    assert dirty == "" or len(dirty) == 8
