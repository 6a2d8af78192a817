"""The ways a model is run: from a `Way` and a model to the callable whose steps are measured.

Enters: a way, or its text (`compile`, `hf_ckpt`, `knob:0.4`, `ours:activation_budget=90000000`). Leaves: a callable
with the model's signature. Peers run with their stock flags; ours keeps the model's attention, as they do, unless the way
says otherwise. A way configures torch for the whole process, so a process runs one row. Not guaranteed: that a peer can
run every model; `Unsupported` says why it cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
import torch._functorch.config
from torch import nn

BACKEND = "graphckpt"
# Of the way from the smallest budget that is promised to what no budget needs; `benchmarks.spot` turns it into bytes.
SHARE = "share"
BUDGET_OPTIONS = ("budget", "activation_budget", "optimizer", "policy", SHARE)
KNOB_VALUES = (0.8, 0.6, 0.4, 0.2, 0.05)

OptionValue = int | float | str


class Kind(StrEnum):
    """Who runs the model."""

    EAGER = "eager"
    COMPILE = "compile"
    HF_CKPT = "hf_ckpt"
    KNOB = "knob"
    OURS = "ours"


class WayError(ValueError):
    """A way that the rig does not know."""


class Unsupported(RuntimeError):
    """A peer that cannot run this model; its row says why and does not count."""


@dataclass(frozen=True)
class Way:
    """One way: who runs the model, the knob's value for `knob`, the backend's options for `ours`."""

    kind: Kind
    knob: float = 1.0
    options: tuple[tuple[str, OptionValue], ...] = ()

    def text(self) -> str:
        """The way as it is written in a row's key."""
        if self.kind is Kind.KNOB:
            return f"{self.kind}:{self.knob}"
        if self.options:
            return f"{self.kind}:{','.join(f'{name}={value}' for name, value in self.options)}"
        return str(self.kind)

    def option(self, name: str) -> OptionValue | None:
        """The value of one of our options, None when it is not given."""
        return dict(self.options).get(name)


def ours(**options: OptionValue) -> Way:
    """Our backend with these options."""
    return Way(Kind.OURS, options=tuple(options.items()))


COMPILE = Way(Kind.COMPILE)
HF_CKPT = Way(Kind.HF_CKPT)
KNOBS = tuple(Way(Kind.KNOB, knob=value) for value in KNOB_VALUES)
UNBUDGETED = ours()
SMALLEST = ours(policy="smallest")
# The smallest of the planner alone.
UNREFINED = ours(policy="smallest", refine=0)


def without_budget(way: Way) -> Way:
    """The run a way is held against: ours with its other options kept, for everybody else plain `torch.compile`."""
    if way.kind is not Kind.OURS:
        return COMPILE
    return Way(Kind.OURS, options=tuple(pair for pair in way.options if pair[0] not in BUDGET_OPTIONS))


def parse_way(text: str) -> Way:
    """Read a way back from its text."""
    kind, _, rest = text.partition(":")
    if kind not in list(Kind):
        raise WayError(f"way: wanted one of {', '.join(Kind)}, got {kind!r}")
    if kind == Kind.KNOB:
        return Way(Kind.KNOB, knob=_knob_value(rest))
    if rest and kind != Kind.OURS:
        raise WayError(f"way: {kind} takes no options, got {rest!r}")
    pairs = [pair.partition("=") for pair in filter(None, rest.split(","))]
    return Way(Kind(kind), options=tuple((name, _option_value(value)) for name, _, value in pairs))


def prepare(way: Way, model: nn.Module) -> Callable[..., Any]:
    """The callable that runs `model` this way. Compilation happens on its first call."""
    if way.kind is Kind.EAGER:
        return model
    if way.kind is Kind.OURS:
        # Its peers keep the attention that a model has.
        options: dict[str, Any] = {"attention": "keep", **dict(way.options)}
        return torch.compile(model, backend=BACKEND, options=options)
    if way.kind is Kind.HF_CKPT:
        _checkpoint_every_layer(model)
    if way.kind is Kind.KNOB:
        torch._functorch.config.activation_memory_budget = way.knob
    return torch.compile(model)


def _checkpoint_every_layer(model: nn.Module) -> None:
    enable = getattr(model, "activation_checkpointing_enable", None)
    if enable is None:
        raise Unsupported(f"{type(model).__name__} has no activation_checkpointing_enable")
    try:
        enable()
    except ValueError as error:
        raise Unsupported(str(error)) from error
    layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    if not layers:
        raise Unsupported(f"{type(model).__name__} has no layer that checkpointing was turned on for")


def _knob_value(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise WayError(f"knob: wanted a number from 0 to 1, got {text!r}; write knob:0.4") from error
    if not 0 <= value <= 1:
        raise WayError(f"knob: wanted a number from 0 to 1, got {value}; write knob:0.4")
    return value


def _option_value(text: str) -> OptionValue:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
