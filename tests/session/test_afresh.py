"""Which look is handed out: a budget's own, one made before it, or one made afresh before a refusal.

    refining looks at p (no room) -> a budget looks at p (room) -> fits: that look
                                                                '-> nothing fits: afresh looks at p -> that one
"""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

from graphckpt.compat.ordering import ROOM_BYTES
from graphckpt.config import Options
from graphckpt.cost.roofline import SCALED
from graphckpt.eager import EagerLowerer
from graphckpt.inductor import DryStep
from graphckpt.session import pipeline
from graphckpt.session.pipeline import JointGraph, Planned, plan_joint
from graphckpt.solve.frontier import Choice, Lookable
from tests.joint import raw_joint
from tests.session.lowerers import joint_graph, limit

_LAYERS, _WIDTH, _ROWS = 12, 16, 256
_SPENT_BYTES = 8


@dataclass
class Spending(EagerLowerer):
    """A plan that has room takes a little of it."""

    def lower(self, forward: fx.GraphModule, backward: fx.GraphModule, *, hold_order: bool) -> DryStep:
        step = super().lower(forward, backward, hold_order=hold_order)
        room_bytes = max((node.meta.get(ROOM_BYTES) or 0 for node in backward.graph.nodes), default=0)
        spent_bytes = _SPENT_BYTES if room_bytes >= _SPENT_BYTES else 0
        peak = step.peak
        more = replace(
            peak, forward_bytes=peak.forward_bytes + spent_bytes, backward_bytes=peak.backward_bytes + spent_bytes
        )
        return replace(step, peak=more)


class _Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(_WIDTH, _WIDTH) for _ in range(_LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            # Of one region the user says what is computed again: refining has nothing to say.
            x = checkpoint(self._of, layer, x, use_reentrant=False) if index == 0 else self._of(layer, x)
        return x.square().sum()

    @staticmethod
    def _of(layer: nn.Module, x: Tensor) -> Tensor:
        return torch.nn.functional.gelu(layer(x)).tanh().sin()


def _plan(given: JointGraph, allowance_bytes: int, **options: str) -> Planned:
    lowerer = Spending(SCALED, given.num_forward_outputs)
    return plan_joint(given, Options(checkpoints="honour", **options), lowerer, lambda _: limit(allowance_bytes))  # type: ignore[arg-type]


def test_the_step_is_that_of_the_choice_at_any_budget() -> None:
    """A look with room, made after one at the same plan without any: what is reported is what is handed out."""
    raw = raw_joint(_Chain(), torch.randn(_ROWS, _WIDTH, requires_grad=True))
    given = JointGraph(raw.module, raw.inputs, raw.num_outputs, raw.static)
    smallest_bytes = _plan(given, 10**12, policy="smallest").step.peak.peak_bytes
    for more_bytes in (-1, 0, _SPENT_BYTES, 2048, 4096, 6144, 8192, 65536):
        allowance_bytes = smallest_bytes + more_bytes
        planned = _plan(given, allowance_bytes, activation_budget=str(allowance_bytes))
        assert planned.step.peak.peak_bytes == planned.choice.peak_bytes
        assert planned.choice.fits == (more_bytes >= 0)


def test_what_was_found_afresh_is_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A choice that only the looks afresh have seen."""

    def choose(count: int, allowance_bytes: int, looks: Lookable, known: dict[int, int], afresh: Lookable) -> Choice:
        del allowance_bytes, looks
        last = count - 1
        peak_bytes = afresh.exact_peak(last, 0)
        return Choice(last, peak_bytes, False, ((0, known[0]), (last, peak_bytes)))

    monkeypatch.setattr(pipeline, "choose", choose)
    given, lowerer = joint_graph("attention")
    planned = plan_joint(given, Options(activation_budget="1", refine=False), lowerer, lambda _: limit(1))
    assert planned.choice.index == len(planned.frontier) - 1 > 0
    assert planned.step.peak.peak_bytes == planned.choice.peak_bytes < planned.stock_step.peak.peak_bytes
    assert planned.plan.name == planned.frontier[-1].plan.name
