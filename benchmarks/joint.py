"""Joint graphs of the rig's models as text, for `benchmarks.solver --files`.

    python -m benchmarks.joint llama:layers=8 --out llama8.txt

Enters: a config of `benchmarks.configs`. Leaves: the graph that the planner gets, as `graphckpt.ir.text` writes it. Nothing is
planned and nothing compiled.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import fx

from benchmarks.configs import ModelConfig, build, parse_config
from graphckpt.compat import aot, inductor
from graphckpt.compat.takeover import Lowerings
from graphckpt.ir import text
from graphckpt.ir.check import check_graph
from graphckpt.ir.graph import Graph
from graphckpt.trace.lower import lower_joint


class _Done(BaseException):
    """Ends the compilation once the graph is there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--out", required=True)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    Path(asked.out).write_text(text.render(joint_graph(parse_config(asked.config))))
    return 0


def joint_graph(config: ModelConfig) -> Graph:
    """The joint graph of a model's first training graph."""
    model, batch = build(config)
    graphs: list[Graph] = []

    def partition(joint: fx.GraphModule, inputs: Sequence[object], *, num_fwd_outputs: int, **_: object) -> aot.Partition:
        graphs.append(lower_joint(aot.prepare_joint(joint, drop_checkpoint_tags=True), num_fwd_outputs).graph)
        raise _Done

    def backend(gm: fx.GraphModule, inputs: Sequence[object]) -> Callable[..., object]:
        return inductor.compile_with(gm, inputs, partition, "joint", {"force_disable_caches": True}, Lowerings())

    try:
        torch.compile(model, backend=backend)(**batch)
    except _Done:
        check_graph(graphs[0])
        return graphs[0]
    raise RuntimeError("a training graph was wanted, and torch.compile asked for no partition")


if __name__ == "__main__":
    raise SystemExit(main())
