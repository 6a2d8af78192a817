"""Fine-tuning as people do it: Hugging Face's Trainer, and PEFT's adapters, on a model that was compiled in place.

    model.compile(backend="graphckpt", options=...)    Trainer(model).train()    two micro-batches a step
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from graphckpt import reports
from graphckpt.report.record import Record

pytest.importorskip("accelerate", reason="Trainer needs accelerate: pip install -e '.[dev]'")
peft = pytest.importorskip("peft", reason="adapters need peft: pip install -e '.[dev]'")

WORDS, LENGTH, STEPS, MICRO_BATCHES, BATCH = 64, 32, 2, 2, 4
pytestmark = [
    pytest.mark.usefixtures("compiled_anew"),
    # PEFT asks transformers by a name that is going away.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    # Trainer's loss is compiled as a graph of its own, and Dynamo looks at the logits that enter it.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


class Trained(NamedTuple):
    """What a training run leaves behind, and what was reported in it."""

    loss: float
    weights: dict[str, torch.Tensor]
    records: tuple[Record, ...]


def _model() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": WORDS, "n_positions": LENGTH, "n_embd": 32, "n_layer": 3, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0))


def _adapted() -> nn.Module:
    return _with_adapters(_model())


def _with_adapters(base: nn.Module) -> nn.Module:
    adapters: nn.Module = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))
    return adapters


def _train(model: nn.Module, folder: Path) -> Trained:
    """A few steps on sentences that are the same every time."""
    known = len(reports())
    numbers = torch.randint(WORDS, (STEPS * MICRO_BATCHES * BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
    sentences = [{"input_ids": row, "labels": row} for row in numbers]
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=MICRO_BATCHES,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=0,
    )
    dataset: Any = sentences
    result = Trainer(model=model, args=arguments, train_dataset=dataset).train()
    trained = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    return Trained(result.training_loss, trained, tuple(reports()[known:]))


@pytest.mark.parametrize(
    ("make", "budget_bytes"), [(_model, 700_000), (_adapted, 500_000)], ids=["all weights", "adapters"]
)
def test_training_under_a_budget_ends_where_plain_training_does(
    make: Callable[[], nn.Module], budget_bytes: int, tmp_path: Path
) -> None:
    """Two thirds of the bytes: the loss and the weights after two optimizer steps are those of the model as it is."""
    untouched = {name: value.detach().clone() for name, value in make().named_parameters() if value.requires_grad}
    plain = _train(make(), tmp_path)
    model = make()
    model.compile(backend="graphckpt", options={"activation_budget": budget_bytes})
    planned = _train(model, tmp_path)
    # The loss is a graph of its own, and may have nothing to recompute.
    assert {record.plan for record in planned.records} != {"stock"}
    assert all(record.predicted_peak_bytes <= record.budget.allowance_bytes for record in planned.records)
    assert planned.loss == pytest.approx(plain.loss, rel=1e-5)
    for name, value in plain.weights.items():
        moved = (value - untouched[name]).norm()
        assert moved > 0
        # Adam divides by the size of a gradient, so rounding shows where that is next to nothing.
        assert (planned.weights[name] - value).norm() < 1e-2 * moved, name


def _hooked() -> nn.Module:
    """Adapters as people write them for checkpointing: the embedding's result requires a gradient by a hook."""
    base: Any = _model()
    base.enable_input_require_grads()
    return _with_adapters(base)


def _prepared() -> nn.Module:
    """Adapters on what is prepared as a quantized model is; its weights are not quantized here."""
    base: Any = _model()
    base.is_loaded_in_4bit = True
    return _with_adapters(peft.prepare_model_for_kbit_training(base, gradient_checkpointing_kwargs={"use_reentrant": False}))


@pytest.mark.parametrize("make", [_hooked, _prepared])
def test_a_percentage_of_adapters_with_a_hook_is_of_the_step(make: Callable[[], nn.Module]) -> None:
    """The loss is a small graph of its own, or ends one: it is not refused for its share, and gradients are eager's."""
    numbers = torch.randint(WORDS, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
    gradients = []
    for share in (None, "60%"):
        model: Any = make()
        if share is not None:
            model.compile(backend="graphckpt", options={"activation_budget": share})
        known = len(reports())
        model(input_ids=numbers, labels=numbers).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.requires_grad])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
    records = reports()[known:]
    largest = max(records, key=lambda record: record.unbudgeted_peak_bytes)
    assert largest.predicted_peak_bytes <= 0.6 * largest.unbudgeted_peak_bytes
    assert all(record.predicted_peak_bytes <= 0.6 * largest.unbudgeted_peak_bytes for record in records)
