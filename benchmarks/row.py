"""One row in one process: from a config, a way and a measurement to its record.

    python -m benchmarks.row --config gpt2:layers=4 --way compile --json

Enters: the texts of a config and a way. Leaves: with `--json` the record as the last line of standard output, else
the rendered row. Exits with 0 whenever there is a record, whatever its status.
Not guaranteed: a record when the process is killed; the rig writes one in its place.
"""

from __future__ import annotations

import argparse
import logging
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch._dynamo
import transformers
from torch._dynamo.utils import counters

from benchmarks.commit import current_commit
from benchmarks.configs import ModelConfig, build, make_batch, parse_config
from benchmarks.gradients import compare_gradients
from benchmarks.measure import measure
from benchmarks.modelled import H100, SCALED, KernelLog, Phase, modelled_time_us, record_kernels
from benchmarks.prediction import Prediction, read_predictions
from benchmarks.record import HalfFigures, Host, Measurement, RowKey, RowRecord, Status, StepRow, to_line
from benchmarks.spot import measure_spot
from benchmarks.table import render
from benchmarks.ways import BACKEND, Kind, Unsupported, Way, parse_way, prepare

REFUSAL = "BudgetInfeasible"
REASON_LENGTH = 400


@dataclass(frozen=True)
class RowSpec:
    """What one row is to measure. `own_commit`: its seconds are compared, so a peer's row of another commit is no use."""

    config: ModelConfig
    way: Way
    measurement: Measurement = Measurement.STEP
    own_commit: bool = False

    def key(self, commit: str) -> RowKey:
        """The key its record will carry."""
        return RowKey(self.measurement, self.config.text(), self.way.text(), commit)


def run_row(spec: RowSpec, commit: str) -> RowRecord:
    """Measure one row; whatever goes wrong is its status and reason."""
    key, host = spec.key(commit), describe_host(spec.config)
    try:
        if spec.measurement is Measurement.GRADIENTS:
            return RowRecord(key, Status.OK, "", host, gradients=compare_gradients(spec.config, spec.way))
        if spec.measurement is Measurement.SPOT:
            return RowRecord(key, Status.OK, "", host, spot=measure_spot(spec.config, spec.way))
        return RowRecord(key, Status.OK, "", host, step=_measure_step(spec))
    except Unsupported as error:
        return RowRecord(key, Status.UNSUPPORTED, _without_paths(str(error)), host)
    except Exception as error:
        # Dynamo wraps what a backend raises, so the refusal is looked for by name in the whole text.
        refused = REFUSAL in f"{type(error).__name__}: {error}"
        return RowRecord(key, Status.REFUSED if refused else Status.ERROR, _short(error), host)


def describe_host(config: ModelConfig) -> Host:
    """The device and the versions the figures depend on."""
    device = torch.cuda.get_device_name() if config.device == "cuda" else f"cpu ({platform.machine()})"
    return Host(device, torch.get_num_threads(), platform.python_version(), torch.__version__, transformers.__version__)


def _measure_step(spec: RowSpec) -> StepRow:
    model, first_batch = build(spec.config)
    shapes = tuple(f"{name} {tuple(value.shape)} {value.dtype}" for name, value in first_batch.items())
    del first_batch
    before_backward: list[tuple[Prediction, ...]] = []
    counters.clear()
    with record_kernels() as log, _backend_warnings() as warnings:
        figures = measure(
            prepare(spec.way, model),
            model,
            lambda seed: make_batch(spec.config, seed),
            after_first_forward=lambda: before_backward.append(read_predictions(spec.way)),
        )
    predictions = read_predictions(spec.way)
    graphs = counters["stats"]["unique_graphs"]
    return StepRow(
        shapes=shapes,
        start_bytes=figures.memory.start_bytes,
        peak_bytes=figures.memory.peak_bytes,
        left_bytes=figures.memory.left_bytes,
        graphs=graphs,
        graph_breaks=sum(counters["graph_break"].values()),
        forward=_half(log, Phase.FORWARD),
        backward=_half(log, Phase.BACKWARD),
        compile_seconds=figures.compile_seconds,
        step_seconds=figures.step_seconds,
        loss=figures.loss,
        fallbacks=(*warnings, *_fallbacks(spec.way, log, graphs, predictions)),
        predictions=predictions,
        predicted_before_backward=before_backward[0] == predictions,
    )


def _half(log: KernelLog, phase: Phase) -> HalfFigures:
    kernels = log.of(phase)
    return HalfFigures(
        compilations=log.compilations.count(phase),
        kernels=len(kernels),
        flops=sum(kernel.flops for kernel in kernels),
        moved_bytes=sum(kernel.moved_bytes for kernel in kernels),
        h100_time_us=modelled_time_us(kernels, H100),
        scaled_time_us=modelled_time_us(kernels, SCALED),
    )


def _fallbacks(way: Way, log: KernelLog, graphs: int, predictions: tuple[Prediction, ...]) -> list[str]:
    """What of the run went around the compiled graphs, or around our backend."""
    if way.kind is Kind.EAGER:
        return []
    found = []
    forward, backward = log.compilations.count(Phase.FORWARD), log.compilations.count(Phase.BACKWARD)
    if not backward:
        found.append("no backward graph was compiled")
    if forward != graphs:
        found.append(f"{graphs} graphs but {forward} forward compilations")
    if way.kind is Kind.OURS and len(predictions) < backward:
        found.append(f"{backward} backward graphs but {len(predictions)} reports of the backend")
    return found


@contextmanager
def _backend_warnings() -> Iterator[list[str]]:
    """Collect what our backend logs as a warning: it trains on by some other way than it was asked."""
    texts: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(_without_paths(record.getMessage()))

    handler = Collector(logging.WARNING)
    logger = logging.getLogger(BACKEND)
    logger.addHandler(handler)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)


def _short(error: Exception) -> str:
    """The error on one line, without the paths of the machine it happened on."""
    return _without_paths(" ".join(f"{type(error).__name__}: {error}".split()))[:REASON_LENGTH]


def _without_paths(text: str) -> str:
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+", "", text)


def main(arguments: list[str] | None = None) -> None:
    """Run one row and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.row", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, type=parse_config, help="family:name=value,...")
    parser.add_argument("--way", required=True, type=parse_way, help="compile, hf_ckpt, knob:0.4, eager, ours:...")
    parser.add_argument("--measurement", default=Measurement.STEP, type=Measurement, choices=list(Measurement))
    parser.add_argument("--commit", default=None, help="the commit to write down (default: asked of git)")
    parser.add_argument("--json", action="store_true", help="print the record as one line of JSON")
    chosen = parser.parse_args(arguments)
    spec = RowSpec(chosen.config, chosen.way, chosen.measurement)
    record = run_row(spec, chosen.commit or current_commit())
    print(to_line(record) if chosen.json else render([record]), flush=True)


if __name__ == "__main__":
    main()
