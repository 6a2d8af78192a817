"""Text, batches and the arithmetic of the example's measurements; nothing is compiled."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from examples.gpt2 import BATCH, SEQUENCE, VOCABULARY, build_model, draw_batch, highest_sum, manual_text, measured_peak


def test_the_text_is_the_english_of_the_manual() -> None:
    text = manual_text()
    assert b"Assert statements are a convenient way to insert debugging assertions" in text
    assert len(text) > 100_000


def test_a_batch_is_windows_of_the_text() -> None:
    text = manual_text()
    tokens = draw_batch(text, 3)["input_ids"]
    assert tokens.shape == (BATCH, SEQUENCE)
    assert all(bytes(row) in text for row in tokens.tolist())


def test_a_step_draws_the_same_batch_each_time_and_another_than_the_next() -> None:
    text = manual_text()
    first, again, after = (draw_batch(text, step)["input_ids"] for step in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, after)


def test_a_text_of_one_window_is_drawn_whole() -> None:
    text = bytes(range(VOCABULARY))[:SEQUENCE]
    assert draw_batch(text, 0)["input_ids"].tolist() == [list(text)] * BATCH


def test_the_loss_is_that_of_the_next_byte() -> None:
    batch = draw_batch(manual_text(), 0)
    with torch.no_grad():
        output = build_model(layers=1)(**batch)
    predicted = output.logits[:, :-1].reshape(-1, VOCABULARY)
    torch.testing.assert_close(output.loss, cross_entropy(predicted, batch["input_ids"][:, 1:].reshape(-1)))


def test_the_weights_are_the_same_each_time() -> None:
    once, again = (dict(build_model(layers=1).named_parameters()) for _ in range(2))
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_the_peak_is_the_highest_running_sum() -> None:
    assert highest_sum([100, 50, -100, 20]) == 150
    assert highest_sum([-500, 100]) == 0
    assert highest_sum([]) == 0


def test_a_step_is_measured_to_the_byte() -> None:
    def step() -> float:
        temporary = torch.ones(1000, dtype=torch.float64)
        del temporary
        kept = torch.ones(500, dtype=torch.float64)
        return float(kept[0])

    assert measured_peak(step) == (8 * 1000, 1.0)
