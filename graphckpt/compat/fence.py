"""An operator that gives a value a buffer at its own place in the graph: ``graphckpt::hold``.

Inductor computes a pointwise value, or a short sum, inside the kernel that reads it, however much later that runs and whatever
must stay alive until then; a product it adds to something is computed where the sum is. Behind a fence neither happens. A fence
is a view: it costs nothing, and run eagerly it hands on its argument.

Read in torch 2.13.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._inductor.lowering import register_lowering

_LIBRARY = torch.library.Library("graphckpt", "DEF")
_LIBRARY.define("hold(Tensor(a) value) -> Tensor(a)")


def _hold(value: torch.Tensor) -> torch.Tensor:
    return value.view_as(value)


_LIBRARY.impl("hold", _hold, "CompositeExplicitAutograd")
_LIBRARY.impl("hold", _hold, "Meta")
HOLD = torch.ops.graphckpt.hold.default


@register_lowering(HOLD, type_promotion_kind=None)
def _lower_hold(value: Any) -> Any:
    value.realize()
    return value


def append_fence(graph: fx.Graph, value: fx.Node) -> fx.Node:
    """Append a fence behind ``value``, the last node of ``graph`` so far; who reads the fence reads the value.

    It is named ``<value>_held``: a buffer has the name of the last node that it holds.
    """
    fence = graph.create_node("call_function", HOLD, (value,), name=f"{value.name}_held")
    fence.meta = dict(value.meta)
    return fence
