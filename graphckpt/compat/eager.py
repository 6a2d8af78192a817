"""AOTAutograd with nothing behind it: both passes run as they are. For tests, and for graphs that Inductor cannot compile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func


def compile_eager(
    module: fx.GraphModule, inputs: Sequence[object], partition: Callable[..., tuple[fx.GraphModule, fx.GraphModule]]
) -> Callable[..., object]:
    """Trace ``module``, split it by ``partition``, and run both halves node by node."""

    def run_as_is(graph_module: fx.GraphModule, _: Sequence[object]) -> Callable[..., object]:
        return cast(Callable[..., object], make_boxed_func(graph_module.forward))

    compiler = aot_autograd(fw_compiler=run_as_is, bw_compiler=run_as_is, partition_fn=partition)
    return cast(Callable[..., object], compiler(module, inputs))
