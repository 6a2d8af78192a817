"""``python -m graphckpt solve FILE --budget ...``: reads a problem, solves it, prints one JSON object or a few lines.

Exit status 0 for an answer, 2 for what is no problem (one line on the standard error), 3 where it is proven that nothing fits.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from graphckpt.errors import InstanceError
from graphckpt.ir import text
from graphckpt.ir.check import check_graph
from graphckpt.ir.graph import Graph
from graphckpt.solve.remat.answer import Answer, Status
from graphckpt.solve.remat.instance import Instance, overhead_percent
from graphckpt.solve.remat.joint import joint_problem
from graphckpt.solve.remat.read import parse_json
from graphckpt.solve.remat.replay import replay
from graphckpt.solve.remat.search import Order
from graphckpt.solve.remat.solve import Wish, solve
from graphckpt.units import parse_size

PROVEN_INFEASIBLE = 3
_SHARE = re.compile(r"0*\.\d+|0+|1\.0*|0+\.")


class Outcome(NamedTuple):
    """What the command prints, and its exit status."""

    text: str
    status: int


class _Problem(NamedTuple):
    instance: Instance
    in_file: Callable[[Sequence[int]], tuple[int, ...]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument(
        "file", metavar="FILE", help="a problem: JSON (name, cost, size, preds) or a graph as `dump` writes it"
    )
    parser.add_argument(
        "--budget", required=True, help="a share (0.8) of the peak of the order 0..n-1, or bytes (123456, 8GiB)"
    )
    parser.add_argument("--seconds", type=_positive, default=40.0, help="for all of it (40)")
    parser.add_argument("--order", choices=[order.value for order in Order], default=Order.FREE.value)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=_count, default=1, help="searches side by side (1)")
    parser.add_argument("--exact", action="store_true", help="put the time into the proof")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(asked: argparse.Namespace, times_us: Callable[[Graph], Sequence[float]]) -> Outcome:
    """Solve what was asked for. ``times_us``: what each operation of a graph takes, for files that do not say.

    Raises:
        GraphckptError, OSError, UnicodeDecodeError: the file or the budget cannot be taken; one line each.
    """
    problem = _read(Path(asked.file).read_text(encoding="utf-8"), times_us)
    instance = problem.instance
    wish = Wish(asked.seconds, Order(asked.order), asked.seed, threads=asked.threads, exact=asked.exact)
    answer = solve(instance, _budget_bytes(instance, asked.budget), wish)
    status = PROVEN_INFEASIBLE if answer.status is Status.INFEASIBLE else 0
    if not asked.json:
        return Outcome(_lines(instance, answer), status)
    fields = answer.as_fields()
    if answer.schedule is not None:
        fields["schedule"] = problem.in_file(answer.schedule)
    return Outcome(json.dumps(fields) + "\n", status)


def _read(content: str, times_us: Callable[[Graph], Sequence[float]]) -> _Problem:
    if content.lstrip()[:1] in ("s", "%", "#"):
        graph = text.parse(content)
        check_graph(graph)
        joint = joint_problem(graph, times_us(graph))
        return _Problem(joint.instance, joint.in_ops)
    return _Problem(parse_json(content), tuple)


def _budget_bytes(instance: Instance, budget: str) -> int:
    if not _SHARE.fullmatch(budget):
        size = parse_size(budget)
        if size.kind == "bytes":
            return int(size.value)
        if size.kind == "auto":
            raise InstanceError("budget: wanted a share such as 0.8, or bytes, came 'auto'")
        share = float(size.value) / 100
    else:
        share = float(budget)
    if not 0 < share <= 1:
        raise InstanceError(f"budget: wanted a share above 0 and up to 1, came {budget!r}")
    if not instance.is_in_order:
        raise InstanceError("budget: a share is of the peak of the order 0..n-1, which is no schedule here; give bytes")
    return int(share * replay(instance, range(instance.count)).peak_bytes)


def _lines(instance: Instance, answer: Answer) -> str:
    lines = [f"{answer.status.value} after {answer.seconds:.1f} s"]
    if answer.cost is not None and answer.schedule is not None:
        repeats = len(answer.schedule) - instance.count
        lines.append(
            f"cost {answer.cost} (+{overhead_percent(instance, answer.cost):.3f} %), {repeats} computations more"
        )
        lines.append(f"peak {answer.peak} bytes")
    if answer.lower_bound is not None:
        lines.append(f"no less than {answer.lower_bound} (+{overhead_percent(instance, answer.lower_bound):.3f} %)")
    lines.append(f"by: {answer.bound_from}; for {answer.bound_holds_for}")
    return "\n".join(lines) + "\n"


def _positive(word: str) -> float:
    value = float(word)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"wanted seconds above 0, came {word!r}")
    return value


def _count(word: str) -> int:
    value = int(word)
    if not 1 <= value <= 256:
        raise argparse.ArgumentTypeError(f"wanted 1 to 256 threads, came {word!r}")
    return value
