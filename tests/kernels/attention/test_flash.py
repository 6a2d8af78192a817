"""aten's flash attention behind the operator: the same meaning, for the calls that it takes."""

from __future__ import annotations

import pytest
import torch

from graphckpt.errors import AttentionError
from graphckpt.kernels.attention import flash
from graphckpt.kernels.attention.api import fastest, run
from graphckpt.kernels.attention.meaning import Attention, Band
from tests.kernels.attention.cases import FLAGS, answer, call_of, eager, oracle, squared_errors

REFUSED = {
    "grouped": "k has fewer heads",
    "padding": "padding",
    "documents": "documents",
    "bias": "a bias",
    "row_bias": "a bias",
    "softcap": "softcap",
    "sinks": "sinks",
    "wide": "v has another head size",
    "left_out": "padding",
    "dropout": "dropout",
    "window": "neither open nor causal",
    "causal": "neither open nor causal",
}


def _flash(call: Attention) -> tuple[torch.Tensor, torch.Tensor]:
    return run(call, "flash")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("band", [Band(), flash.CAUSAL], ids=["open", "causal"])
def test_it_errs_at_most_twice_as_much_as_eager(band: Band, dtype: torch.dtype) -> None:
    call = call_of((), dtype)._replace(band=band)
    grad_out = torch.randn(call.q.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype)
    true = oracle(call, grad_out)
    mine, plain = (squared_errors(answer(way, call, grad_out, None, *rest), true) for way, rest in ((_flash, ()), (eager, (None,))))
    # In fp64 eager's own error is a few units in the last place, and so may be luck.
    floor = {name: (1e-15 * plain_norm) ** 2 for name, plain_norm in _norms(true).items()} if dtype == torch.float64 else {}
    assert all(mine[name] <= 4 * plain[name] + floor.get(name, 0.0) for name in mine), (mine, plain)


def _norms(true: object) -> dict[str, float]:
    gradients = true.gradients  # type: ignore[attr-defined]
    return {name: t.norm().item() for name, t in (("out", true.out), *zip("qkv", gradients[:3], strict=True))}  # type: ignore[attr-defined]


def test_its_lse_is_the_natural_logarithm() -> None:
    call = call_of((), torch.float32)
    torch.testing.assert_close(flash.forward(call)[1], run(call, "blocked")[1])


@pytest.mark.parametrize("flag", FLAGS)
def test_what_it_has_no_meaning_for_is_refused_by_name(flag: str) -> None:
    call = call_of((flag,))
    assert REFUSED[flag] in flash.why_not(call)
    assert fastest(call) == "blocked"
    with pytest.raises(AttentionError, match="flash"):
        run(call, "flash")


def test_the_fastest_of_a_plain_call_is_aten() -> None:
    assert fastest(call_of(())) == "flash"
    transposed = call_of(())
    assert "not dense" in flash.why_not(transposed._replace(v=transposed.v.transpose(-1, -2).contiguous().transpose(-1, -2)))


def test_lse_has_no_gradient_there() -> None:
    call = call_of(())
    call.q.requires_grad_()
    with pytest.raises(AttentionError, match="a gradient of lse, blocked"):
        run(call, "flash")[1].sum().backward()
