"""Are the gradients under a budget those of the same backend without one?

Enters: a config and a way with a budget; for a peer the other side is plain `torch.compile`. Leaves: a
`GradientRow`. Weights, batch and the seed of the dropout masks are the same on both sides. In fp64 each side is also
held against its own loss: a central difference along a random direction, the masks drawn from the same seed at every
evaluation. Its error is that of the third derivative, which falls with the square of the step, plus the loss's rounding
over the step, plus the jump of every ReLU that flips within it: models that have such kinks take a step that crosses none.

Not guaranteed: that no kink lies within the smaller step; on the models of the rig what is left is rounding, 1e-5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch._dynamo
from torch import nn

from benchmarks.configs import Batch, Family, ModelConfig, build
from benchmarks.measure import Runnable, step
from benchmarks.modelled import record_kernels
from benchmarks.prediction import read_predictions
from benchmarks.record import GradientRow
from benchmarks.ways import Way, prepare, without_budget

MASK_SEED = 7
DIRECTION_SEED = 11
DIFFERENCE_STEP = 1e-5
KINKED_STEP = 1e-7
KINKED = (Family.T5, Family.RESNET)
RATIO_BARS = {"fp32": 1e-5, "fp64": 1e-9}
DIRECTIONAL_BAR = 1e-3


@dataclass(frozen=True)
class FirstStep:
    """A model that has made one step of its first batch, with its gradients in place."""

    run: Runnable
    model: nn.Module
    batch: Batch
    loss: float

    def gradients(self) -> tuple[torch.Tensor, ...]:
        """Copies of all there are."""
        return tuple(p.grad.detach().clone() for p in self.model.parameters() if p.grad is not None)


@dataclass(frozen=True)
class Side:
    """The gradients of one way, its loss and its directional error (fp64 only)."""

    gradients: tuple[torch.Tensor, ...]
    loss: float
    directional_error: float | None


def compare_gradients(config: ModelConfig, way: Way) -> GradientRow:
    """Run the way and the same backend without a budget, from the same weights, on the same batch."""
    reference = _side(config, without_budget(way))
    known = len(read_predictions(way))
    budgeted = _side(config, way)
    return GradientRow(
        difference_ratio=difference_ratio(budgeted.gradients, reference.gradients),
        directional_error=budgeted.directional_error,
        reference_directional_error=reference.directional_error,
        loss=budgeted.loss,
        reference_loss=reference.loss,
        predictions=read_predictions(way)[known:],
    )


def difference_ratio(gradients: Sequence[torch.Tensor], reference: Sequence[torch.Tensor]) -> float:
    """Global norm of the difference over the global norm of the reference."""
    if len(gradients) != len(reference):
        raise ValueError(f"gradients: wanted {len(reference)}, got {len(gradients)}; both sides need the same model")
    differences = [left.double() - right.double() for left, right in zip(gradients, reference, strict=True)]
    return _global_norm(differences) / _global_norm([tensor.double() for tensor in reference])


def directional_error(
    run: Runnable, model: nn.Module, batch: Batch, gradients: Sequence[torch.Tensor], distance: float = DIFFERENCE_STEP
) -> float:
    """Relative error of <gradient, direction> against the central difference of the loss, ``distance`` to either side."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    generator = torch.Generator().manual_seed(DIRECTION_SEED)
    drawn = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
    # Rows of padding get no gradient by torch's convention, whatever the loss makes of them.
    for row in _padding_rows(model, parameters, drawn):
        row.zero_()
    length = _global_norm(drawn)
    direction = [(tensor / length).to(p) for tensor, p in zip(drawn, parameters, strict=True)]
    _move(parameters, direction, distance)
    above = _loss(run, batch)
    _move(parameters, direction, -2 * distance)
    below = _loss(run, batch)
    _move(parameters, direction, distance)
    measured = (above - below) / (2 * distance)
    claimed = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    return abs(measured - claimed) / abs(measured)


def first_step(config: ModelConfig, way: Way) -> FirstStep:
    """Compile the config's model anew, and train it for one step with the masks of `MASK_SEED`."""
    torch._dynamo.reset()
    model, batch = build(config)
    run = prepare(way, model)
    return FirstStep(run, model, batch, step(run, batch, MASK_SEED).item())


def _padding_rows(
    model: nn.Module, parameters: Sequence[nn.Parameter], drawn: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    by_parameter = {id(parameter): tensor for parameter, tensor in zip(parameters, drawn, strict=True)}
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding) and module.padding_idx is not None]
    return [by_parameter[id(e.weight)][e.padding_idx] for e in embeddings if id(e.weight) in by_parameter]


def _side(config: ModelConfig, way: Way) -> Side:
    # A cached graph would skip the partitioner, and with it the plan that is on trial.
    with record_kernels():
        first = first_step(config, way)
        gradients = first.gradients()
        distance = KINKED_STEP if config.family in KINKED else DIFFERENCE_STEP
        is_exact = config.dtype == "fp64"
        error = directional_error(first.run, first.model, first.batch, gradients, distance) if is_exact else None
    return Side(gradients, first.loss, error)


def _loss(run: Runnable, batch: Batch) -> float:
    # With gradients enabled: another graph, the inference one, would draw other masks from the same seed.
    torch.manual_seed(MASK_SEED)
    return float(run(**batch).loss.detach())


def _move(parameters: Sequence[nn.Parameter], direction: Sequence[torch.Tensor], distance: float) -> None:
    with torch.no_grad():
        for parameter, part in zip(parameters, direction, strict=True):
            parameter.add_(part, alpha=distance)


def _global_norm(tensors: Sequence[torch.Tensor]) -> float:
    return math.sqrt(sum(float(tensor.pow(2).sum()) for tensor in tensors))
