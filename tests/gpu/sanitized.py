"""One small call, forward and backward: what compute-sanitizer watches. ``python -m tests.gpu.sanitized CASE``.

Where a GPU has no kernels that read by descriptors, `DESCRIBED` runs the plain ones."""

from __future__ import annotations

import sys

import torch

from graphckpt.kernels.attention.api import run
from graphckpt.kernels.attention.triton import launch
from tests.gpu.described import by_descriptors
from tests.gpu.test_numerics import on_gpu, plain_call
from tests.kernels.attention.cases import answer, call_of

CASES = {
    "causal": ("causal", "grouped"),
    "masked": ("window", "padding", "documents"),
    "empty": ("left_out", "causal", "row_bias"),
    "shared-bias": ("bias", "softcap"),
    "sinks": ("sinks", "dropout", "wide"),
}
DESCRIBED = "described"
BROKEN = "broken"


def main(case: str) -> None:
    """Run one case; in `BROKEN` the kernel is told of more keys than there are."""
    call = on_gpu(call_of(CASES.get(case, ()), torch.bfloat16))
    if case == BROKEN:
        launch.attention(call, starter=_start_broken)
        torch.cuda.synchronize()
        return
    if case == DESCRIBED:
        call = plain_call(200, 300, 64, 64)
        tilings = by_descriptors(call)
        out, lse = launch.attention(call, tilings)
        launch.gradients(call, launch.Known(out, lse, torch.randn_like(out), None), tilings=tilings)
        torch.cuda.synchronize()
        return
    sizes = call.sizes
    grad_out = torch.randn(sizes.batch, sizes.heads, sizes.rows, sizes.value_width, device="cuda", dtype=torch.bfloat16)
    answer(lambda given: run(given, "triton"), call, grad_out)
    torch.cuda.synchronize()


def _start_broken(it: launch.Start) -> None:
    lying = it.arguments["call"]._replace(key_count=2**20)
    launch.start(it._replace(arguments={**it.arguments, "call": lying}))


if __name__ == "__main__":
    main(sys.argv[1])
