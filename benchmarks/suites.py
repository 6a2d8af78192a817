"""Which rows answer which question: named suites, each a function of the rows there are already.

Enters: a `Scope` (families, attentions, layers, device) and the rows measured so far. Leaves: the rows to measure, in
order. A suite whose budgets rest on measured peaks names the rows it needs first, and the others once those are there.
The rows measured so far are those of one commit, and of peers whose rows stand in at it.
Not guaranteed: later rows of a suite whose first rows failed; there is nothing to derive them from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.configs import DROPOUTS, FAMILIES, Family, ModelConfig, default_config
from benchmarks.matching import PEERS, budget_at, model_rows, peers_of
from benchmarks.prediction import Prediction
from benchmarks.record import Measurement, RowRecord, StepRow
from benchmarks.row import RowSpec
from benchmarks.spot import drawn_rows
from benchmarks.ways import COMPILE, HF_CKPT, KNOBS, SMALLEST, UNBUDGETED, UNREFINED, Way, ours

BUDGET_COUNT = 8
RANDOM_ROWS = 100
# A prime, unlike every other size.
LONG = 2039
FRONTIER_FRACTIONS = (0.25, 0.5, 0.75)

SQRT = ours(policy="sqrt")


@dataclass(frozen=True)
class Scope:
    """Which models a suite covers; layers None stands for what each family has by default."""

    families: tuple[Family, ...] = FAMILIES
    attentions: tuple[str, ...] = ("eager", "sdpa")
    layers: int | None = None
    device: str = "cpu"

    def configs(self) -> list[ModelConfig]:
        """The configs without dropout, in their families' dtype; ResNet-50 has no attention to choose and no layers to count."""
        found = []
        for family in self.families:
            config = default_config(family)
            if family is not Family.LLAMA_LARGE:
                config = replace(config, device=self.device)
            if family is Family.RESNET:
                found.append(config)
                continue
            layers = self.layers or config.layers
            found += [replace(config, layers=layers, attention=attention) for attention in self.attentions]
        return found


Suite = Callable[[Scope, Sequence[RowRecord]], list[RowSpec]]


def peers(scope: Scope, rows: Sequence[RowRecord]) -> list[RowSpec]:
    """Everybody else, with stock flags."""
    del rows
    return [RowSpec(config, way) for config in scope.configs() for way in (COMPILE, *PEERS)]


def curve(scope: Scope, rows: Sequence[RowRecord]) -> list[RowSpec]:
    """Ours inside what each peer took, and as small as it gets.

    The measured peak of a peer is the budget, where its row counts and is below torch.compile's.
    """
    specs = []
    for config in scope.configs():
        found = [peer.compared for peer in peers_of(model_rows(rows, config.text()))]
        # Two values of the knob may end at one peak, which is one budget.
        budgeted = dict.fromkeys(budget_at(step) for step in found if step is not None)
        specs += [RowSpec(config, way) for way in (COMPILE, *PEERS, *budgeted, SMALLEST)]
    return specs


def prediction(scope: Scope, rows: Sequence[RowRecord]) -> list[RowSpec]:
    """Predicted against measured peaks, over the whole frontier of every model."""
    specs = []
    for config in scope.configs():
        specs += [RowSpec(config, way) for way in (UNBUDGETED, SMALLEST, SQRT)]
        first = find_step(rows, RowSpec(config, UNBUDGETED))
        if first is not None and first.predictions:
            last = len(first.predictions[0].frontier) - 1
            indices = sorted({round(fraction * last) for fraction in FRONTIER_FRACTIONS}) if last > 0 else []
            specs += [RowSpec(config, ours(policy=f"index:{index}")) for index in indices]
    return specs


def budgets(scope: Scope, rows: Sequence[RowRecord]) -> list[RowSpec]:
    """Eight budgets a model, evenly from the measured smallest peak to the measured peak without a budget."""
    specs = []
    for config in scope.configs():
        specs += [RowSpec(config, way) for way in (COMPILE, UNBUDGETED, SMALLEST)]
        largest = find_step(rows, RowSpec(config, UNBUDGETED))
        smallest = find_step(rows, RowSpec(config, SMALLEST))
        if largest is not None and smallest is not None:
            specs += [RowSpec(config, way) for way in budget_ways(smallest, largest)]
    return specs


def budget_ways(smallest: StepRow, largest: StepRow, count: int = BUDGET_COUNT) -> list[Way]:
    """Budgets evenly spaced from the smallest peak, as predicted, to the measured one without a budget.

    The lowest is the smallest that the backend promises to keep. Every second one is given as bytes of the whole device.
    """
    promised_bytes = smallest.predicted_peak_bytes
    low_bytes = smallest.peak_bytes if promised_bytes is None else promised_bytes
    ways = []
    for index in range(count):
        peak_bytes = low_bytes + (largest.peak_bytes - low_bytes) * index // (count - 1)
        if index % 2:
            # The rig has no optimizer, so no bytes are to be reserved for one.
            ways.append(ours(budget=largest.start_bytes + peak_bytes, optimizer=0))
        else:
            ways.append(ours(activation_budget=peak_bytes))
    return ways


def gradients(scope: Scope, rows: Sequence[RowRecord]) -> list[RowSpec]:
    """Gradients at the smallest plan and half way to it, with and without dropout; ResNet-50 in fp64 only."""
    specs = []
    for config in _gradient_configs(scope):
        hardest = RowSpec(config, SMALLEST, Measurement.GRADIENTS)
        specs.append(hardest)
        halfway = _halfway_bytes(find_predictions(rows, hardest))
        if halfway is not None:
            specs.append(RowSpec(config, ours(activation_budget=halfway), Measurement.GRADIENTS))
    return specs


def smallest(scope: Scope, rows: Sequence[RowRecord]) -> list[RowSpec]:
    """How small each way gets, and what that costs."""
    del rows
    ways = (COMPILE, HF_CKPT, KNOBS[-1], SMALLEST)
    return [RowSpec(config, way) for config in scope.configs() for way in ways]


def refining(scope: Scope, rows: Sequence[RowRecord]) -> list[RowSpec]:
    """How small ours gets without and with the plans that are annealed where memory is short."""
    del rows
    return [RowSpec(config, way) for config in scope.configs() for way in (UNREFINED, SMALLEST)]


def unbudgeted(scope: Scope, rows: Sequence[RowRecord]) -> list[RowSpec]:
    """Ours without a budget against plain `torch.compile`: nothing may be lost."""
    del rows
    return [RowSpec(config, way) for config in scope.configs() for way in (COMPILE, UNBUDGETED)]


def compile_time(scope: Scope, rows: Sequence[RowRecord]) -> list[RowSpec]:
    """What planning adds to compiling: without a budget, half way down, and at the smallest plan, with the model's attention and,
    of the last two, with ours.

    Seconds of another commit were taken at another hour, beside other work: torch.compile is measured at its own commit.
    """
    specs = []
    for config in scope.configs():
        specs += [RowSpec(config, way, own_commit=True) for way in (COMPILE, UNBUDGETED, SMALLEST)]
        first = find_step(rows, RowSpec(config, SMALLEST))
        halfway = _halfway_bytes(first.predictions) if first is not None else None
        ways = [ours(attention="auto", policy="smallest")]
        if halfway is not None:
            ways += [ours(activation_budget=halfway), ours(attention="auto", activation_budget=halfway)]
        specs += [RowSpec(config, way) for way in ways]
    return specs


def find_step(rows: Sequence[RowRecord], spec: RowSpec) -> StepRow | None:
    """The figures of this row, if it has been measured."""
    found = [row.step for row in rows if row.key == spec.key(row.key.commit) and row.step is not None]
    return found[-1] if found else None


def find_predictions(rows: Sequence[RowRecord], spec: RowSpec) -> tuple[Prediction, ...]:
    """What the backend reported in this gradient row, if it has been measured."""
    found = [row.gradients for row in rows if row.key == spec.key(row.key.commit) and row.gradients is not None]
    return found[-1].predictions if found else ()


def _gradient_configs(scope: Scope) -> list[ModelConfig]:
    found = []
    for config in scope.configs():
        if config.family is Family.RESNET:
            found.append(replace(config, dtype="fp64"))
            continue
        found += [replace(config, dtype=dtype, dropout=dropout) for dtype in ("fp32", "fp64") for dropout in DROPOUTS]
    return found


def _halfway_bytes(predictions: Sequence[Prediction]) -> int | None:
    """The middle between the smallest and the unbudgeted peak, None where one is unknown."""
    if not predictions or any(graph.smallest_peak_bytes is None for graph in predictions):
        return None
    ends = [(graph.smallest_peak_bytes or 0, graph.unbudgeted_peak_bytes) for graph in predictions]
    return (max(low for low, _ in ends) + max(high for _, high in ends)) // 2


def random_rows(scope: Scope, rows: Sequence[RowRecord]) -> list[RowSpec]:
    """A hundred drawn models and budgets, of those in scope; the scope's layers and attentions choose nothing."""
    del rows
    drawn = ((config, way) for config, way in drawn_rows(RANDOM_ROWS) if config.family in scope.families)
    return [RowSpec(replace(config, device=scope.device), way, Measurement.SPOT) for config, way in drawn]


def attention(scope: Scope, rows: Sequence[RowRecord]) -> list[RowSpec]:
    """What fusing attention is worth: a long Llama of 8 heads, without a budget, as small as it gets, and in between. Of a scope,
    its device."""
    llama = replace(default_config(Family.LLAMA), device=scope.device)
    config = replace(llama, layers=4, batch=1, sequence=LONG, width=512, heads=8)
    fused, smallest = ours(attention="auto"), ours(attention="auto", policy="smallest")
    specs = [RowSpec(config, way) for way in (COMPILE, fused, HF_CKPT, SMALLEST, smallest)]
    ends = [find_step(rows, RowSpec(config, way)) for way in (smallest, fused)]
    if ends[0] is not None and ends[1] is not None:
        low_bytes, high_bytes = (end.peak_bytes for end in ends if end is not None)
        between = (round(low_bytes + share * (high_bytes - low_bytes)) for share in FRONTIER_FRACTIONS)
        specs += [RowSpec(config, ours(attention="auto", activation_budget=size_bytes)) for size_bytes in between]
    return specs


SUITES: dict[str, Suite] = {
    "peers": peers,
    "curve": curve,
    "prediction": prediction,
    "budgets": budgets,
    "gradients": gradients,
    "smallest": smallest,
    "refining": refining,
    "unbudgeted": unbudgeted,
    "compile_time": compile_time,
    "random": random_rows,
    "attention": attention,
}
