"""What less memory costs: the extra time of ours over a peer's, at the peer's own peak.

    python -m benchmarks.extra benchmarks/rows/house.jsonl

Extra time is modelled scaled time less that of torch.compile's row. Enters: rows. Leaves: two markdown tables and a line. The
first has a line a model: torch's knob, summed over the values whose rows count and peak below torch.compile's; HF checkpointing;
our smallest plan's peak over HF checkpointing's. "Not compared" stands where no row of the peer counts and peaks below. The
second holds each bar, what was measured and a verdict, with the commits of the rows of ours it rests on. A row of ours that was
refused, went over its budget or otherwise does not count is named, enters no figure, and its bars are missed.

Not guaranteed: that everything was measured. What was not shows a dash and is counted in the last line, and a bar that holds
over a part of the comparisons is met so far. Bars and count are about every model of the suites' default scope, and others that
have rows; one without rows is unmeasured, and has no line.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bars import Bar, Value, Verdict, each, over_all
from benchmarks.configs import Family, parse_config
from benchmarks.judge import scaled_time_us
from benchmarks.markdown import markdown_table
from benchmarks.matching import Pair, compile_step, model_rows, pairs, smallest_pair
from benchmarks.record import Measurement, RowRecord, StepRow, read_rows
from benchmarks.suites import Scope

NOTHING = "-"
NOT_COMPARED = "not compared"
NO_FIGURE = "no figure"
# Plans whose modelled times differ by less are taken to be as fast.
TIE = 0.005
HEADINGS = (
    "model",
    "ours at",
    "knob values compared",
    "knob, extra ms",
    "ours, extra ms",
    "ratio",
    "ours slower than the knob",
    "HF, extra ms",
    "ours, extra ms",
    "ratio",
    "smallest / HF peak",
)
BAR_HEADINGS = ("ours over the peer's", "bar", "measured", "verdict")


@dataclass(frozen=True)
class Model:
    """The comparisons of one model."""

    config: str
    unbudgeted: StepRow | None
    knobs: tuple[Pair, ...]
    checkpointing: Pair
    smallest: Pair

    @property
    def all_pairs(self) -> tuple[Pair, ...]:
        """Every comparison, each once."""
        return (*self.knobs, self.checkpointing, self.smallest)

    def extra_us(self, steps: Sequence[StepRow]) -> float:
        """Modelled time above torch.compile's, summed."""
        unbudgeted_us = scaled_time_us(self.unbudgeted) if self.unbudgeted is not None else math.nan
        return sum(scaled_time_us(step) - unbudgeted_us for step in steps)


@dataclass(frozen=True)
class Extra:
    """Extra time at the peaks of some peers' rows, summed. A side is None as long as a row of it is missing or fails."""

    peer_us: float | None
    ours_us: float | None
    value: Value


def models(rows: Sequence[RowRecord]) -> list[Model]:
    """The models of these rows, in the order of their first step rows, then those of the default scope without any."""
    found = []
    for config in dict.fromkeys([*_with_rows(rows), *(config.text() for config in Scope().configs())]):
        own = model_rows(rows, config)
        checkpointing, *knobs = pairs(own)
        found.append(Model(config, compile_step(own), tuple(knobs), checkpointing, smallest_pair(own)))
    return found


def extra(model: Model, compared: Sequence[Pair]) -> Extra:
    """Extra time at the peaks of these peers: theirs, ours and the ratio."""
    peers = [pair.peer.compared for pair in compared if pair.peer.compared is not None]
    steps = [pair.steps for pair in compared if pair.steps is not None]
    failure = "; ".join(dict.fromkeys(_failure(pair) for pair in compared if pair.failure))
    peer_us = model.extra_us(peers) if peers else None
    # A sum over a part of the peers' peaks is no match for theirs over all.
    ours_us = model.extra_us([ours for _, ours in steps]) if peers and len(steps) == len(peers) else None
    ratio = ratio_of(ours_us, peer_us) if ours_us is not None and peer_us is not None else None
    unmeasured = any(pair.unmeasured for pair in compared)
    return Extra(peer_us, ours_us, Value(model.config, ratio, failure, unmeasured, _commits(compared)))


def ratio_of(ours_us: float, peer_us: float) -> float | None:
    """Ours over the peer's. Where the peer's costs nothing: None, or infinity where ours takes longer than the peer."""
    if peer_us > 0:
        return ours_us / peer_us
    # So written that a time that is no number is a loss too.
    return None if ours_us <= peer_us else math.inf


def time_value(model: Model, pair: Pair) -> Value:
    """Our modelled time over the peer's."""
    ratio = scaled_time_us(pair.steps[1]) / scaled_time_us(pair.steps[0]) if pair.steps is not None else None
    return Value(model.config, ratio, _failure(pair), pair.unmeasured, _commits([pair]))


def peak_value(model: Model, pair: Pair) -> Value:
    """Our peak over the peer's."""
    ratio = pair.steps[1].peak_bytes / pair.steps[0].peak_bytes if pair.steps is not None else None
    return Value(model.config, ratio, pair.failure, pair.unmeasured, _commits([pair]))


def bars(found: Sequence[Model]) -> list[Bar]:
    """Every bar and its verdict."""
    knobs = [extra(model, model.knobs).value for model in found]
    times = [time_value(model, pair) for model in found for pair in model.knobs]
    checkpointing = [extra(model, [model.checkpointing]).value for model in found]
    smallest = [peak_value(model, model.smallest) for model in found]
    gpt2 = [value for value in smallest if parse_config(value.model).family is Family.GPT2]
    return [
        each("extra time at the peaks of torch's knob, each model", knobs, 0.5),
        each("modelled time at the peaks of torch's knob, each value", times, 1 + TIE),
        over_all("extra time at the peak of HF checkpointing, mean", checkpointing, 0.8, statistics.fmean),
        each("extra time at the peak of HF checkpointing, each model", checkpointing, 0.95),
        each("smallest peak over HF checkpointing's, GPT-2", gpt2, 0.85),
        over_all("smallest peak over HF checkpointing's, geometric mean", smallest, 0.95, statistics.geometric_mean),
        each("smallest peak over HF checkpointing's, each model", smallest, 1.0),
    ]


def render(rows: Sequence[RowRecord]) -> str:
    """Both tables, and how much is not measured."""
    found = models(rows)
    verdicts = [[bar.name, f"{bar.limit:g}", bar.measured, bar.verdict_text] for bar in bars(found)]
    every = [pair for model in found for pair in model.all_pairs]
    missing = f"Not measured: {sum(pair.unmeasured for pair in every)} of {len(every)} comparisons."
    told = _with_rows(rows)
    lines = [_line(model) for model in found if model.config in told]
    return "\n\n".join([markdown_table(HEADINGS, lines), markdown_table(BAR_HEADINGS, verdicts), missing])


def has_matches(rows: Sequence[RowRecord]) -> bool:
    """Whether a row of ours stands at any peer's peak."""
    return any(pair.ours is not None for model in models(rows) for pair in (*model.knobs, model.checkpointing))


def _with_rows(rows: Sequence[RowRecord]) -> list[str]:
    return list(dict.fromkeys(row.key.config for row in rows if row.key.measurement is Measurement.STEP))


def _commits(compared: Sequence[Pair]) -> tuple[str, ...]:
    """The commits of ours in these pairs, each once."""
    return tuple(dict.fromkeys(pair.ours.key.short_commit for pair in compared if pair.ours is not None))


def _line(model: Model) -> list[str]:
    compared = sum(pair.peer.compared is not None for pair in model.knobs)
    smallest = peak_value(model, model.smallest)
    return [
        model.config,
        ", ".join(_commits(model.all_pairs)) or NOTHING,
        f"{compared} of {len(model.knobs)}",
        *_extra_cells(model, model.knobs),
        _slower(model),
        *_extra_cells(model, [model.checkpointing]),
        smallest.failure or _number(smallest.ratio, [model.smallest]),
    ]


def _extra_cells(model: Model, compared: Sequence[Pair]) -> list[str]:
    found = extra(model, compared)
    peer_ms, ours_ms = (us / 1e3 if us is not None else None for us in (found.peer_us, found.ours_us))
    return [
        _number(peer_ms, compared),
        found.value.failure or _number(ours_ms, compared),
        _number(found.value.ratio, compared),
    ]


def _number(value: float | None, compared: Sequence[Pair]) -> str:
    return f"{value:.3f}" if value is not None else _absent(compared)


def _absent(compared: Sequence[Pair]) -> str:
    """A dash where something is to be measured yet, or words where it is not."""
    if all(pair.peer.excluded for pair in compared):
        return NOT_COMPARED
    return NOTHING if any(pair.unmeasured for pair in compared) else NO_FIGURE


def _slower(model: Model) -> str:
    """Where ours takes longer than the knob by more than a tie."""
    times = [(pair, time_value(model, pair).ratio) for pair in model.knobs]
    slower = [f"{100 * (ratio - 1):.1f} %{_where(pair)}" for pair, ratio in times if ratio is not None and ratio > 1 + TIE]
    if slower or any(ratio is not None for _, ratio in times):
        return ", ".join(slower) or "never"
    return _absent(model.knobs)


def _failure(pair: Pair) -> str:
    return f"{pair.failure}{_where(pair)}" if pair.failure else ""


def _where(pair: Pair) -> str:
    return f" at {pair.peer.compared.peak_bytes / 1e6:.1f} MB" if pair.peer.compared is not None else ""


def main(arguments: list[str] | None = None) -> int:
    """Print the tables of the files; exits with 1 when a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extra", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    rows = [row for path in parser.parse_args(arguments).files for row in read_rows(path)]
    print(render(rows))
    return 1 if any(bar.verdict is Verdict.MISSED for bar in bars(models(rows))) else 0


if __name__ == "__main__":
    raise SystemExit(main())
