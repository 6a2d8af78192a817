"""Attention by keyword: what the words mean in bands and numbers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from graphckpt.errors import AttentionError
from graphckpt.kernels.attention.api import attend, run
from graphckpt.kernels.attention.meaning import Attention, Band
from tests.kernels.attention.cases import call_of

GRAIN = {"rtol": 1e-12, "atol": 1e-12}


def test_the_scale_is_that_of_the_width_unless_it_is_given() -> None:
    call = call_of(())
    wanted = functional.scaled_dot_product_attention(call.q, call.k, call.v)
    torch.testing.assert_close(attend(call.q, call.k, call.v)[0], wanted, **GRAIN)
    doubled = functional.scaled_dot_product_attention(call.q, call.k, call.v, scale=0.5)
    torch.testing.assert_close(attend(call.q, call.k, call.v, scale=0.5)[0], doubled, **GRAIN)


@pytest.mark.parametrize(
    ("causal", "window", "band"),
    [(True, None, Band(-1, 0, 20)), (False, 5, Band(4, 4, 0)), (True, 5, Band(4, 0, 20)), (False, None, Band())],
)
def test_causal_and_window_are_bands(causal: bool, window: int | None, band: Band) -> None:
    """150 queries and 170 keys: under a causal mask the last query sees all."""
    call = call_of(())
    wanted, _ = run(call._replace(band=band), "blocked")
    assert torch.equal(attend(call.q, call.k, call.v, scale=0.25, causal=causal, window=window)[0], wanted)


def test_documents_are_given_for_queries_and_keys() -> None:
    call = call_of(("documents",))
    assert call.q_documents is not None and call.k_documents is not None
    found, lse = attend(call.q, call.k, call.v, scale=0.25, documents=(call.q_documents, call.k_documents))
    wanted = run(call, "blocked")
    assert torch.equal(found, wanted[0]) and torch.equal(lse, wanted[1])


def test_an_implementation_may_be_named() -> None:
    q = torch.randn(1, 1, 4, 8)
    torch.testing.assert_close(attend(q, q, q, implementation="flash")[0], attend(q, q, q)[0])
    with pytest.raises(AttentionError, match="softcap"):
        attend(q, q, q, softcap=1.0, implementation="flash")


def test_what_is_wrong_is_said_before_anything_runs() -> None:
    q = torch.randn(1, 1, 4, 8)
    with pytest.raises(AttentionError, match="k: wanted a width of 8, as q, came 7"):
        attend(q, torch.randn(1, 1, 4, 7), q)
    assert Attention(q, q, q, 1.0).sizes.group == 1
