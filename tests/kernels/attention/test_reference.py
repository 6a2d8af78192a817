"""The oracle against torch's own attention and softmax."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from graphckpt.kernels.attention.meaning import NOTHING, Attention, Band
from graphckpt.kernels.attention.reference import attend
from tests.kernels.attention.cases import CASES, call_of, eager, keep_of

GRAIN = {"rtol": 1e-12, "atol": 1e-12}


def test_plain_and_causal_attention_are_torchs() -> None:
    call = call_of(("grouped", "wide"))
    for band, causal in ((Band(), False), (Band(right=0), True)):
        wanted = functional.scaled_dot_product_attention(call.q, call.k, call.v, is_causal=causal, scale=0.25, enable_gqa=True)
        torch.testing.assert_close(attend(call._replace(band=band))[0], wanted, **GRAIN)


@pytest.mark.parametrize("flags", CASES, ids="+".join)
def test_it_is_what_eager_models_compute(flags: tuple[str, ...]) -> None:
    """In fp64; rows that may attend to nothing too, by the most negative number. Not those of a sink alone: lse differs there."""
    call = call_of(flags)
    keep = keep_of(call)
    torch.testing.assert_close(attend(call, keep)[0], eager(call, keep)[0], **GRAIN)


def test_of_a_row_that_may_attend_to_nothing() -> None:
    """The mean of all values and the logarithm of their number; else nothing, and a sink's logit."""
    q, k, v = torch.randn(1, 1, 2, 4), torch.randn(1, 1, 3, 4), torch.randn(1, 1, 3, 4)
    call = Attention(q, k, v, 1.0, keys=torch.zeros(1, 3, dtype=torch.bool))
    out, lse = attend(call)
    torch.testing.assert_close(out, v.mean(2, keepdim=True).expand_as(out))
    torch.testing.assert_close(lse, torch.tensor(3.0).log().expand(1, 1, 2))
    out, lse = attend(call._replace(uniform=NOTHING))
    assert not out.any()
    assert bool((lse == -torch.inf).all())
    out, lse = attend(call._replace(sinks=torch.tensor([0.5])))
    assert not out.any()
    torch.testing.assert_close(lse, torch.full((1, 1, 2), 0.5))
