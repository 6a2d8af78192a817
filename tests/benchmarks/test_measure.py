"""The arithmetic of a measurement: running sums of events and bytes of live storages, on made-up steps."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measure import MemoryEvent, live_storage_bytes, memory_events, running_peak, step_memory

CPU = torch.device("cpu")


def events(*sizes_bytes: int) -> list[MemoryEvent]:
    return [MemoryEvent(time_ns, size_bytes) for time_ns, size_bytes in enumerate(sizes_bytes)]


@pytest.mark.parametrize(
    ("sizes_bytes", "peak_bytes", "left_bytes"),
    [
        ((100, 50, -100, 20), 150, 70),
        ((-500, 100), 0, -400),
        ((-500, 700, -200), 200, 0),
        ((), 0, 0),
    ],
)
def test_the_peak_is_the_most_above_the_start(sizes_bytes: tuple[int, ...], peak_bytes: int, left_bytes: int) -> None:
    assert running_peak(events(*sizes_bytes)) == (peak_bytes, left_bytes)


def test_a_step_is_measured_to_the_byte() -> None:
    kept = []

    def step() -> torch.Tensor:
        temporary = torch.ones(1000, dtype=torch.float64)
        kept.append(torch.ones(500, dtype=torch.float64))
        del temporary
        kept.append(torch.ones(100, dtype=torch.float64))
        return torch.zeros(())

    memory, loss = step_memory(step, CPU)
    # The loss itself is four bytes, and allocated once the temporary is gone.
    assert memory.peak_bytes == 8 * (1000 + 500)
    assert memory.left_bytes == 8 * (500 + 100) + 4
    assert loss == 0.0


def test_a_storage_counts_once_however_many_views_it_has() -> None:
    before = live_storage_bytes(CPU)
    base = torch.zeros(1024, dtype=torch.uint8)
    views = [base[:10], base.view(32, 32), base.detach()]
    assert live_storage_bytes(CPU) - before == 1024
    del views, base
    assert live_storage_bytes(CPU) == before


def test_an_unfinished_profiler_is_refused() -> None:
    profiler = torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU])
    with pytest.raises(RuntimeError, match="wanted its recorded events, got none"):
        memory_events(profiler)
