"""``verify=True``: the first training step of a graph is run twice, with its plan and without a budget, and compared.

Gradients are compared by the ratio of global norms, difference over reference, of the same inputs, random state and output
gradients. The peak of the planned run is compared with the predicted one. Costs a second compilation and a few extra steps. The
random state of the CPU is put back; on a GPU only models without dropout can be compared.

Not verified: later steps, and the sum over several graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

from graphckpt.compat.fake import memory_changes, profiler_is_on
from graphckpt.errors import VerifyError
from graphckpt.report.record import Record
from graphckpt.units import format_bytes

Compiled = Callable[..., object]
# The share of a workspace that measuring it once may miss, and what the allocator rounds up.
_PEAK_SHARE = 1.03
_PEAK_SLACK_BYTES = 65536
_GRADIENT_RATIO = {torch.float64: 1e-9, torch.float32: 1e-5}


@dataclass(slots=True)
class Verified:
    """A compiled graph that checks itself on its first training step, then gets out of the way."""

    planned: Compiled
    reference: Compiled
    record: Callable[[], Record | None]
    done: bool = False

    def __call__(self, *args: object) -> object:
        """Run the graph; on the first call under autograd, verify it before.

        Raises:
            VerifyError: gradients differ, or the peak is above the predicted one.
        """
        if not self.done and torch.is_grad_enabled():
            self.done = True
            self._verify(args)
        return self.planned(*args)

    def _verify(self, args: Sequence[object]) -> None:
        state = torch.get_rng_state()
        reference, _ = _gradients(self.reference, args)
        torch.set_rng_state(state)
        ours, peak_bytes = _gradients(self.planned, args)
        torch.set_rng_state(state)
        difference = _norm([a - b for a, b in zip(ours, reference, strict=True)])
        ratio = difference / max(_norm(reference), torch.finfo(torch.float64).tiny)
        limit = max((_limit(gradient.dtype) for gradient in reference), default=0.0)
        if not ratio <= limit:
            raise VerifyError(
                f"gradients with the plan differ from those without a budget: ratio of norms {ratio:.3g}, at most {limit:.3g} was "
                "wanted. Run with dump=DIR and report the files; GRAPHCKPT_DISABLE=1 trains with plain Inductor meanwhile."
            )
        record = self.record()
        if record is None or peak_bytes is None:
            return
        allowed_bytes = record.predicted_held_peak_bytes * _PEAK_SHARE + _PEAK_SLACK_BYTES
        if peak_bytes > allowed_bytes:
            raise VerifyError(
                f"the step took {format_bytes(peak_bytes)}, {format_bytes(record.predicted_held_peak_bytes)} was predicted. "
                "Run with dump=DIR and report the files; a lower budget leaves room meanwhile."
            )


def _limit(dtype: torch.dtype) -> float:
    return _GRADIENT_RATIO.get(dtype, 4 * torch.finfo(dtype).eps)


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5


def _gradients(run: Compiled, args: Sequence[object]) -> tuple[list[torch.Tensor], int | None]:
    """Gradients of all differentiable inputs, from output gradients of ones, on copies of the inputs; and the peak, if it can be
    measured here, less the output gradients, which are held here and not in training."""
    copies = [_copy(argument) for argument in args]
    leaves = [copy for copy in copies if isinstance(copy, torch.Tensor) and copy.requires_grad]

    def step() -> tuple[list[torch.Tensor], int]:
        outputs = run(*copies)
        flat = [o for o in (outputs if isinstance(outputs, (list, tuple)) else [outputs]) if isinstance(o, torch.Tensor)]
        flat = [output for output in flat if output.requires_grad]
        tangents = [torch.ones_like(output) for output in flat]
        found = torch.autograd.grad(flat, leaves, tangents, allow_unused=True)
        return [gradient for gradient in found if gradient is not None], sum(t.nbytes for t in tangents)

    if any(leaf.device.type != "cpu" for leaf in leaves) or profiler_is_on():
        return step()[0], None
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        gradients, tangent_bytes = step()
    return gradients, max(accumulate(memory_changes(watched)), default=0) - tangent_bytes


def _copy(argument: object) -> object:
    if not isinstance(argument, torch.Tensor):
        return argument
    return argument.detach().clone().requires_grad_(argument.requires_grad)
