"""The solver's benchmark: rows, graphs made there, and verdicts."""

import json
from pathlib import Path

import pytest

from benchmarks.solver import SolverRow, main, random_order, read_solver_rows, verdict
from benchmarks.solver_graphs import GENERATED, random_layered
from benchmarks.solver_published import PUBLISHED, rounded_like
from benchmarks.solver_report import counted, report
from graphckpt.solve.remat.instance import relabelled
from graphckpt.solve.remat.read import render_json
from graphckpt.solve.remat.replay import replay
from tests.solve.remat.problems import training_instance


def _row(graph: str, budget: int, overhead: float | None, order: str = "free", status: str = "feasible") -> SolverRow:
    return SolverRow("c" * 40, graph, 9, budget, order, False, 1, 40.0, 1.0, status, overhead, 0.0, 90.0, "why")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One problem as a file."""
    (tmp_path / "training.json").write_text(render_json(training_instance(6)))
    return tmp_path


def test_rows_are_run_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "rows" / "solver.jsonl"
    out.parent.mkdir()
    arguments = ["--instances", str(folder), "--out", str(out), "--seconds", "5", "--budgets", "100", "60", "1"]
    assert main(arguments) == 0
    rows = read_solver_rows(out)
    assert [row.budget_percent for row in rows] == [100, 60, 1]
    assert [row.status for row in rows] == ["optimal", "optimal", "infeasible"]
    assert [row.overhead_percent is None for row in rows] == [False, False, True]
    assert rows[0].overhead_percent == 0
    assert rows[1].overhead_percent == rows[1].bound_percent
    assert (rows[1].peak_percent or 100) <= 60
    main(arguments)
    assert read_solver_rows(out) == rows
    capsys.readouterr()
    assert main(["--table", str(out)]) == 0
    assert capsys.readouterr().out.count("\n") == 5
    assert "2 proven optimal, 1 proven that no plan fits" in report(out.parent)


def test_a_random_order_is_another_numbering_of_the_same_problem() -> None:
    instance = random_layered(60, 0.5, 3)
    order = random_order(instance, 7)
    other = relabelled(instance, order)
    assert order != tuple(range(60)) and other.is_in_order
    assert replay(other, range(60)) == replay(instance, order)._replace(keeps_order=True)


def test_graphs_of_their_own_have_the_sizes_they_are_named_for() -> None:
    made = [make() for make in GENERATED]
    assert [instance.count for instance in made[:3]] == [250, 500, 1000]
    for instance in made:
        assert instance.is_in_order
        # One last node reads, by some way, all others.
        assert [node for node, row in enumerate(instance.readers) if not row][-1] == instance.count - 1
    assert made[0] == GENERATED[0]()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (_row("rl100", 80, 0.34), "matched"),
        (_row("rl100", 80, 0.36), "missed"),
        (_row("rl100", 80, 0.1), "better"),
        (_row("rl500", 90, 0.034), "matched"),
        (_row("rl500", 90, 0.036), "missed"),
        (_row("rl100", 70, 2.14), "better"),
        (_row("rl100", 70, None, status="no_plan"), "missed: no plan"),
        (_row("rl100", 70, None, status="infeasible"), "proven that none exists"),
        (_row("unet", 60, 4.4508, "fixed"), "matched"),
        (_row("unet", 60, 4.4508), "-"),
        (_row("rl100", 45, 1.0), "-"),
    ],
)
def test_verdicts_compare_the_digits_that_are_printed(row: SolverRow, words: str) -> None:
    assert verdict(row) == words


def test_published_rows_are_numbers_or_words() -> None:
    for published in PUBLISHED.values():
        assert published.best_free() is not None or published.fixed_optimum != "-"
    assert (rounded_like("0.03", 0.0349), rounded_like("0.0", 0.049)) == (0.03, 0.0)


def test_gaps_are_told(tmp_path: Path) -> None:
    assert counted([_row("rl500", 45, 3.25), _row("rl500", 60, 1.0)]).endswith("at most 3.25 percentage points")
    assert report(tmp_path) == "No such rows are committed yet."
    assert json.loads(render_json(training_instance(2)))["name"] == "training"
