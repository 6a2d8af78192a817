"""fp64 models compute in fp64, and all others as transformers has them."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.loss.loss_utils import ForCausalLMLoss

from benchmarks.configs import Family, ModelConfig, build
from benchmarks.precision import causal_loss


class SingleGradients(TorchDispatchMode):
    """Collects fp32 results that a gradient may flow through: those wider than a table of positions."""

    def __init__(self, least_elements: int) -> None:
        super().__init__()
        self.least_elements = least_elements
        self.found: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if getattr(result, "dtype", None) is torch.float32 and result.numel() >= self.least_elements:
            self.found.add(str(func))
        return result


TEXT_FAMILIES = (Family.GPT2, Family.LLAMA, Family.BERT, Family.T5)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_an_fp64_model_has_no_single_activation(family: Family) -> None:
    model, batch = build(ModelConfig(family, layers=1, dtype="fp64", sequence=8))
    # 8 x 8 tables of relative positions, and no activation of 4 x 8 tokens, lie below this.
    with SingleGradients(least_elements=4 * 8 * 4) as singles:
        loss = model(**batch).loss
    assert loss.dtype is torch.float64
    assert not singles.found


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_an_fp32_model_built_after_it_is_transformers_own(family: Family) -> None:
    build(ModelConfig(family, layers=1, dtype="fp64", sequence=8))
    model, batch = build(ModelConfig(family, layers=1, sequence=8))
    assert model(**batch).loss.dtype is torch.float32


def test_the_causal_loss_is_that_of_transformers() -> None:
    logits = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(16).view(2, 8)
    assert torch.equal(causal_loss(logits, labels, vocab_size=16), ForCausalLMLoss(logits, labels, vocab_size=16))


def test_rotary_tables_do_not_depend_on_what_was_built_before() -> None:
    config = ModelConfig(Family.LLAMA, layers=1, dtype="fp64", sequence=8)
    build(ModelConfig(Family.LLAMA, layers=1, sequence=8))
    losses = []
    for _ in range(2):
        model, batch = build(config)
        losses.append(model(**batch).loss.item())
    assert losses[0] == losses[1]
