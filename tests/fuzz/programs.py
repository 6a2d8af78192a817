"""Builds the model and the data of a `Program`, and runs its training steps.

Everything follows from the program and the seed: parameters, batches, and the random state at the start of every step.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from tests.fuzz.layers import WORDS, FuzzModel
from tests.fuzz.spec import Program

STEPS = 2
_RATE = 0.05
_HOOK_FACTOR = 1.5
Run = Callable[..., Tensor]


class Batch(NamedTuple):
    """What the model is called with: numbers or words, which places are no padding, and what to learn."""

    x: Tensor
    keep: Tensor
    target: Tensor


class StepResult(NamedTuple):
    """What one step shows: its loss, the gradients by name, and the buffers once it is over."""

    loss: float
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


@dataclass(slots=True)
class Trainer:
    """One model in training. ``run`` is what is called for it: the model itself, or a compiled one of the same parameters."""

    program: Program
    seed: int
    model: FuzzModel
    run: Run
    autocast: bool = False
    jitter: float = 0.0
    start: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.start = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of parameters and inputs."""
        return next(self.model.parameters()).dtype

    def train(self) -> list[StepResult]:
        """All steps, with an update of the parameters after each."""
        return [self.step(number) for number in range(STEPS)]

    def step(self, number: int) -> StepResult:
        """One step: forward, backward, update."""
        batches = self.batches(number)
        with self._gradients() as seen:
            loss = self.forward_backward(batches, number)
            gradients = seen or {name: p.grad.detach().clone() for name, p in self._trained() if p.grad is not None}
        for index, batch in enumerate(batches):
            if batch.x.grad is not None:
                gradients[f"input {index}"] = batch.x.grad.detach().clone()
        with torch.no_grad():
            for name, parameter in self._trained():
                if not seen and name in gradients:
                    parameter.sub_(gradients[name], alpha=_RATE)
        self.model.zero_grad(set_to_none=True)
        self.model.write_buffers("steps")
        buffers = {name: buffer.detach().clone() for name, buffer in self.model.named_buffers()}
        return StepResult(loss, gradients, buffers)

    def forward_backward(self, batches: list[Batch], number: int) -> float:
        """Forward and backward of all micro-batches, from the random state of the step; the loss of all of them."""
        torch.manual_seed(1000 + number)
        total = 0.0
        per_micro_batch = len(batches) // self.program.micro_batches
        for first in range(0, len(batches), per_micro_batch):
            with self._saved_hooks():
                loss = self._loss(batches[first : first + per_micro_batch])
                self.model.write_buffers("passes")
                loss.backward()
            total += float(loss.detach())
        return total

    def loss(self, number: int) -> float:
        """The loss of a step without its backward."""
        torch.manual_seed(1000 + number)
        batches = self.batches(number)
        per_micro_batch = len(batches) // self.program.micro_batches
        parts = range(0, len(batches), per_micro_batch)
        return sum(float(self._loss(batches[first : first + per_micro_batch]).detach()) for first in parts)

    def peak_bytes(self, number: int) -> int:
        """Bytes above the start of the step at its worst moment, as the allocator saw them. Parameters stay as they are."""
        batches = self.batches(number)
        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            self.forward_backward(batches, number)
        self.model.zero_grad(set_to_none=True)
        return _peak(watched)

    def batches(self, number: int) -> list[Batch]:
        """The batches of one step: one for each call of each micro-batch."""
        count = self.program.micro_batches * self.program.calls
        return [self._batch(number, index) for index in range(count)]

    def _batch(self, number: int, index: int) -> Batch:
        source = torch.Generator().manual_seed(10_000 * self.seed + 100 * number + index)
        shape = (self.program.batch, self.program.lengths[number % STEPS])
        keep = torch.ones(shape, dtype=torch.bool)
        keep[0, -(shape[1] // 2) :] = False
        if any(layer.attention.padding == "empty" for layer in self.program.layers):
            keep[1] = False
        if self.program.embedding:
            words = torch.randint(WORDS, shape, generator=source)
            return Batch(words, keep, words.roll(-1, 1))
        x = torch.randn((*shape, self.program.width), generator=source)
        target = torch.randn(x.shape, generator=source).to(self.dtype)
        x = (x.double() * (1 + self.jitter)).to(self.dtype)
        return Batch(x.requires_grad_(self.program.differentiable_input and not self.program.embedding), keep, target)

    def restore(self) -> None:
        """Put parameters and buffers back to what they were before the first step."""
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                tensor.copy_(self.start[name])

    def move(self, direction: dict[str, Tensor], distance: float) -> None:
        """Add ``distance`` times ``direction`` to the parameters it names."""
        with torch.no_grad():
            for name, parameter in self._trained():
                if name in direction:
                    parameter.add_(direction[name], alpha=distance)

    def _loss(self, batches: list[Batch]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16) if self.autocast else contextlib.nullcontext():
            return sum((self._call(batch) for batch in batches), torch.zeros(()))  # type: ignore[return-value]

    def _call(self, batch: Batch) -> Tensor:
        if self.program.around == "none":
            out = self.run(*batch)
        else:
            out = checkpoint(self.run, *batch, use_reentrant=self.program.around == "reentrant")
        return out if self.program.loss_inside else self.model.loss(out, batch.target)

    def _trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def _saved_hooks(self) -> contextlib.AbstractContextManager[Any]:
        if self.program.saved_hooks == "clone":
            return saved_tensors_hooks(lambda saved: saved.detach().clone(), lambda packed: packed)
        return save_on_cpu() if self.program.saved_hooks == "save_on_cpu" else contextlib.nullcontext()

    @contextlib.contextmanager
    def _gradients(self) -> Iterator[dict[str, Tensor]]:
        """Hooks of parameters for one step. With an optimizer in backward, the gradients that it took."""
        taken: dict[str, Tensor] = {}
        handles = []
        for name, parameter in self._trained():
            if self.program.hooks == "parameter":
                handles.append(parameter.register_hook(lambda gradient: gradient * _HOOK_FACTOR))
            elif self.program.hooks == "optimizer":
                handles.append(parameter.register_post_accumulate_grad_hook(_Optimizer(name, taken)))
        yield taken
        for handle in handles:
            handle.remove()


class _Optimizer(NamedTuple):
    """Updates a parameter as soon as its gradient is there, and drops the gradient."""

    name: str
    taken: dict[str, Tensor]

    def __call__(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        known = self.taken.get(self.name)
        self.taken[self.name] = parameter.grad.detach().clone() + (0 if known is None else known)
        with torch.no_grad():
            parameter.sub_(parameter.grad, alpha=_RATE)
        parameter.grad = None


def trainer(
    program: Program,
    seed: int,
    dtype: torch.dtype,
    *,
    compiled: Callable[[FuzzModel], Run] | None = None,
    autocast: bool = False,
    jitter: float = 0.0,
) -> Trainer:
    """A model of ``program`` in ``dtype``, the same for the same seed. ``jitter``: by what share parameters and inputs are off."""
    torch.manual_seed(seed)
    # Rounded to fp32 in every dtype, so that all start from the same.
    model = FuzzModel(program).float().double().train()
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.mul_(1 + jitter * (-1) ** index)
            parameter.requires_grad_(not (program.frozen and index % 2))
    model.to(dtype)
    return Trainer(program, seed, model, compiled(model) if compiled else model, autocast, jitter)


def _peak(watched: profile) -> int:
    cpu = torch._C._autograd.DeviceType.CPU
    events = watched.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]" and e.device_type() == cpu)
    live = worst = 0
    for _, size in changes:
        live += size
        worst = max(worst, live)
    return worst
