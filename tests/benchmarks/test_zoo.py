"""Small models of the coverage benchmark: the same each time, with the dropout and the padding that were asked for."""

from __future__ import annotations

import pytest
import torch

from benchmarks.coverage import measure
from benchmarks.zoo import LENGTH, build_small


def test_a_name_gives_the_same_model_and_batch_each_time() -> None:
    first, second = (build_small("llama", torch.float32, 0.0, True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    assert torch.equal(first.batch["input_ids"], second.batch["input_ids"])
    assert first.batch["attention_mask"].sum().item() == 2 * LENGTH - 12
    assert "attention_mask" not in build_small("llama", torch.float32, 0.0, False).batch


@pytest.mark.parametrize("name", ["gpt2", "gpt_oss"])
def test_a_row_says_what_is_fused_and_how_exactly(name: str) -> None:
    row = measure("abc", name, "fp32", 0.0, True)
    assert row.is_covered
    assert (row.fused, row.inductor, row.square_after, row.reasons) == (2, 0, 0, ())
    assert row.square_before > 0
