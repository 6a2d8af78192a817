"""Judges one program: trains it compiled, without a budget, as small as possible and at 80 % of its peak, and compares.

Right means: loss, gradients and buffers are eager's (`tests.fuzz.judge` derives the limits); the measured peak is within the budget
and within what was predicted; a budget is refused only below the peak of the smallest plan; nothing else is refused, unless by an
error of graphckpt's own that says what to do.

Masks of dropout are not eager's. There a budget may change nothing, a forward without gradients has the loss of one with them, and
gradients are the slope of the loss.
"""

from __future__ import annotations

import enum
import logging
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch._dynamo.utils import counters

import graphckpt
from graphckpt.errors import BudgetInfeasible, CompilerMissing, GraphckptError, InstanceError, PlanError, VerifyError
from tests.fuzz.judge import Reference, excesses, reference, slope_excess
from tests.fuzz.programs import StepResult, Trainer, trainer
from tests.fuzz.spec import Program

SHARE = 0.8
_PREDICTION_SHARE = 1.01
_BUDGET_SHARE = 1.0005
# Scalars of eager code around the graph: the loss, its gradient, their sums.
_SCALAR_BYTES = 512
_DEFECTS = (PlanError, CompilerMissing, InstanceError, VerifyError)
_TAIL_FRAMES = 3


class Verdict(enum.Enum):
    """What became of a program; later ones are worse."""

    RIGHT = "right"
    REFUSED = "refused"
    OVER = "over"
    WRONG = "wrong"
    CRASHED = "crashed"


_ORDER = list(Verdict)


class Variant(enum.Enum):
    """How a program is compiled."""

    UNBUDGETED = "unbudgeted"
    SMALLEST = "smallest"
    BUDGET = "budget"


class Finding(NamedTuple):
    """One thing that is not as it should be."""

    verdict: Verdict
    variant: Variant
    what: str


class Measured(NamedTuple):
    """Bytes of one variant: as measured (None where other things than one graph allocate) and as predicted, and its graphs."""

    peak_bytes: int | None
    predicted_bytes: int | None
    graphs: int


@dataclass(slots=True)
class Judgement:
    """Everything found about one program. ``infeasible``: the budget lies below the smallest plan, and was refused."""

    findings: list[Finding] = field(default_factory=list)
    measured: dict[Variant, Measured] = field(default_factory=dict)
    infeasible: bool = False

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings'."""
        return max((finding.verdict for finding in self.findings), key=_ORDER.index, default=Verdict.RIGHT)

    def add(self, verdict: Verdict, variant: Variant, what: str) -> None:
        """Note a finding."""
        self.findings.append(Finding(verdict, variant, what))


def check(
    program: Program, seed: int, variants: tuple[Variant, ...] = tuple(Variant), backend: str = "graphckpt"
) -> Judgement:
    """Judge ``program`` in ``variants``. Raises what eager raises, if it does: such a program is not to be drawn."""
    wanted = reference(program, seed)
    judgement = Judgement()
    base: list[StepResult] | None = None if program.dropout else wanted.steps
    for variant in variants:
        try:
            with _Warnings() as warned:
                steps = _Checked(program, seed, variant, backend, judgement).run(wanted)
        except Exception as error:  # whatever is raised where eager trains is what is looked for
            _note_error(judgement, variant, error)
            continue
        if base is not None:
            for what in excesses(steps, base, wanted.limit):
                judgement.add(Verdict.WRONG, variant, what)
        base = steps if base is None else base
        unbound = counters["frames"]["total"] - counters["frames"]["ok"]
        if variant is Variant.BUDGET and (unbound or not judgement.measured[variant].graphs) and not warned:
            judgement.add(
                Verdict.WRONG, variant, f"{unbound} frames run in eager beside the budget, and nothing says so"
            )
    return judgement


@dataclass(slots=True)
class _Checked:
    """One variant of a program, compiled and trained."""

    program: Program
    seed: int
    variant: Variant
    backend: str
    judgement: Judgement

    def run(self, wanted: Reference) -> list[StepResult]:
        """Train it; judge what needs no other run. The steps are to be compared."""
        torch.compiler.reset()
        counters.clear()
        known = len(graphckpt.reports())
        dtype = torch.float64 if self.program.dtype == "float64" else torch.float32
        autocast = self.program.dtype == "bfloat16"
        compiled = trainer(self.program, self.seed, dtype, compiled=self._compile, autocast=autocast)
        steps = compiled.train()
        records = graphckpt.reports()[known:]
        whole = (
            counters["frames"]["total"]
            == counters["frames"]["ok"]
            == counters["stats"]["unique_graphs"]
            == len(records)
        )
        alone = self.program.peak_is_one_graphs and whole and len(records) == 1
        peak = compiled.peak_bytes(0) if alone else None
        predicted = records[0].predicted_peak_bytes if len(records) == 1 else None
        self.judgement.measured[self.variant] = Measured(peak, predicted, len(records))
        self._judge_peak()
        if self.program.random and self.variant is Variant.UNBUDGETED:
            for what in _replays(compiled, steps, wanted):
                self.judgement.add(Verdict.WRONG, self.variant, what)
        return steps

    def _compile(self, model: torch.nn.Module) -> Callable[..., torch.Tensor]:
        dynamic = {"static": False, "automatic": None, "yes": True}[self.program.dynamic]
        options: dict[str, Any] = {}
        if self.variant is Variant.SMALLEST:
            options["policy"] = "smallest"
        elif self.variant is Variant.BUDGET:
            options["activation_budget"] = self._limit_bytes() or f"{SHARE:.0%}"
        return torch.compile(model, backend=self.backend, dynamic=dynamic, options=options or None)

    def _limit_bytes(self) -> int | None:
        unbudgeted = self.judgement.measured.get(Variant.UNBUDGETED)
        return int(SHARE * unbudgeted.peak_bytes) if unbudgeted and unbudgeted.peak_bytes else None

    def _judge_peak(self) -> None:
        peak, predicted, _ = self.judgement.measured[self.variant]
        if peak is None:
            return
        if predicted is not None and peak > predicted * _PREDICTION_SHARE + _SCALAR_BYTES:
            self.judgement.add(Verdict.OVER, self.variant, f"peak {peak}, predicted {predicted}")
        limit = self._limit_bytes() if self.variant is Variant.BUDGET else None
        if limit is not None and peak > limit * _BUDGET_SHARE + _SCALAR_BYTES:
            self.judgement.add(Verdict.OVER, self.variant, f"peak {peak}, budget {limit}")


def _replays(compiled: Trainer, steps: list[StepResult], wanted: Reference) -> Iterator[str]:
    """What is wrong with forwards that are run again from the same random state."""
    compiled.restore()
    again = compiled.loss(0)
    most = wanted.limit.loss * abs(again)
    if not abs(again - steps[0].loss) <= most:
        yield f"a later forward from the same random state has loss {again!r}, the first had {steps[0].loss!r}"
    compiled.restore()
    with torch.no_grad():
        without = compiled.loss(0)
    if not abs(without - again) <= most:
        yield f"without gradients the loss is {without!r}, with them {again!r}, from the same random state"
    if compiled.program.dropout and compiled.program.true_gradient:
        excess = slope_excess(compiled, steps[0].gradients, wanted.limit.loss)
        if excess:
            yield excess


def _note_error(judgement: Judgement, variant: Variant, error: BaseException) -> None:
    ours = next((e for e in _chain(error) if isinstance(e, GraphckptError)), None)
    if isinstance(ours, BudgetInfeasible):
        _note_infeasible(judgement, variant, ours)
    elif ours is not None and not isinstance(ours, _DEFECTS):
        judgement.add(Verdict.REFUSED, variant, f"{type(ours).__name__}: {ours}")
    else:
        frames = "".join(traceback.format_tb(error.__traceback__)[-_TAIL_FRAMES:])
        judgement.add(Verdict.CRASHED, variant, f"{type(error).__name__}: {str(error)[:400]}\n{frames}")


def _note_infeasible(judgement: Judgement, variant: Variant, error: BudgetInfeasible) -> None:
    smallest = judgement.measured.get(Variant.SMALLEST)
    if variant is not Variant.BUDGET:
        judgement.add(Verdict.WRONG, variant, f"BudgetInfeasible where nothing is asked for: {error}")
    elif smallest is None:
        judgement.add(Verdict.REFUSED, variant, f"BudgetInfeasible, and no smallest plan to compare with: {error}")
    elif smallest.graphs > 1:
        judgement.add(Verdict.REFUSED, variant, f"BudgetInfeasible for one of {smallest.graphs} graphs: {error}")
    elif error.wanted_bytes >= max(smallest.peak_bytes or 0, smallest.predicted_bytes or 0):
        judgement.add(Verdict.WRONG, variant, f"BudgetInfeasible above the smallest plan's peak {smallest}: {error}")
    else:
        judgement.infeasible = True


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """``error`` and what it was raised from; Dynamo keeps that in an attribute."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        here = waiting.pop(0)
        if here is not None and id(here) not in seen:
            seen.add(id(here))
            yield here
            waiting += [getattr(here, "inner_exception", None), here.__cause__, here.__context__]


class _Warnings(logging.Handler):
    """Collects the warnings of graphckpt while it is entered."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())

    def __enter__(self) -> list[str]:
        logging.getLogger("graphckpt").addHandler(self)
        return self.found

    def __exit__(self, *_: object) -> None:
        logging.getLogger("graphckpt").removeHandler(self)
