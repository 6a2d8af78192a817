"""Calls without a meaning: the tensor, what was wanted, what came."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from graphckpt.errors import AttentionError
from graphckpt.kernels.attention.api import attend
from graphckpt.kernels.attention.meaning import Attention, Band
from graphckpt.kernels.attention.validation import check
from tests.kernels.attention.cases import CASES, call_of

WRONG: dict[str, tuple[Callable[[Attention], Attention], str]] = {
    "rank": (lambda c: c._replace(q=c.q[0]), "q: wanted 4 dimensions"),
    "integers": (lambda c: c._replace(q=c.q.int(), k=c.k.int(), v=c.v.int()), "q: wanted one of float16"),
    "types": (lambda c: c._replace(k=c.k.float()), "k: wanted float64, as q, came float32"),
    "device": (lambda c: c._replace(v=c.v.to("meta")), "v: wanted a tensor on cpu, as q, came meta"),
    "batch": (lambda c: c._replace(k=c.k[:1]), "k: wanted a batch of 2"),
    "heads": (lambda c: c._replace(k=c.k.repeat(1, 2, 1, 1), v=c.v.repeat(1, 2, 1, 1)), "heads that divide the 2 of q, came 4"),
    "length of zero": (lambda c: c._replace(k=c.k[:, :, :0]), "k: wanted no dimension of zero"),
    "width": (lambda c: c._replace(k=c.k[..., :8]), "k: wanted a width of 16"),
    "value heads": (lambda c: c._replace(v=c.v[:, :1]), "v: wanted 2 heads"),
    "value keys": (lambda c: c._replace(v=c.v[:, :, 1:]), "v: wanted 170 keys"),
    "padding": (lambda c: c._replace(keys=torch.ones(2, 169, dtype=torch.bool)), r"keys: wanted shape \(2, 170\)"),
    "padding of numbers": (lambda c: c._replace(keys=torch.ones(2, 170)), "keys: wanted bool"),
    "documents of keys": (lambda c: c._replace(k_documents=torch.ones(2, 170).long()), "k_documents alone"),
    "documents": (
        lambda c: c._replace(q_documents=torch.ones(2, 150), k_documents=torch.ones(2, 170)),
        "q_documents: wanted integers",
    ),
    "sinks": (lambda c: c._replace(sinks=torch.ones(3)), r"sinks: wanted shape \(2,\), came \(3,\)"),
    "bias": (lambda c: c._replace(bias=torch.ones(2, 2, 150, 169)), "bias: wanted a shape that broadcasts"),
    "bool bias": (lambda c: c._replace(bias=torch.ones(1, 1, 150, 170, dtype=torch.bool)), "bias: wanted floating point"),
    "window": (lambda c: c._replace(band=Band(left=-2)), "the band's left side: wanted 0 or more"),
    "scale": (lambda c: c._replace(scale=float("nan")), "scale: wanted a finite number"),
    "softcap": (lambda c: c._replace(softcap=-1.0), "softcap: wanted 0 for none"),
    "dropout": (lambda c: c._replace(dropout=1.0, seed=torch.tensor(1)), "dropout: wanted a probability"),
    "no seed": (lambda c: c._replace(dropout=0.5), "seed: wanted an int64 tensor to draw dropout from"),
    "seed": (lambda c: c._replace(dropout=0.5, seed=torch.tensor(1.0)), "seed: wanted int64"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_call_without_a_meaning_is_an_error(name: str) -> None:
    spoil, message = WRONG[name]
    with pytest.raises(AttentionError, match=message):
        check(spoil(call_of(())))


def test_a_window_of_zero_is_an_error() -> None:
    call = call_of(())
    with pytest.raises(AttentionError, match="window: wanted a number of keys, 1 or more, came 0"):
        attend(call.q, call.k, call.v, window=0)


@pytest.mark.parametrize("flags", CASES, ids="+".join)
def test_every_case_has_a_meaning(flags: tuple[str, ...]) -> None:
    check(call_of(flags))
