"""Which models' attentions are fused: ours beside Inductor's own patterns, in one run.

    python -m benchmarks.coverage [--models llama t5] [--dtypes fp32 bf16] [--out FILE]
    TRITON_INTERPRET=1 python -m benchmarks.coverage --implementation triton --dtypes fp32

Enters: names of `benchmarks.zoo.MODELS`: small configs with random weights and eager attention, in training. Leaves: a table, and
one line of JSON a model, dtype, dropout and padding: the attentions that are fused by us and by Inductor (whose counter counts an
attention in forward and in backward), the tensors of queries times keys in the joint graph before and after, and without dropout
the error of the gradients against the same model in fp64, ours over eager's. Exits with 1 where an attention is not fused, or where
ours errs more than twice as much as eager.
Not guaranteed: anything of gradients under dropout, whose masks are others.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch._functorch.config
import torch._inductor.config
from torch import fx, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch._functorch.aot_autograd import make_boxed_func
from torch._functorch.partitioners import default_partition
from torch._inductor.compile_fx import compile_fx

from benchmarks.commit import current_commit
from benchmarks.markdown import markdown_table
from benchmarks.zoo import MODELS, Built, build_small
from graphckpt.kernels.attention.api import fastest
from graphckpt.kernels.attention.ops import IMPLEMENTATIONS
from graphckpt.rewrite.attention.replace import replace_attentions

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
RATIO_BAR = 2.0


@dataclass(frozen=True)
class Coverage:
    """One row. ``square_before`` and ``square_after``: tensors of the joint graph that have two dimensions of the length, before
    and after the rewrite; ``ratio``: error of ours over eager's, None under dropout."""

    commit: str
    model: str
    dtype: str
    dropout: float
    padded: bool
    attentions: int
    fused: int
    inductor: int
    square_before: int
    square_after: int
    ratio: float | None
    reasons: tuple[str, ...]

    @property
    def is_covered(self) -> bool:
        """Whether all is fused, and as exact as it is to be."""
        return self.fused == self.attentions and (self.ratio is None or self.ratio <= RATIO_BAR)


def measure(commit: str, name: str, dtype: str, dropout: float, padded: bool, implementation: str | None = None) -> Coverage:
    """One row. ``implementation``: that of all attentions; left out, the fastest of each."""
    choose = fastest if implementation is None else lambda _: implementation
    entry = MODELS[name]
    build = partial(build_small, name, dropout=dropout, padded=padded)
    joint: list[fx.GraphModule] = []
    reasons: list[str] = []
    fused = 0

    def ours(module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> Any:
        nonlocal fused
        replaced = replace_attentions(module, choose)
        fused += replaced.fused
        reasons.extend((*(f"{name}: {why}" for name, why in replaced.kept), *replaced.notes))
        return _capturing(joint)(module, inputs)

    plain: list[fx.GraphModule] = []
    built = build(DTYPES[dtype])
    _train(built, _capturing(plain))
    eager = _gradients(built.model)
    again = build(DTYPES[dtype])
    _train(again, ours)
    ratio = None
    if not dropout:
        exact = build(torch.float64)
        _loss(exact.model(**exact.batch)).backward()
        true = _gradients(exact.model)
        ratio = _error(_gradients(again.model), true) / _error(eager, true)
    before, after = (sum(_squares(module, entry.lengths) for module in modules) for modules in (plain, joint))
    by_inductor = _by_inductor(build(DTYPES[dtype]))
    here = (commit, name, dtype, dropout, padded)
    return Coverage(*here, entry.attentions, fused, by_inductor, before, after, ratio, tuple(reasons))


def _capturing(joint: list[fx.GraphModule]) -> Callable[..., Any]:
    """A backend that runs a graph as it is, and keeps its joint graph."""

    def partition(module: fx.GraphModule, inputs: Any, **options: Any) -> Any:
        joint.append(module)
        return default_partition(module, inputs, **options)

    return aot_autograd(fw_compiler=_as_it_is, bw_compiler=_as_it_is, partition_fn=partition)


def _as_it_is(module: fx.GraphModule, inputs: Any) -> Any:
    del inputs
    return make_boxed_func(module)


def _train(built: Built, backend: Callable[..., Any]) -> None:
    torch._dynamo.reset()
    torch.manual_seed(7)
    _loss(torch.compile(built.model, backend=backend)(**built.batch)).backward()


def _loss(output: Any) -> torch.Tensor:
    """The model's own, or the mean square of what a model without one gives."""
    loss = getattr(output, "loss", None)
    return loss if loss is not None else output.last_hidden_state.square().mean()


def _gradients(model: nn.Module) -> list[torch.Tensor]:
    """Of all parameters; none is as good as zero, which compiled graphs give to what they do not use."""
    return [torch.zeros_like(p).double() if p.grad is None else p.grad.detach().double().clone() for p in model.parameters()]


def _error(gradients: Sequence[torch.Tensor], true: Sequence[torch.Tensor]) -> float:
    difference = sum(float((mine - exact).square().sum()) for mine, exact in zip(gradients, true, strict=True))
    return (difference / sum(float(exact.square().sum()) for exact in true)) ** 0.5


def _squares(module: fx.GraphModule, lengths: tuple[int, ...]) -> int:
    """Floating-point results of calls in which two dimensions are lengths, of as many heads as there are or more."""
    found = 0
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if node.op == "call_function" and isinstance(value, torch.Tensor) and value.is_floating_point():
            shape = [int(size) for size in value.shape]
            found += sum(size in lengths for size in shape) >= 2 and prod(shape) >= 2 * max(lengths) ** 2
    return found


def _by_inductor(built: Built) -> int:
    """Attentions that Inductor's own patterns fuse in this training graph."""

    def compile_inner(module: fx.GraphModule, inputs: Any, **options: Any) -> Any:
        del options
        return _as_it_is(module, inputs)

    def backend(module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> Any:
        return compile_fx(module, inputs, inner_compile=compile_inner)

    counters.clear()
    # A cached graph is not matched again.
    with torch._inductor.config.patch(fx_graph_cache=False), torch._functorch.config.patch(enable_autograd_cache=False):
        _train(built, backend)
    return counters["inductor"]["fuse_attention"] // 2


def render(rows: Sequence[Coverage]) -> str:
    """One line a model: over its dtypes, with and without dropout and padding."""
    lines = []
    for name in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == name]
        ratios = [row.ratio for row in own if row.ratio is not None]
        lines.append(
            [
                name,
                f"{own[0].attentions}",
                _span([row.fused for row in own]),
                _span([row.inductor for row in own]),
                _span([row.square_before for row in own]),
                _span([row.square_after for row in own]),
                f"{max(ratios):.2f}" if ratios else "-",
                f"{len(own)}",
                "; ".join(dict.fromkeys(reason for row in own for reason in row.reasons)) or "-",
            ]
        )
    heads = ["model", "attentions", "ours", "Inductor", "square before", "after", "error over eager's", "rows", "kept, and why"]
    return markdown_table(heads, lines)


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table; exits with 1 when a model is not covered."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--dropouts", nargs="+", type=float, default=[0.0, 0.1])
    parser.add_argument("--implementation", choices=IMPLEMENTATIONS, default=None, help="left out: the fastest")
    parser.add_argument("--out", type=Path, default=None, help="a file that lines of JSON are added to")
    chosen = parser.parse_args(arguments)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    commit, rows = current_commit(), list[Coverage]()
    for name in chosen.models:
        paddings = (False, True) if MODELS[name].fed in ("text", "pairs") else (False,)
        for dtype in chosen.dtypes:
            for dropout in chosen.dropouts:
                for padded in paddings:
                    row = measure(commit, name, dtype, dropout, padded, chosen.implementation)
                    rows.append(row)
                    print(row, flush=True)
                    if chosen.out is not None:
                        with chosen.out.open("a") as file:
                            file.write(json.dumps(asdict(row)) + "\n")
    print(render(rows))
    return 0 if all(row.is_covered for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
