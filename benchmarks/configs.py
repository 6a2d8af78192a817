"""The models every row is measured on: from a frozen config to a model with random weights and a batch.

Enters: a `ModelConfig`, or its text (`gpt2:layers=4,attention=sdpa`). Leaves: a model in training mode and a batch of
keyword arguments that holds its labels. The same config gives the same weights, and the same seed the same batch.
Not guaranteed: equal weights over versions of transformers, whose initialisation may change; rows name the version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

import torch
import transformers
from torch import nn

from benchmarks.precision import as_published, double_throughout

VOCABULARY = 2048
HEADS = 4
CLASSES = 1000
DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16}

Batch = dict[str, torch.Tensor]
# A class of transformers and the settings to build it with.
Choice = tuple[type[Any], Any]


class Family(StrEnum):
    """The models of the rig; `llama_large` has 349 million parameters at its 24 layers, for a GPU."""

    GPT2 = "gpt2"
    LLAMA = "llama"
    BERT = "bert"
    T5 = "t5"
    VIT = "vit"
    RESNET = "resnet"
    LLAMA_LARGE = "llama_large"


# Those that are measured on every device; the large Llama is for a GPU alone.
FAMILIES = (Family.GPT2, Family.LLAMA, Family.BERT, Family.T5, Family.VIT, Family.RESNET)
# The dropout of these configs reaches the attention probabilities or the residual stream; ResNet-50 has none.
DROPOUTS = (0.0, 0.1)
IMAGE_SIDES = {Family.VIT: 224, Family.RESNET: 160}


class ConfigError(ValueError):
    """A config that names no model of the rig."""


@dataclass(frozen=True)
class ModelConfig:
    """One model and the shape of its batch. `sequence` means nothing to image models, nor `layers` and `width` to ResNet-50.

    `width`: of the residual stream, shared by `heads`; the rest of a layer grows with it. The large Llama has its own of both.
    """

    family: Family
    layers: int = 8
    attention: str = "eager"
    dropout: float = 0.0
    dtype: str = "fp32"
    device: str = "cpu"
    batch: int = 4
    sequence: int = 256
    width: int = 256
    heads: int = HEADS

    def __post_init__(self) -> None:
        if self.attention not in ("eager", "sdpa"):
            raise ConfigError(f"attention: wanted eager or sdpa, got {self.attention!r}")
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype: wanted one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.family is Family.LLAMA_LARGE and (self.width, self.heads) != (ModelConfig.width, HEADS):
            raise ConfigError(f"width: {self.family} has its own, got {self.width} and {self.heads} heads; leave them out")
        if self.heads < 1 or self.width % self.heads:
            raise ConfigError(f"width: wanted a multiple of {self.heads}, the number of heads, got {self.width}")
        if self.family is Family.RESNET and self.dropout:
            raise ConfigError(f"dropout: ResNet-50 has none, got {self.dropout}; leave it 0")

    def text(self) -> str:
        """The config as it is written in a row's key: the family and whatever differs from the defaults."""
        default = default_config(self.family)
        changed = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(default, field.name)
        ]
        return f"{self.family}:{','.join(changed)}" if changed else str(self.family)


def default_config(family: Family) -> ModelConfig:
    """The config a family's name alone stands for."""
    if family is Family.LLAMA_LARGE:
        return ModelConfig(family, layers=24, dtype="bf16", device="cuda", sequence=1024)
    return ModelConfig(family)


def parse_config(text: str) -> ModelConfig:
    """Read `family` or `family:name=value,...` back into a config."""
    family, _, rest = text.partition(":")
    if family not in list(Family):
        raise ConfigError(f"family: wanted one of {', '.join(Family)}, got {family!r}")
    config = default_config(Family(family))
    for pair in filter(None, rest.split(",")):
        name, _, value = pair.partition("=")
        if name == "family" or name not in {field.name for field in fields(config)}:
            raise ConfigError(f"config: no field {name!r} in {text!r}; write family:layers=4,attention=sdpa")
        kind = type(getattr(config, name))
        config = replace(config, **{name: kind(value)})
    return config


def build(config: ModelConfig, seed: int = 0) -> tuple[nn.Module, Batch]:
    """The model in training mode, weights drawn after `torch.manual_seed(seed)`, and its first batch."""
    torch.manual_seed(seed)
    kind, settings = _CHOICES[config.family](config)
    model = double_throughout(kind, settings) if config.dtype == "fp64" else as_published(kind, settings)
    if config.family is Family.GPT2:
        # Without it the loss function logs a warning inside forward, and the log call breaks the graph.
        model.loss_type = "ForCausalLM"
    model.train()
    model.to(device=config.device, dtype=DTYPES[config.dtype])
    return model, make_batch(config, seed)


def make_batch(config: ModelConfig, seed: int) -> Batch:
    """A batch drawn from its own generator, so that a new seed gives a batch no run has seen."""
    generator = torch.Generator().manual_seed(seed)
    if config.family in IMAGE_SIDES:
        side = IMAGE_SIDES[config.family]
        pixels = torch.randn(config.batch, 3, side, side, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, CLASSES, (config.batch,), generator=generator)
        values = {"pixel_values": pixels.to(DTYPES[config.dtype]), "labels": labels}
    else:
        tokens = torch.randint(0, VOCABULARY, (config.batch, config.sequence), generator=generator)
        values = {"input_ids": tokens, "labels": tokens}
    # The two names of one tensor must stay one tensor: labels are the inputs.
    moved = {id(value): value.to(config.device) for value in values.values()}
    return {name: moved[id(value)] for name, value in values.items()}


def _beyond_declared(config: ModelConfig, **settings: int) -> dict[str, Any]:
    """What transformers takes for every model although the config classes do not declare it."""
    attention = {} if config.family is Family.RESNET else {"attn_implementation": config.attention}
    return {**attention, **settings}


def _gpt2(config: ModelConfig) -> Choice:
    settings = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=config.width,
        n_head=config.heads,
        n_layer=config.layers,
        n_positions=4096,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=config.dropout,
        embd_pdrop=config.dropout,
        attn_pdrop=config.dropout,
        use_cache=False,
        **_beyond_declared(config),
    )
    return transformers.GPT2LMHeadModel, settings


def _llama(config: ModelConfig) -> Choice:
    settings = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=config.width,
        intermediate_size=3 * config.width,
        num_attention_heads=config.heads,
        num_key_value_heads=2,
        num_hidden_layers=config.layers,
        attention_dropout=config.dropout,
        use_cache=False,
        **_beyond_declared(config),
    )
    return transformers.LlamaForCausalLM, settings


def _llama_large(config: ModelConfig) -> Choice:
    settings = transformers.LlamaConfig(
        vocab_size=32000,
        hidden_size=1024,
        intermediate_size=2816,
        num_attention_heads=16,
        num_key_value_heads=8,
        num_hidden_layers=config.layers,
        max_position_embeddings=4096,
        attention_dropout=config.dropout,
        use_cache=False,
        **_beyond_declared(config),
    )
    return transformers.LlamaForCausalLM, settings


def _bert(config: ModelConfig) -> Choice:
    settings = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.width,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        use_cache=False,
        **_beyond_declared(config),
    )
    return transformers.BertForMaskedLM, settings


def _t5(config: ModelConfig) -> Choice:
    settings = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=config.width,
        d_kv=config.width // config.heads,
        d_ff=4 * config.width,
        num_layers=config.layers,
        num_heads=config.heads,
        dropout_rate=config.dropout,
        use_cache=False,
        **_beyond_declared(config, decoder_start_token_id=0),
    )
    return transformers.T5ForConditionalGeneration, settings


def _vit(config: ModelConfig) -> Choice:
    settings = transformers.ViTConfig(
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.width,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        image_size=IMAGE_SIDES[Family.VIT],
        patch_size=14,
        problem_type="single_label_classification",
        **_beyond_declared(config, num_labels=CLASSES),
    )
    return transformers.ViTForImageClassification, settings


def _resnet(config: ModelConfig) -> Choice:
    settings = transformers.ResNetConfig(
        problem_type="single_label_classification",
        **_beyond_declared(config, num_labels=CLASSES),
    )
    return transformers.ResNetForImageClassification, settings


_CHOICES: dict[Family, Callable[[ModelConfig], Choice]] = {
    Family.GPT2: _gpt2,
    Family.LLAMA: _llama,
    Family.LLAMA_LARGE: _llama_large,
    Family.BERT: _bert,
    Family.T5: _t5,
    Family.VIT: _vit,
    Family.RESNET: _resnet,
}
