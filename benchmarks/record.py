"""The record of a row and its one line of JSON.

Enters: a `RowRecord`, or a line of JSON. Leaves: the other. A record read back equals the one written.
Not guaranteed: that lines of an older rig can be read; a field that is unknown, or missing and has no default, is an error that
names it.
"""

from __future__ import annotations

import json
import typing
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Any

from benchmarks.prediction import Prediction

SHORT_COMMIT_LENGTH = 8


class RecordError(ValueError):
    """A line that is no record of this rig."""


class Measurement(StrEnum):
    """What a row measures."""

    STEP = "step"
    GRADIENTS = "gradients"
    SPOT = "spot"


class Status(StrEnum):
    """How a row ended. `unsupported`: a peer cannot run the model; `refused`: our backend raised on the budget."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    REFUSED = "refused"
    ERROR = "error"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class RowKey:
    """What makes two rows the same row. Config and way are texts, as `configs` and `ways` write them."""

    measurement: Measurement
    config: str
    way: str
    commit: str

    @property
    def short_commit(self) -> str:
        """The commit as tables show it: its first digits, and whether the tree differed from it."""
        head, dirty, _ = self.commit.partition("-dirty")
        return head[:SHORT_COMMIT_LENGTH] + dirty


@dataclass(frozen=True)
class Host:
    """Where a row was measured, as far as its figures depend on it."""

    device: str
    threads: int
    python: str
    torch: str
    transformers: str


@dataclass(frozen=True)
class HalfFigures:
    """What Inductor scheduled for one half of all graphs."""

    compilations: int
    kernels: int
    flops: int
    moved_bytes: int
    h100_time_us: float
    scaled_time_us: float


@dataclass(frozen=True)
class StepRow:
    """The figures of a step row. Compile seconds are those of step one, which it includes."""

    shapes: tuple[str, ...]
    start_bytes: int
    peak_bytes: int
    left_bytes: int
    graphs: int
    graph_breaks: int
    forward: HalfFigures
    backward: HalfFigures
    compile_seconds: float
    step_seconds: float
    loss: float
    fallbacks: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    predicted_before_backward: bool

    @property
    def predicted_peak_bytes(self) -> int | None:
        """The largest peak that a graph of the row was predicted to have, None for a peer."""
        return max((graph.peak_bytes for graph in self.predictions), default=None)


@dataclass(frozen=True)
class GradientRow:
    """Gradients of a way against the same backend without a budget.

    `difference_ratio`: global norm of the difference over the global norm of the reference.
    `directional_error`: relative error of the directional derivative against a central difference, fp64 only.
    """

    difference_ratio: float
    directional_error: float | None
    reference_directional_error: float | None
    loss: float
    reference_loss: float
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True)
class SpotRow:
    """A step inside a budget that was drawn: its peak, and its gradients against the same backend without a budget.

    `smallest_bytes`: of the plan the backend named when it was asked for a byte; `predicted_bytes`: of the plan it then took.
    """

    smallest_bytes: int
    unbudgeted_bytes: int
    budget_bytes: int
    predicted_bytes: int
    peak_bytes: int
    difference_ratio: float
    loss: float
    reference_loss: float
    plan: str

    @property
    def over_bytes(self) -> int:
        """By how much the peak is above the budget, 0 where it is kept."""
        return max(0, self.peak_bytes - self.budget_bytes)


@dataclass(frozen=True)
class RowRecord:
    """One row: its key, how it ended and its figures, if it came to any."""

    key: RowKey
    status: Status
    reason: str
    host: Host | None = None
    step: StepRow | None = None
    gradients: GradientRow | None = None
    spot: SpotRow | None = None


def to_line(record: RowRecord) -> str:
    """One line of JSON."""
    return json.dumps(asdict(record), allow_nan=True)


def from_line(line: str) -> RowRecord:
    """Read one line of JSON back."""
    try:
        record: RowRecord = _read(RowRecord, json.loads(line), "row")
    except json.JSONDecodeError as error:
        raise RecordError(f"row: wanted one line of JSON, got {line[:60]!r}; delete the line, run again") from error
    return record


def read_rows(path: Path) -> list[RowRecord]:
    """All rows of a file, a later line in place of an earlier one of the same key; none where there is no file yet."""
    if not path.exists():
        return []
    rows = [from_line(line) for line in path.read_text().splitlines() if line.strip()]
    return list({row.key: row for row in rows}.values())


def append_row(path: Path, record: RowRecord) -> None:
    """Add one row to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(to_line(record) + "\n")


def _read(kind: Any, value: Any, where: str) -> Any:
    """Turn parsed JSON into the type a field declares."""
    if typing.get_origin(kind) is UnionType:
        return None if value is None else _read(typing.get_args(kind)[0], value, where)
    if typing.get_origin(kind) is tuple:
        return tuple(_read(typing.get_args(kind)[0], item, where) for item in value)
    if is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    return kind(value)


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    names = {field.name for field in fields(kind)}
    wanted = {field.name for field in fields(kind) if field.default is MISSING}
    if not isinstance(value, dict) or not wanted <= set(value) <= names:
        got = sorted(value) if isinstance(value, dict) else value
        raise RecordError(f"{where}: wanted the fields {sorted(names)}, got {got}; run the row again with this rig")
    types = typing.get_type_hints(kind)
    return kind(**{name: _read(types[name], value[name], f"{where}.{name}") for name in value})
