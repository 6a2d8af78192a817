"""How long planning takes, dry lowering aside: from the joint graph of a deep Llama to its frontier of plans.

Enters: a number of layers. Leaves: one JSON line with the seconds of each step and the growth of the process. This is the one
benchmark that calls into graphckpt: it times its floors one by one, on one core.

Not guaranteed: real buffers. Without a dry lowering every value is taken to be materialised, which changes no step's work.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import torch
from torch import fx

from benchmarks.commit import current_commit
from benchmarks.configs import Family, build, default_config
from graphckpt.compat import aot, inductor
from graphckpt.compat.takeover import Lowerings
from graphckpt.cost.roofline import SCALED
from graphckpt.ir.check import check_graph, check_plan
from graphckpt.ir.plan import Plan
from graphckpt.session.pause import collection_paused
from graphckpt.session.pipeline import plan_of_modules, rank_plans, ranker_for
from graphckpt.solve.refine import refined_plans
from graphckpt.trace.lower import lower_joint


@dataclass(frozen=True, slots=True)
class PlanningRow:
    """One run. ``refine_s``: what a budget takes more where memory is short. ``growth_bytes``: how much the process grew from the
    joint graph to the plans. ``smallest_bytes``, ``refined_bytes``: the smallest peak by the model, before and after refining."""

    commit: str
    layers: int
    calls: int
    plans: int
    prepare_s: float
    stock_cut_s: float
    lower_s: float
    frontier_s: float
    refine_s: float
    total_s: float
    growth_bytes: int
    smallest_bytes: int
    refined_bytes: int


class _Done(BaseException):
    """Ends the compilation once the frontier is there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    layers = parser.parse_args(arguments).layers
    torch.set_num_threads(1)
    print(json.dumps(asdict(measure(layers))))
    return 0


def measure(layers: int) -> PlanningRow:
    """Plan the joint graph of a Llama of so many layers."""
    model, batch = build(replace(default_config(Family.LLAMA), layers=layers))
    rows: list[PlanningRow] = []

    def partition(
        joint: fx.GraphModule,
        inputs: Sequence[object],
        *,
        num_fwd_outputs: int,
        static_lifetime_input_indices: Sequence[int] | None = None,
        **_: object,
    ) -> aot.Partition:
        # As the backend does around each of these steps.
        with collection_paused():
            rows.append(_plan(joint, inputs, num_fwd_outputs, static_lifetime_input_indices, layers))
        raise _Done

    def backend(gm: fx.GraphModule, inputs: Sequence[object]) -> Callable[..., object]:
        return inductor.compile_with(gm, inputs, partition, "planning", {"force_disable_caches": True}, Lowerings())

    try:
        torch.compile(model, backend=backend)(**batch)
    except _Done:
        return rows[0]
    raise RuntimeError("a training graph was wanted, and torch.compile asked for no partition")


def _plan(
    joint: fx.GraphModule, inputs: Sequence[object], outputs: int, static: Sequence[int] | None, layers: int
) -> PlanningRow:
    before_bytes = _high_water_bytes()
    marks = [time.perf_counter()]
    prepared = aot.prepare_joint(joint, drop_checkpoint_tags=True)
    marks.append(time.perf_counter())
    modules = aot.stock_partition(prepared, inputs, outputs, static, is_prepared=True)
    marks.append(time.perf_counter())
    lowered = lower_joint(prepared, outputs)
    stock: Plan = plan_of_modules(lowered, "stock", *modules)
    check_graph(lowered.graph)
    check_plan(lowered.graph, stock)
    marks.append(time.perf_counter())
    materialised = [True] * len(lowered.graph.ops)
    ranker = ranker_for(lowered.graph, stock, materialised, 0.0, SCALED)
    frontier = rank_plans(lowered.graph, stock, ranker, None)
    marks.append(time.perf_counter())
    refined = [ranker.rank(plan) for plan in refined_plans(ranker, frontier, lowered.graph)]
    marks.append(time.perf_counter())
    prepare_s, stock_cut_s, lower_s, frontier_s, refine_s = (round(end - begin, 3) for begin, end in pairwise(marks))
    return PlanningRow(
        commit=current_commit(),
        layers=layers,
        calls=len(lowered.graph.ops),
        plans=len(frontier),
        prepare_s=prepare_s,
        stock_cut_s=stock_cut_s,
        lower_s=lower_s,
        frontier_s=frontier_s,
        refine_s=refine_s,
        total_s=round(marks[-1] - marks[0], 3),
        growth_bytes=_high_water_bytes() - before_bytes,
        smallest_bytes=frontier[-1].estimated_peak_bytes,
        refined_bytes=min(entry.estimated_peak_bytes for entry in refined),
    )


def _high_water_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    raise SystemExit(main())
