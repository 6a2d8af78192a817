"""Inductor's options, and the partition function it is given."""

from collections.abc import Sequence

import torch
from torch import fx

from graphckpt.compat import aot, inductor
from graphckpt.compat.takeover import Lowerings
from tests.joint import raw_joint


def test_options_and_modes() -> None:
    """Options are Inductor's; a mode is a set of them, no mode is none."""
    names = inductor.option_names()
    assert {"max_autotune", "fallback_random", "reorder_for_peak_memory"} <= names
    assert "activation_budget" not in names
    assert inductor.mode_options(None) == {}
    assert set(inductor.mode_options("max-autotune")) <= names
    assert inductor.mode_options("max-autotune")["max_autotune"] is True


def test_patches_hold_inside_alone() -> None:
    before = torch._inductor.config.fallback_random
    with inductor.patched({"fallback_random": not before}):
        assert torch._inductor.config.fallback_random is not before
    assert torch._inductor.config.fallback_random is before


def test_the_partition_gets_the_joint_graph_after_inductors_passes() -> None:
    """Dropout: its random numbers are made from seeds; with `fallback_random` it is left as it is."""

    def model(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(x @ w).sum()

    arguments = torch.rand(8, 8, requires_grad=True), torch.rand(4, 8, requires_grad=True)
    seeded, left = raw_joint(model, *arguments), raw_joint(model, *arguments, fallback_random=True)
    assert any("inductor_seeds" in str(node.target) for node in seeded.module.graph.nodes)
    assert not any("inductor" in str(node.target) for node in left.module.graph.nodes)
    assert seeded.num_outputs == 1
    assert len(seeded.inputs) == 2


def test_the_key_and_the_partition_survive_copies_of_the_configuration() -> None:
    """Inductor copies its configuration; the callback behind it must stay the one that was given."""
    kept: list[object] = []

    def partition(gm: fx.GraphModule, inputs: Sequence[object], *, num_fwd_outputs: int, **_: object) -> aot.Partition:
        kept.append(torch._inductor.config.custom_partitioner_fn)
        raise _Stop

    class _Stop(BaseException):
        pass

    def backend(gm: fx.GraphModule, example: Sequence[object]) -> object:
        return inductor.compile_with(gm, example, partition, "key 7", {"force_disable_caches": True}, Lowerings())

    torch.compiler.reset()
    try:
        torch.compile(lambda w: (w * w).sum(), backend=backend)(torch.rand(4, requires_grad=True))
    except _Stop:
        torch.compiler.reset()
    assert [partitioner.uuid() for partitioner in kept] == ["key 7"]
