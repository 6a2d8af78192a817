"""AOTAutograd with nothing behind it: both passes run as they are. For tests, and for graphs that Inductor cannot compile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.backends.debugging import boxed_nop


def compile_eager(
    module: fx.GraphModule, inputs: Sequence[object], partition: Callable[..., tuple[fx.GraphModule, fx.GraphModule]]
) -> Callable[..., object]:
    """Trace ``module``, split it by ``partition``, and run both halves node by node, dropping each value after its last reader."""
    # Writes to inputs are to be seen in the graph, as Inductor has it: what reads such an input is not computed again behind them.
    compiler = aot_autograd(
        fw_compiler=boxed_nop, bw_compiler=boxed_nop, partition_fn=partition, keep_inference_input_mutations=True
    )
    return cast(Callable[..., object], compiler(module, inputs))
