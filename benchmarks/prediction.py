"""What our backend said before a step ran: its reports, copied into records of the rig.

Enters: the way of the run. Leaves: one `Prediction` a graph, oldest first; none for a peer, which never imports
graphckpt, and none where it is not installed. The only place of the rig that touches graphckpt.
Not guaranteed: that a report was written before the graph ran; the row reads it twice and compares.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from benchmarks.ways import BACKEND, Kind, Way

# What the plan is called that is Inductor's own cut, and no choice of ours.
STOCK = "stock"


@dataclass(frozen=True)
class PlanPoint:
    """One plan of a graph's frontier; the peak is None where the plan was never lowered."""

    plan: str
    peak_bytes: int | None
    time_us: float


@dataclass(frozen=True)
class SavedTensor:
    """A tensor kept for backward, and why."""

    name: str
    size_bytes: int
    reason: str


@dataclass(frozen=True)
class Prediction:
    """The report of one graph. Peaks are bytes above the start of the step, forward and backward together."""

    graph_id: int
    plan: str
    peak_bytes: int
    unbudgeted_peak_bytes: int
    smallest_peak_bytes: int | None
    random_saved_bytes: int
    dry_lowerings: int
    plan_seconds: float
    frontier: tuple[PlanPoint, ...]
    saved: tuple[SavedTensor, ...]


def read_predictions(way: Way) -> tuple[Prediction, ...]:
    """The reports of this process so far."""
    if way.kind is not Kind.OURS or importlib.util.find_spec(BACKEND) is None:
        return ()
    return tuple(_copy(report) for report in importlib.import_module(BACKEND).reports())


def _copy(report: Any) -> Prediction:
    return Prediction(
        graph_id=report.graph_id,
        plan=report.plan,
        peak_bytes=report.predicted_peak_bytes,
        unbudgeted_peak_bytes=report.unbudgeted_peak_bytes,
        smallest_peak_bytes=report.smallest_peak_bytes,
        random_saved_bytes=report.random_saved_bytes,
        dry_lowerings=report.dry_lowerings,
        plan_seconds=report.plan_seconds,
        frontier=tuple(
            PlanPoint(point.plan, point.predicted_peak_bytes, point.modelled_time_us) for point in report.frontier
        ),
        saved=tuple(SavedTensor(tensor.name, tensor.size_bytes, tensor.reason) for tensor in report.saved),
    )
