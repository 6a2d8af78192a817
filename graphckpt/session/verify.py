"""``verify=True``: the first training step of a graph is run twice, with its plan and without a budget, and compared.

Gradients are compared by the ratio of global norms, difference over reference, of the same inputs, random state and output
gradients. The peak of the planned run is compared with the predicted one. Costs a second compilation and a few extra steps. The
random state of the CPU is put back, and that of all CUDA devices where a tensor lies on one, so dropout draws the same numbers.

Not verified: later steps, and the sum over several graphs. The peak is left out, and the log says why, on an accelerator, while
somebody profiles, and for a graph without a record of its own (its plan came from the compile cache).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

from graphckpt.compat.contents import copied
from graphckpt.compat.fake import memory_changes, profiler_is_on
from graphckpt.compat.isolation import isolated
from graphckpt.errors import VerifyError
from graphckpt.report.record import Record
from graphckpt.units import format_bytes

Compiled = Callable[..., object]
# The share of a workspace that measuring it once may miss, and what the allocator rounds up.
_PEAK_SHARE = 1.03
_PEAK_SLACK_BYTES = 65536
_GRADIENT_RATIO = {torch.float64: 1e-9, torch.float32: 1e-5}
_logger = logging.getLogger("graphckpt")


@dataclass(slots=True)
class Verified:
    """A compiled graph that checks itself on its first training step, then gets out of the way and lets go of ``reference``."""

    planned: Compiled
    reference: Compiled | None
    record: Callable[[], Record | None]

    @property
    def done(self) -> bool:
        """Whether the first training step was there."""
        return self.reference is None

    def __call__(self, *args: object) -> object:
        """Run the graph; on the first call under autograd, verify it before.

        Raises:
            VerifyError: gradients differ, or the peak is above the predicted one.
        """
        if self.reference is not None and torch.is_grad_enabled():
            # Let go first: what fails is not verified again.
            reference, self.reference = self.reference, None
            self._verify(reference, args)
        return self.planned(*args)

    def _verify(self, reference: Compiled, args: Sequence[object]) -> None:
        with isolated():
            self._compare(reference, args)

    def _compare(self, reference: Compiled, args: Sequence[object]) -> None:
        state = _RandomState.taken(args)
        wanted, _ = _gradients(reference, args)
        state.put_back()
        ours, peak_bytes = _gradients(self.planned, args)
        state.put_back()
        _compare_gradients(ours, wanted)
        record = self.record()
        if record is not None and peak_bytes is not None:
            _compare_peak(peak_bytes, record.predicted_held_peak_bytes)
            return
        why = _why_unmeasured(args) or "the graph has no record of its own, as where its plan came from the compile cache"
        _logger.info("graphckpt: verified gradients, but not the peak: %s", why)


@dataclass(frozen=True, slots=True)
class _RandomState:
    """Random state of the CPU, and of every CUDA device if a tensor lies on one."""

    cpu: torch.Tensor
    cuda: tuple[torch.Tensor, ...]

    @classmethod
    def taken(cls, args: Sequence[object]) -> _RandomState:
        on_cuda = torch.cuda.is_available() and any(isinstance(a, torch.Tensor) and a.is_cuda for a in args)
        return cls(torch.get_rng_state(), tuple(torch.cuda.get_rng_state_all()) if on_cuda else ())

    def put_back(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)


def _compare_gradients(ours: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> None:
    difference = _norm([a - b for a, b in zip(ours, wanted, strict=True)])
    ratio = difference / max(_norm(wanted), torch.finfo(torch.float64).tiny)
    limit = max((_limit(gradient.dtype) for gradient in wanted), default=0.0)
    if not ratio <= limit:
        raise VerifyError(
            f"gradients with the plan differ from those without a budget: ratio of norms {ratio:.3g}, at most {limit:.3g} was "
            "wanted. Run with dump=DIR and report the files; GRAPHCKPT_DISABLE=1 trains with plain Inductor meanwhile."
        )


def _compare_peak(peak_bytes: int, predicted_bytes: int) -> None:
    if peak_bytes > predicted_bytes * _PEAK_SHARE + _PEAK_SLACK_BYTES:
        raise VerifyError(
            f"the step took {format_bytes(peak_bytes)}, {format_bytes(predicted_bytes)} was predicted. "
            "Run with dump=DIR and report the files; a lower budget leaves room meanwhile."
        )


def _why_unmeasured(args: Sequence[object]) -> str:
    """Why the peak of a step on these inputs cannot be measured here; "" if it can."""
    devices = {argument.device.type for argument in args if isinstance(argument, torch.Tensor)} - {"cpu"}
    if devices:
        return f"memory of {', '.join(sorted(devices))} is not watched"
    return "a profiler is on already" if profiler_is_on() else ""


def _limit(dtype: torch.dtype) -> float:
    return _GRADIENT_RATIO.get(dtype, 4 * torch.finfo(dtype).eps)


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5


def _gradients(run: Compiled, args: Sequence[object]) -> tuple[list[torch.Tensor], int | None]:
    """Gradients of all differentiable inputs, from output gradients of ones, on copies of the inputs; and the peak, if it can be
    measured here, less the output gradients, which are held here and not in training."""
    copies = [copied(argument) if isinstance(argument, torch.Tensor) else argument for argument in args]
    leaves = [copy for copy in copies if isinstance(copy, torch.Tensor) and copy.requires_grad]

    def step() -> tuple[list[torch.Tensor], int]:
        outputs = run(*copies)
        flat = [o for o in (outputs if isinstance(outputs, (list, tuple)) else [outputs]) if isinstance(o, torch.Tensor)]
        flat = [output for output in flat if output.requires_grad]
        tangents = [torch.ones_like(output) for output in flat]
        found = torch.autograd.grad(flat, leaves, tangents, allow_unused=True)
        return [gradient for gradient in found if gradient is not None], sum(t.nbytes for t in tangents)

    if _why_unmeasured(args):
        return step()[0], None
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        gradients, tangent_bytes = step()
    return gradients, max(accumulate(memory_changes(watched)), default=0) - tangent_bytes
