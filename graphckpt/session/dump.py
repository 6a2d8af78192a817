"""What a bug report needs, as files in the directory that ``dump`` names: the graph, the plan, the report, the generated text."""

from __future__ import annotations

from pathlib import Path

from graphckpt.ir import text
from graphckpt.ir.graph import Graph
from graphckpt.ir.plan import Plan
from graphckpt.report.record import Record
from graphckpt.report.render import full_text, to_json
from graphckpt.session.pipeline import Planned


def dump_graph(directory: Path, graph_id: int, graph: Graph, stock: Plan) -> None:
    """The lowered joint graph and stock's plan; written before planning, so that a failure leaves them behind."""
    folder = _folder(directory, graph_id)
    (folder / "graph.txt").write_text(text.render(graph))
    (folder / "stock_plan.txt").write_text(_plan_text(graph, stock))


def dump_planned(directory: Path, graph_id: int, planned: Planned, record: Record) -> None:
    """The chosen plan, the record as text and JSON, and the wrappers that Inductor generates for it."""
    folder = _folder(directory, graph_id)
    (folder / "plan.txt").write_text(_plan_text(planned.lowered.graph, planned.plan))
    (folder / "report.txt").write_text(full_text(record))
    (folder / "report.json").write_text(to_json(record))
    (folder / "forward_wrapper.py").write_text(planned.step.forward.source)
    (folder / "backward_wrapper.py").write_text(planned.step.backward.source)


def _folder(directory: Path, graph_id: int) -> Path:
    folder = directory / f"graph_{graph_id}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _plan_text(graph: Graph, plan: Plan) -> str:
    lines = [f"plan {plan.name}", "forward"]
    lines += [f"  %{i} {graph.ops[i].name}" for i in plan.forward]
    lines.append("backward")
    lines += [f"  %{i} {graph.ops[i].name}" for i in plan.backward]
    lines.append("hold")
    lines += [f"  %{i} {graph.ops[i].name}" for i in plan.hold]
    return "\n".join(lines) + "\n"
