"""What replacing attention adds to a compilation: the seconds from a Dynamo graph to the same graph with its attentions fused.

    python -m benchmarks.rewriting [--layers 12] [--families gpt2 llama]

Leaves: one line of JSON a model, all of them of transformers' eager attention, in training; and exits with 1 where an attention
is not fused. The first model pays for what is imported and registered on first use.
Not guaranteed: steady seconds on a machine with other work.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
import torch._dynamo
from torch import fx

from benchmarks.commit import current_commit
from benchmarks.configs import FAMILIES, Family, build, default_config
from graphckpt.rewrite.attention.replace import replace_attentions

_FAMILIES = tuple(family for family in FAMILIES if family is not Family.RESNET)


@dataclass(frozen=True, slots=True)
class RewritingRow:
    """One model. ``calls``: nodes of its graph before."""

    commit: str
    config: str
    calls: int
    attentions: int
    fused: int
    rewrite_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--families", nargs="+", type=Family, choices=_FAMILIES, default=_FAMILIES)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [measure(family, asked.layers) for family in asked.families]
    return int(any(row.fused < row.attentions for row in rows))


def measure(family: Family, layers: int) -> RewritingRow:
    """Rewrite a model of so many layers, and print its row."""
    config = replace(default_config(family), layers=layers)
    rows: list[RewritingRow] = []

    def backend(module: fx.GraphModule, inputs: object) -> Callable[..., object]:
        calls, started = len(module.graph.nodes), time.perf_counter()
        found = replace_attentions(module)
        seconds = round(time.perf_counter() - started, 3)
        rows.append(RewritingRow(current_commit(), config.text(), calls, found.fused + len(found.kept), found.fused, seconds))
        return module

    torch._dynamo.reset()
    model, batch = build(config)
    torch.compile(model, backend=backend, fullgraph=True)(**batch)
    print(json.dumps(asdict(rows[0])), flush=True)
    return rows[0]


if __name__ == "__main__":
    raise SystemExit(main())
