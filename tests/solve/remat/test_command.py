"""``python -m graphckpt solve``: what it prints, and its exit statuses."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

import graphckpt
from graphckpt.__main__ import main
from graphckpt.ir import text
from graphckpt.solve.remat.read import render_json
from graphckpt.solve.remat.replay import replay
from tests.graphs import random_graph
from tests.solve.remat.problems import training_instance

ROOT = Path(graphckpt.__file__).parents[1]
FIELDS = ["schedule", "cost", "peak", "lower_bound", "bound_from", "bound_holds_for", "status", "seconds"]
CHAIN = training_instance(12)
WHOLE = replay(CHAIN, range(CHAIN.count)).peak_bytes


@pytest.fixture
def chain_file(tmp_path: Path) -> str:
    """A problem as JSON."""
    path = tmp_path / "chain.json"
    path.write_text(render_json(CHAIN))
    return str(path)


def _solve(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, object]]:
    status = main(["solve", *arguments, "--seconds", "5", "--json"])
    out, err = capsys.readouterr()
    assert (out.count("\n"), err) == (1, "")
    return status, json.loads(out)


@pytest.mark.parametrize("order", ["fixed", "free"])
def test_a_plan_is_one_object(capsys: pytest.CaptureFixture[str], chain_file: str, order: str) -> None:
    status, found = _solve(capsys, chain_file, "--budget", "0.6", "--order", order, "--seed", "3", "--exact")
    assert (status, list(found)) == (0, FIELDS)
    facts = replay(CHAIN, found["schedule"])  # type: ignore[arg-type]
    assert (found["cost"], found["peak"], found["status"]) == (facts.cost, facts.peak_bytes, "optimal")
    assert facts.peak_bytes <= 0.6 * WHOLE
    assert found["lower_bound"] == facts.cost > CHAIN.total_cost


@pytest.mark.parametrize("budget", [str(WHOLE), f"{WHOLE}B", "1.0", "100%"])
def test_budgets_are_shares_or_bytes(capsys: pytest.CaptureFixture[str], chain_file: str, budget: str) -> None:
    _, found = _solve(capsys, chain_file, "--budget", budget)
    assert (found["cost"], found["status"]) == (CHAIN.total_cost, "optimal")


def test_a_budget_proven_too_small_is_status_3(capsys: pytest.CaptureFixture[str], chain_file: str) -> None:
    status, found = _solve(capsys, chain_file, "--budget", "8")
    assert (status, found["schedule"], found["status"]) == (3, None, "infeasible")
    assert "more than the budget of 8" in str(found["bound_from"])


def test_without_json_it_is_lines_for_people(capsys: pytest.CaptureFixture[str], chain_file: str) -> None:
    assert main(["solve", chain_file, "--budget", "0.6", "--seconds", "5", "--threads", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("optimal after ")
    assert lines[-1].endswith("any order and any number of computations a node")


def test_a_graph_as_text_is_read_and_answered_in_its_operations(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    graph = random_graph(random.Random(5), 40)
    path = tmp_path / "graph.txt"
    path.write_text(text.render(graph))
    status, found = _solve(capsys, str(path), "--budget", "1.0")
    assert (status, found["status"]) == (0, "optimal")
    schedule = found["schedule"]
    assert isinstance(schedule, list)
    assert {graph.ops[index].kind.value for index in schedule} <= {"compute", "tangent"}


@pytest.mark.parametrize(
    ("content", "budget", "words"),
    [
        (None, "0.5", "No such file"),
        (b"\xff", "0.5", "utf-8"),
        (b"{}", "0.5", "wanted a field 'cost'"),
        (b"s0 x", "0.5", "line 1"),
        (b'{"cost": [1, 1], "size": [1, 1], "preds": [[1], [0]]}', "0.5", "cycle 0 -> 1 -> 0"),
        (b'{"cost": [1], "size": [-1], "preds": [[]]}', "0.5", "size of node 0"),
        (b'{"cost": [1, 1], "size": [1, 1], "preds": [[1], []]}', "0.5", "give bytes"),
        (b'{"cost": [1], "size": [1], "preds": [[]]}', "0", "above 0"),
        (b'{"cost": [1], "size": [1], "preds": [[]]}', "auto", "'auto'"),
        (b'{"cost": [1], "size": [1], "preds": [[]]}', "nan", "'nan'"),
        (b'{"cost": [1], "size": [1], "preds": [[]]}', "-5", "came '-5'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | None, budget: str, words: str
) -> None:
    path = tmp_path / "problem"
    if content is not None:
        path.write_bytes(content)
    try:
        status = main(["solve", str(path), "--budget", budget])
    except SystemExit as stop:
        status = stop.code  # type: ignore[assignment]
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("graphckpt: ")
    assert words in err


@pytest.mark.parametrize(("option", "value"), [("--seconds", "0"), ("--seconds", "inf"), ("--threads", "0")])
def test_limits_that_are_none_are_refused(capsys: pytest.CaptureFixture[str], option: str, value: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["solve", "x", "--budget", "1", option, value])
    assert stop.value.code == 2
    assert option in capsys.readouterr().err


def test_ctrl_c_prints_what_was_found_and_torch_is_not_loaded(tmp_path: Path) -> None:
    """The signal comes from inside, so that it cannot come before the search."""
    instance = training_instance(150)
    path = tmp_path / "long.json"
    path.write_text(render_json(instance))
    code = (
        "import os, signal, sys, threading; from graphckpt.__main__ import main; "
        "threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start(); "
        f"status = main(['solve', {str(path)!r}, '--budget', '0.5', '--seconds', '40', '--json']); "
        "sys.exit(status or 10 * ('torch' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["seconds"] < 30
    assert replay(instance, found["schedule"]).cost == found["cost"]
