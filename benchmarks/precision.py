"""Doubles all the way: transformers names float32 inside its models, and so computes part of an fp64 model in fp32.

Enters: a class of transformers and its settings. Leaves: in fp64 a model with every such place in fp64 (the softmax of
eager attention, Llama's and T5's norms, rotary tables, the logits before the causal loss), else the model as it is.
Without this an fp64 loss has the grain of fp32, 5e-7 at 7.6: too coarse for a central difference.

The file of a model names dtypes through its global `torch`, so that global is what changes, before the model is built:
for a whole process and all models of that file, by the one that was built last.
Not guaranteed: two dtypes of one family side by side.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from torch import nn

IGNORED_LABEL = -100
SINGLE = ("float32", "float")


def double_throughout(kind: type[Any], settings: Any) -> Any:
    """The model in fp64, and nothing within it in fp32."""
    _name_space(kind).torch = _TORCH_IN_DOUBLES
    model = kind(settings).double()
    if kind.__name__.endswith(("LMHeadModel", "ForCausalLM")):
        model.loss_function = causal_loss
    return model


def as_published(kind: type[Any], settings: Any) -> Any:
    """The model as transformers has it, whatever was built before."""
    _name_space(kind).torch = torch
    return kind(settings)


def causal_loss(logits: torch.Tensor, labels: torch.Tensor, vocab_size: int, **_: object) -> torch.Tensor:
    """The loss of transformers' causal models in the dtype of the logits."""
    shifted = nn.functional.pad(labels, (0, 1), value=IGNORED_LABEL)[..., 1:]
    return nn.functional.cross_entropy(logits.view(-1, vocab_size), shifted.reshape(-1), ignore_index=IGNORED_LABEL)


def _name_space(kind: type[Any]) -> Any:
    return sys.modules[kind.__module__]


def _torch_in_doubles() -> ModuleType:
    doubled = ModuleType("torch")
    doubled.__dict__.update(torch.__dict__)
    doubled.__dict__.update(dict.fromkeys(SINGLE, torch.float64))
    return doubled


_TORCH_IN_DOUBLES = _torch_in_doubles()
