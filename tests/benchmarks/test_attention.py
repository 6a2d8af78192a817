"""The benchmark of attention: its convention, what it tells without a GPU, and what it does not."""

from __future__ import annotations

import pytest
import torch

from benchmarks import attention
from benchmarks.attention import table
from benchmarks.attention_measure import BACKWARD, FORWARD, Row, Shape, flops, matmul_tflops, measure
from benchmarks.attention_ways import WAYS, function_of, why_not

CPU = torch.device("cpu")
SHAPE = Shape("fp32", 2, 3, 96, 16, True)
HERE = [way for way in WAYS if not why_not(way, CPU)]


def test_arithmetic_by_the_usual_convention() -> None:
    """4 B H S S D forward, half if causal, two and a half times as much backward."""
    full = Shape("bf16", 2, 16, 8192, 128, False)
    assert flops(full, FORWARD) == 4 * 2 * 16 * 8192**2 * 128
    assert flops(Shape("bf16", 2, 16, 8192, 128, True), BACKWARD) == 1.25 * flops(full, FORWARD)


@pytest.mark.parametrize("way", HERE)
@pytest.mark.parametrize("causal", [False, True])
def test_ways_agree(way: str, causal: bool) -> None:
    q, k, v = (
        torch.randn(2, 3, 40, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)
    )
    mine, plain = (function_of(name, causal)(q, k, v) for name in (way, "sdpa-math"))
    # Eager's softmax is in fp32, as models have it.
    torch.testing.assert_close(mine, plain, atol=1e-6 if way == "eager" else 1e-12, rtol=0)


@pytest.mark.parametrize("way", ["ours-blocked", "eager"])
def test_a_cpu_has_memory_and_error_and_no_time(way: str) -> None:
    forward, backward = measure("commit", way, SHAPE, CPU, matmul_tflops(CPU, torch.float32))
    for row in (forward, backward):
        assert (row.time_ms, row.tflops, row.share_of_matmul, row.reason) == (None, None, None, "")
        assert row.error is not None and 0 < row.error < 1e-5
        assert row.peak_bytes is not None and row.peak_bytes >= 2 * 3 * 96 * 16 * 4


def test_a_way_that_cannot_run_says_why() -> None:
    rows = measure("commit", "ours-triton", SHAPE, CPU, None) + measure("commit", "flash-attn", SHAPE, CPU, None)
    assert "CPU" in rows[0].reason and "flash-attn" in rows[2].reason
    ran = Row("commit", "cpu", "2.13", "eager", FORWARD, SHAPE, error=1e-7)
    refused = Row("commit", "cpu", "2.13", "eager", BACKWARD, SHAPE, reason="out of memory")
    shown = table([*rows, ran, refused]).splitlines()
    assert shown[2].startswith(f"| {SHAPE.text} | eager | - |") and len(shown) == 5
    assert shown[3].startswith("Not run here: ours-triton, tensors are on the CPU")
    assert shown[4] == "Not run here: flash-attn, needs a GPU and the package flash-attn"


def test_the_table_has_a_line_a_way_with_both_directions() -> None:
    row = Row("commit", "gpu", "2.13", "eager", FORWARD, SHAPE, 2.0, 400.0, 0.5, 10**7, 2e-3)
    backward = Row("commit", "gpu", "2.13", "eager", BACKWARD, SHAPE, 5.0, 300.0, 0.4, 2 * 10**7, 3e-3)
    assert "eager | 2.000 | 400 | 50% | 10.0 | 2.0e-03 | 5.000 | 300 | 40% | 20.0 | 3.0e-03 | -" in table(
        [row, backward]
    )


def test_without_a_gpu_it_says_that_no_speed_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    monkeypatch.setattr(attention, "shapes", lambda device: [SHAPE])
    monkeypatch.setattr(attention, "draw", lambda rows, path: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert attention.main(["--ways", "sdpa-math", "--out", f"{tmp_path}/rows.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "no speed was measured" in said
    assert "Compiled without a GPU by Triton" in said
