"""Made-up rows for the tests of the rig."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.prediction import PlanPoint, Prediction, SavedTensor
from benchmarks.record import HalfFigures, Host, Measurement, RowKey, RowRecord, SpotRow, Status, StepRow

HOST = Host("cpu (x86_64)", 2, "3.11.7", "2.13.0", "5.23.0")


def half(flops: int = 1_000, scaled_time_us: float = 500.0) -> HalfFigures:
    return HalfFigures(1, 10, flops, 2_000_000, scaled_time_us / 4, scaled_time_us)


def prediction(peak_bytes: int = 90_000_000, frontier_count: int = 5) -> Prediction:
    frontier = tuple(PlanPoint(f"plan {index}", None, 1000.0 + index) for index in range(frontier_count))
    saved = (SavedTensor("seeds", 16, "random"),)
    return Prediction(0, "plan 1", peak_bytes, 200_000_000, 50_000_000, 16, 2, 3.5, frontier, saved)


def step_row(
    peak_bytes: int = 100_000_000,
    *,
    flops: int = 1_000,
    scaled_time_us: float = 500.0,
    graphs: int = 1,
    fallbacks: tuple[str, ...] = (),
    predictions: tuple[Prediction, ...] = (),
    predicted_before_backward: bool = True,
) -> StepRow:
    return StepRow(
        shapes=("input_ids (4, 256) torch.int64",),
        start_bytes=30_000_000,
        peak_bytes=peak_bytes,
        left_bytes=30_000_000,
        graphs=graphs,
        graph_breaks=0,
        forward=half(flops, scaled_time_us),
        backward=half(flops, scaled_time_us),
        compile_seconds=20.0,
        step_seconds=0.1,
        loss=7.5,
        fallbacks=fallbacks,
        predictions=predictions,
        predicted_before_backward=predicted_before_backward,
    )


def record(way: str, step: StepRow | None = None, config: str = "gpt2", commit: str = "abc") -> RowRecord:
    key = RowKey(Measurement.STEP, config, way, commit)
    return RowRecord(key, Status.OK, "", HOST, step=step or step_row())


def spot(config: str = "gpt2:layers=3", status: Status = Status.OK, **figures: object) -> RowRecord:
    """A random row that counts: 90 of 100 MB."""
    key = RowKey(Measurement.SPOT, config, "ours:share=0.5", "abc")
    row = SpotRow(80_000_000, 120_000_000, 100_000_000, 90_000_000, 90_000_000, 1e-8, 7.5, 7.5, "plan 1")
    return RowRecord(key, status, "", HOST, spot=replace(row, **figures) if status is Status.OK else None)
