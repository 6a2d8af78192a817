"""Modelled time: the roofline of a list of kernels, and the hook that writes the list."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._inductor.virtualized import V

from benchmarks.modelled import H100, SCALED, Kernel, KernelLog, Phase, modelled_time_us, record_kernels


@dataclass
class Node:
    """What the hook asks of a node of the schedule."""

    flops: int | None
    moved_bytes: int

    def estimate_flops(self) -> int | None:
        return self.flops

    def get_read_write_buffers_sizes(self) -> int:
        return self.moved_bytes


def graph(*, is_backward: bool) -> Any:
    """What the hook asks of the graph being lowered."""
    return SimpleNamespace(is_backward=is_backward)


def test_each_kernel_is_bound_by_its_own_ceiling() -> None:
    compute_bound = Kernel(Phase.FORWARD, flops=30_000_000, moved_bytes=300)
    memory_bound = Kernel(Phase.BACKWARD, flops=0, moved_bytes=6_000_000)
    assert modelled_time_us([compute_bound], SCALED) == pytest.approx(1.0)
    assert modelled_time_us([memory_bound], SCALED) == pytest.approx(2.0)
    assert modelled_time_us([compute_bound, memory_bound], SCALED) == pytest.approx(3.0)
    assert modelled_time_us([compute_bound], H100) == pytest.approx(0.05)


def test_no_kernels_take_no_time() -> None:
    assert modelled_time_us([], SCALED) == 0


def test_the_hook_tells_the_halves_apart_and_leaves_the_schedule_alone() -> None:
    log = KernelLog()
    forward, backward = [Node(8, 16), Node(None, 4)], [Node(2, 0)]
    with V.set_graph_handler(graph(is_backward=False)):
        assert log.add_schedule(forward) is forward
    with V.set_graph_handler(graph(is_backward=True)):
        log.add_schedule(backward)
    assert log.of(Phase.FORWARD) == [Kernel(Phase.FORWARD, 8, 16), Kernel(Phase.FORWARD, 0, 4)]
    assert log.of(Phase.BACKWARD) == [Kernel(Phase.BACKWARD, 2, 0)]
    assert log.compilations == [Phase.FORWARD, Phase.BACKWARD]


def test_nodes_that_launch_nothing_are_no_kernels() -> None:
    log = KernelLog()
    with V.set_graph_handler(graph(is_backward=False)):
        log.add_schedule([Node(None, 0), Node(0, 0)])
    assert not log.kernels
    assert log.compilations == [Phase.FORWARD]


def test_the_hook_is_gone_when_the_recording_ends() -> None:
    settings = torch._inductor.config
    with record_kernels() as log:
        assert settings._post_fusion_custom_pass == log.add_schedule
        assert torch.compiler.config.force_disable_caches
    assert settings._post_fusion_custom_pass is None
    assert not torch.compiler.config.force_disable_caches
