"""Which weights are kept: as many as were asked for, the same for the same seed, others in every tile, batch and head."""

from __future__ import annotations

import torch

from tests.kernels.attention.cases import call_of, keep_of


def test_as_many_are_dropped_as_were_asked_for() -> None:
    keep = keep_of(call_of(("dropout",)))
    assert keep is not None
    count = keep.numel()
    # Five standard deviations of so many draws at 0.25.
    assert abs((~keep).sum().item() - count / 4) < 5 * (count * 3 / 16) ** 0.5


def test_a_seed_gives_the_same_mask_and_another_one_another() -> None:
    call = call_of(("dropout",))
    first, again, other = (keep_of(c) for c in (call, call, call._replace(seed=torch.tensor(124))))
    assert first is not None and again is not None and other is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_rows_of_different_tiles_and_heads_are_drawn_apart() -> None:
    keep = keep_of(call_of(("dropout",)))
    assert keep is not None
    rows = keep.flatten(0, 2).float()
    # Independent draws of probability 0.75 agree in 0.625 of the places, within five standard deviations of 170 places.
    agree = (rows[0] == rows[1:]).float().mean(1)
    assert (agree - 0.625).abs().max() < 6 * (0.625 * 0.375 / 170) ** 0.5
