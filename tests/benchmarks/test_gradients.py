"""The comparison of gradients, on a model small enough to do by hand."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from benchmarks.gradients import KINKED_STEP, difference_ratio, directional_error


@dataclass
class Output:
    """What a model of transformers returns, as far as the rig reads it."""

    loss: torch.Tensor


class Model(nn.Module):
    """A loss that is not quadratic, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 1)).double()

    def forward(self, inputs: torch.Tensor) -> Output:
        return Output(self.layers(inputs).exp().mean())


class Kinked(nn.Module):
    """The sum of ReLUs, each of them bent 1e-6 from where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.full((4,), 1e-6, dtype=torch.float64))

    def forward(self, inputs: torch.Tensor) -> Output:
        return Output((self.places.relu() * inputs).sum())


def trained() -> tuple[Model, dict[str, torch.Tensor], tuple[torch.Tensor, ...]]:
    model, batch = Model(), {"inputs": torch.linspace(-1, 1, 32, dtype=torch.float64).view(4, 8)}
    torch.manual_seed(7)
    model(**batch).loss.backward()
    return model, batch, tuple(p.grad for p in model.parameters() if p.grad is not None)


def test_the_ratio_is_of_global_norms() -> None:
    reference = [torch.tensor([3.0]), torch.tensor([4.0])]
    assert difference_ratio([torch.tensor([3.0]), torch.tensor([4.5])], reference) == pytest.approx(0.1)
    assert difference_ratio(reference, reference) == 0


def test_gradients_of_different_models_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted 2, got 1"):
        difference_ratio([torch.ones(1)], [torch.ones(1), torch.ones(1)])


def test_true_gradients_agree_with_the_loss() -> None:
    model, batch, gradients = trained()
    assert directional_error(model, model, batch, gradients) < 1e-6


def test_a_step_that_crosses_no_kink_shows_the_gradient() -> None:
    """Beyond 1e-6 on one side each sum is flat, so that the larger step finds half of its slope."""
    model, batch = Kinked(), {"inputs": torch.arange(1, 5, dtype=torch.float64)}
    gradients = (batch["inputs"],)
    model(**batch).loss.backward()
    assert directional_error(model, model, batch, gradients) > 1e-1
    assert directional_error(model, model, batch, gradients, KINKED_STEP) < 1e-6


def test_masks_drawn_again_show() -> None:
    model, batch, _ = trained()
    model.zero_grad()
    torch.manual_seed(8)
    model(**batch).loss.backward()
    redrawn = tuple(p.grad for p in model.parameters() if p.grad is not None)
    assert directional_error(model, model, batch, redrawn) > 1e-2


class Padded(nn.Module):
    """The sum of embeddings squared; row 0 is padding, and there, so that its gradient is left out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(4, 3, padding_idx=0).double()
        with torch.no_grad():
            self.table.weight[0] = 2.0

    def forward(self, inputs: torch.Tensor) -> Output:
        return Output(self.table(inputs).square().sum())


def test_rows_of_padding_have_no_direction() -> None:
    model, batch = Padded(), {"inputs": torch.tensor([0, 1, 2, 0])}
    model(**batch).loss.backward()
    gradients = tuple(p.grad for p in model.parameters() if p.grad is not None)
    assert directional_error(model, model, batch, gradients) < 1e-6


def test_the_parameters_are_put_back() -> None:
    model, batch, gradients = trained()
    before = [p.detach().clone() for p in model.parameters()]
    directional_error(model, model, batch, gradients)
    after = list(model.parameters())
    assert all(torch.allclose(a, b, rtol=0, atol=1e-15) for a, b in zip(after, before, strict=True))
