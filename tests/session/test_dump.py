"""The files that a bug report needs."""

import os
from pathlib import Path

import pytest

from graphckpt.config import Options
from graphckpt.ir.text import parse
from graphckpt.report.render import from_json, full_text
from graphckpt.session.describe import describe
from graphckpt.session.dump import dump_graph, dump_planned
from graphckpt.session.pipeline import Planned, plan_joint
from tests.session.lowerers import joint_graph, limit


@pytest.fixture(scope="module")
def planned() -> Planned:
    """All of a small chain recomputed."""
    given, lowerer = joint_graph("mlp")
    return plan_joint(given, Options(policy="full"), lowerer, lambda _: limit(0))


def test_the_graph_and_stocks_plan_can_be_read_back(planned: Planned, tmp_path: Path) -> None:
    graph = planned.lowered.graph
    dump_graph(tmp_path / "new", 3, graph, planned.stock)
    folder = tmp_path / "new" / "graph_3"
    assert sorted(os.listdir(folder)) == ["graph.txt", "stock_plan.txt"]
    assert parse((folder / "graph.txt").read_text()) == graph
    head, *lines = (folder / "stock_plan.txt").read_text().splitlines()
    assert head == "plan stock"
    steps = [f"  %{i} {graph.ops[i].name}" for i in planned.stock.forward]
    again = [f"  %{i} {graph.ops[i].name}" for i in planned.stock.backward]
    assert lines == ["forward", *steps, "backward", *again, "hold"]


def test_the_plan_the_report_and_the_wrappers(planned: Planned, tmp_path: Path) -> None:
    record = describe(planned, 0, limit(0), 2, 0.1, ())
    for _ in range(2):
        dump_planned(tmp_path, 0, planned, record)
    folder = tmp_path / "graph_0"
    text = {name: (folder / name).read_text() for name in os.listdir(folder)}
    assert set(text) == {"plan.txt", "report.txt", "report.json", "forward_wrapper.py", "backward_wrapper.py"}
    assert text["plan.txt"].startswith("plan full\nforward\n")
    assert from_json(text["report.json"]) == record
    assert text["report.txt"] == full_text(record)
    assert (text["forward_wrapper.py"], text["backward_wrapper.py"]) == ("# forward", "# backward")
