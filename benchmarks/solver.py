"""The rematerialization solver beside what others published: instances times budgets, one JSON line a row, and a table.

    python -m benchmarks.solver --instances ../shared/instances --out rows.jsonl     # published graphs, free order, 40 s a row
    python -m benchmarks.solver --instances ../shared/instances --order fixed --exact --seconds 60 --out rows.jsonl
    python -m benchmarks.solver --generated --out rows.jsonl                         # graphs of the same kinds, made here
    python -m benchmarks.solver --files dump/graph_0/graph.txt --out rows.jsonl      # graphs as the option `dump` writes them
    python -m benchmarks.solver --table rows.jsonl

In a free order the nodes of each graph are renumbered in a random topological order before each run, so nothing can hang on the
published numbering; the budget stays that share of the published order's peak. Rows that are there are not run again.
Enters: files. Leaves: rows. Not guaranteed: times on a loaded machine; they are limits, not figures.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.commit import current_commit
from benchmarks.markdown import markdown_table
from benchmarks.record import SHORT_COMMIT_LENGTH
from benchmarks.solver_graphs import GENERATED
from benchmarks.solver_published import PUBLISHED, Published, rounded_like
from graphckpt.cost.roofline import SCALED, recompute_times_us
from graphckpt.ir import text
from graphckpt.solve.remat.instance import Instance, overhead_percent, relabelled
from graphckpt.solve.remat.joint import joint_problem
from graphckpt.solve.remat.read import parse_json
from graphckpt.solve.remat.replay import replay
from graphckpt.solve.remat.search import Order
from graphckpt.solve.remat.solve import Wish, solve

BUDGETS = (90, 80, 70, 60, 45)


@dataclass(frozen=True, slots=True)
class SolverRow:
    """One run. Percent: overhead and bound above each node once, peak of that of the order 0..n-1; None: no plan, no bound."""

    commit: str
    graph: str
    nodes: int
    budget_percent: int
    order: str
    exact: bool
    seed: int
    limit_seconds: float
    seconds: float
    status: str
    overhead_percent: float | None
    bound_percent: float | None
    peak_percent: float | None
    bound_from: str

    @property
    def key(self) -> tuple[str, int, str, bool]:
        """What is run once only."""
        return (self.graph, self.budget_percent, self.order, self.exact)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, or print the table."""
    asked = _parser().parse_args(arguments)
    if asked.table:
        print(render(read_solver_rows(Path(asked.table))))
        return 0
    out = Path(asked.out)
    there = {row.key for row in read_solver_rows(out)}
    for instance in _instances(asked):
        for budget in asked.budgets:
            if (instance.name, budget, asked.order, asked.exact) in there:
                continue
            row = measure(instance, budget, Order(asked.order), asked.exact, asked.seconds, asked.seed)
            with out.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
            print(render_line(row), flush=True)
    return 0


def measure(instance: Instance, budget: int, order: Order, exact: bool, seconds: float, seed: int) -> SolverRow:
    """Solve one row."""
    whole = replay(instance, range(instance.count)).peak_bytes
    budget_bytes = whole * budget // 100
    given = instance if order is Order.FIXED else relabelled(instance, random_order(instance, seed))
    start = time.perf_counter()
    answer = solve(given, budget_bytes, Wish(seconds, order, seed, exact=exact))
    spent = time.perf_counter() - start
    return SolverRow(
        commit=current_commit(),
        graph=instance.name,
        nodes=instance.count,
        budget_percent=budget,
        order=order.value,
        exact=exact,
        seed=seed,
        limit_seconds=seconds,
        seconds=round(spent, 2),
        status=answer.status.value,
        overhead_percent=None if answer.cost is None else overhead_percent(instance, answer.cost),
        bound_percent=None if answer.lower_bound is None else overhead_percent(instance, answer.lower_bound),
        peak_percent=None if answer.peak is None else 100 * answer.peak / whole,
        bound_from=answer.bound_from,
    )


def random_order(instance: Instance, seed: int) -> tuple[int, ...]:
    """A topological order by lot."""
    lottery = random.Random(seed)
    missing = [len(sources) for sources in instance.inputs]
    ready = [node for node, count in enumerate(missing) if not count]
    order = []
    while ready:
        node = ready.pop(lottery.randrange(len(ready)))
        order.append(node)
        for reader in instance.readers[node]:
            missing[reader] -= 1
            if not missing[reader]:
                ready.append(reader)
    return tuple(order)


def read_solver_rows(path: Path) -> list[SolverRow]:
    """The rows of a file; none where it is not there."""
    return [SolverRow(**json.loads(line)) for line in path.read_text().splitlines()] if path.is_file() else []


def render(rows: Sequence[SolverRow]) -> str:
    """The table: published columns beside ours, with a verdict where there is something to compare."""
    headings = [
        "graph",
        "nodes",
        "budget %",
        "order",
        "Checkmate",
        "MOCCASIN",
        "FastSA",
        "proven, fixed order, two computations",
    ]
    headings += ["ours", "no plan below", "peak %", "status", "s", "verdict"]
    return markdown_table(headings, [_cells(row) for row in rows])


def render_line(row: SolverRow) -> str:
    """A row for a terminal."""
    return " ".join(_cells(row))


def made_by(rows: Sequence[SolverRow]) -> str:
    """The commits of the rows."""
    return ", ".join(sorted({row.commit[:SHORT_COMMIT_LENGTH] for row in rows}))


def verdict(row: SolverRow) -> str:
    """How the row stands to what was published, after rounding to the digits printed there."""
    published = PUBLISHED.get((row.graph, row.budget_percent), Published())
    wanted = published.fixed_optimum if row.order == Order.FIXED.value else published.best_free()
    if wanted is None or wanted == "-":
        return "-"
    if row.overhead_percent is None:
        return "proven that none exists" if row.status == "infeasible" else "missed: no plan"
    ours = rounded_like(wanted, row.overhead_percent)
    return "missed" if ours > float(wanted) else "matched" if ours == float(wanted) else "better"


def _cells(row: SolverRow) -> list[str]:
    published = PUBLISHED.get((row.graph, row.budget_percent), Published())
    order = f"{row.order}{', exact' if row.exact else ''}"
    figures = [_percent(row.overhead_percent), _percent(row.bound_percent), _percent(row.peak_percent, 1)]
    about = [row.graph, str(row.nodes), str(row.budget_percent), order, *published]
    return [*about, *figures, row.status, f"{row.seconds:.1f}", verdict(row)]


def _percent(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _instances(asked: argparse.Namespace) -> Iterator[Instance]:
    if asked.instances:
        for path in sorted(Path(asked.instances).glob("*.json")):
            if not asked.graphs or path.stem in asked.graphs:
                yield parse_json(path.read_text())
    if asked.generated:
        for make in GENERATED:
            yield make()
    for name in asked.files:
        graph = text.parse(Path(name).read_text())
        times = recompute_times_us(graph, [True] * len(graph.ops), SCALED)
        yield joint_problem(graph, times, Path(name).stem).instance


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", help="a folder of problems as JSON")
    parser.add_argument("--graphs", nargs="*", default=[], help="of these only the ones so named")
    parser.add_argument("--generated", action="store_true", help="graphs made here")
    parser.add_argument("--files", nargs="*", default=[], help="graphs as text")
    parser.add_argument("--budgets", nargs="*", type=int, default=BUDGETS)
    parser.add_argument("--order", choices=[order.value for order in Order], default=Order.FREE.value)
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="solver.jsonl")
    parser.add_argument("--table", help="print the rows of this file")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
