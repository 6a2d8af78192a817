"""What a program's steps may differ by, and how much they do.

In fp64 the limit is derived: how far eager's own result moves when every parameter and every input moves by a few units in the last
place. In fp32 and bf16 it is twice eager's own error against fp64. A finite difference is compared with the error of the difference
itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tests.fuzz.programs import StepResult, Trainer, trainer
from tests.fuzz.spec import Program

_EPS = torch.finfo(torch.float64).eps
_JITTER = 4 * _EPS
_SENSITIVITY_FACTOR = 64
_FLOOR = {
    "float64": 256 * _EPS,
    "float32": 8 * torch.finfo(torch.float32).eps,
    "bfloat16": torch.finfo(torch.bfloat16).eps,
}
_OWN_ERROR_FACTOR = 2
_DISTANCE = 1e-4
_FORWARD_ROUNDING = 64


class Difference(NamedTuple):
    """Relative differences of two runs, the largest over their steps: of losses, of all gradients, of all buffers."""

    loss: float = 0.0
    gradients: float = 0.0
    buffers: float = 0.0


class Reference(NamedTuple):
    """Eager's steps in fp64, and what a compiled program may differ from them by."""

    steps: list[StepResult]
    limit: Difference


def reference(program: Program, seed: int) -> Reference:
    """Run ``program`` in eager, more than once, for its result and for the limit."""
    steps = trainer(program, seed, torch.float64).train()
    if program.dtype == "float64":
        other = trainer(program, seed, torch.float64, jitter=_JITTER).train()
        factor = _SENSITIVITY_FACTOR
    else:
        other = trainer(program, seed, torch.float32, autocast=program.dtype == "bfloat16").train()
        factor = _OWN_ERROR_FACTOR
    floor = _FLOOR[program.dtype]
    return Reference(steps, Difference(*(factor * off + floor for off in difference(other, steps))))


def difference(ours: Sequence[StepResult], wanted: Sequence[StepResult]) -> Difference:
    """How far two runs of the same steps are apart."""
    found = Difference()
    for a, b in zip(ours, wanted, strict=True):
        here = Difference(
            abs(a.loss - b.loss) / abs(b.loss) if math.isfinite(a.loss) else math.inf,
            _relative(a.gradients, b.gradients),
            _relative(a.buffers, b.buffers),
        )
        found = Difference(*(max(pair) for pair in zip(found, here, strict=True)))
    return found


def excesses(ours: Sequence[StepResult], wanted: Sequence[StepResult], limit: Difference) -> Iterator[str]:
    """One sentence for every step and quantity that is further off than the limit."""
    for number, (a, b) in enumerate(zip(ours, wanted, strict=True)):
        for kind in ("gradients", "buffers"):
            missing = set(getattr(b, kind)) ^ set(getattr(a, kind))
            if missing:
                yield f"{kind} of step {number} are there on one side only: {sorted(missing)}"
        if set(a.gradients) != set(b.gradients):
            continue
        for kind, off, most in zip(Difference._fields, difference([a], [b]), limit, strict=True):
            if not off <= most:
                yield f"{kind} of step {number} off by {off:.1e} (at most {most:.1e}){_worst(kind, a, b)}"


def slope_excess(run: Trainer, gradients: dict[str, Tensor], limit: float) -> str:
    """A sentence if the gradients of the first step are not the slope of its loss; "" if they are.

    Two central differences, extrapolated; they may be off by what the two differ, and by the rounding of the losses.
    """
    parameters = {name: gradient for name, gradient in gradients.items() if not name.startswith("input ")}
    size = _norm(parameters)
    direction = {name: gradient / size for name, gradient in parameters.items()}
    values = {}
    for distance in (-2 * _DISTANCE, -_DISTANCE, _DISTANCE, 2 * _DISTANCE):
        run.restore()
        run.move(direction, distance)
        values[distance] = run.loss(0)
    near = (values[_DISTANCE] - values[-_DISTANCE]) / (2 * _DISTANCE)
    far = (values[2 * _DISTANCE] - values[-2 * _DISTANCE]) / (4 * _DISTANCE)
    slope = (4 * near - far) / 3
    loss_rounding = max(limit, _FORWARD_ROUNDING * _EPS) * abs(values[_DISTANCE]) / _DISTANCE
    most = abs(near - far) + loss_rounding
    if abs(slope - size) <= most:
        return ""
    return f"gradients of step 0 against a finite difference off by {abs(slope - size) / size:.1e} (at most {most / size:.1e})"


def _worst(kind: str, a: StepResult, b: StepResult) -> str:
    if kind == "loss":
        return ""
    ours, wanted = getattr(a, kind), getattr(b, kind)
    worst = max(wanted, key=lambda name: _distance(ours[name], wanted[name]))
    return f", most in {worst}"


def _relative(ours: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    if set(ours) != set(wanted):
        return math.inf
    off = math.sqrt(sum(_distance(ours[name], wanted[name]) ** 2 for name in wanted))
    size = _norm(wanted)
    return off / size if size else off


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm())


def _norm(tensors: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors.values()))
