"""Triton's kernels against the reference in fp64: every flag and every pair of flags, forward and all gradients, three types."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from graphckpt.kernels.attention import reference
from graphckpt.kernels.attention.meaning import NOTHING, PASSES, STOPS, Attention
from tests.interpreted.bf16 import patch
from tests.interpreted.calls import SHORT, bundles, call_of, gradients_for, revealed, triton
from tests.kernels.attention.cases import CASES, FLAGS, Answer, answer, cast, eager, errors, relative, squared_errors

FP32_BAR = 2e-6
HALVES = [torch.float16, torch.bfloat16]
ALONE = [flags for flags in CASES if "sinks" not in flags]
WITH_SINKS = [flags for flags in CASES if "sinks" in flags]


def _three(call: Attention) -> tuple[Answer, Answer, Answer]:
    """By the kernels, in fp64, and by eager, with the mask that the kernels draw."""
    grad_out = gradients_for(call)[0].to(call.q.dtype)
    keep = revealed(call)
    true = answer(reference.attend, cast(call, torch.float64), grad_out, None, keep)
    return answer(triton, call, grad_out), true, answer(eager, call, grad_out, None, keep)


def _check(flags: tuple[str, ...], dtype: torch.dtype, short: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Squared errors of the kernels and of eager. Of all but sinks the former are at most four times the latter: twice in the
    norm."""
    mine, true, plain = _three(call_of(flags, dtype, 1, SHORT) if short else call_of(flags, dtype, 1))
    if dtype == torch.float32:
        assert all(error < FP32_BAR for name, error in errors(mine, true).items() if name != "sinks")
    ours, theirs = squared_errors(mine, true), squared_errors(plain, true)
    assert all(ours[name] <= 4 * theirs[name] for name in ours if name != "sinks"), (ours, theirs)
    return ours, theirs


@pytest.mark.parametrize("flags", ALONE, ids="+".join)
def test_every_pair_in_fp32(flags: tuple[str, ...]) -> None:
    _check(flags, torch.float32, short=True)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("flags", bundles(6), ids="+".join)
def test_every_pair_in_halves(flags: tuple[str, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pairs at once; the type that the interpreter has of its own in more tiles."""
    if dtype == torch.bfloat16:
        patch(monkeypatch)
    _check(flags, dtype, short=dtype == torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_sinks(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each other flag in fp32, over draws in halves. The gradient of few numbers, sums of terms that cancel, is luck in one
    case."""
    if dtype == torch.bfloat16:
        patch(monkeypatch)
    ours: Counter[str] = Counter()
    theirs: Counter[str] = Counter()
    for flags in WITH_SINKS if dtype == torch.float32 else WITH_SINKS[:4]:
        mine, plain = _check(flags, dtype, short=True)
        ours += Counter(mine)
        theirs += Counter(plain)
    assert ours["sinks"] <= 4 * theirs["sinks"]


def test_bundles_hold_every_pair() -> None:
    found = {frozenset((a, b)) for bundle in bundles(6) for a in bundle for b in bundle if a < b}
    assert found == {frozenset(flags) for flags in CASES if len(flags) == 2}
    assert {flag for bundle in bundles(6) for flag in bundle} == set(FLAGS)


@pytest.mark.parametrize("uniform", [NOTHING, PASSES, STOPS], ids=["nothing", "passes", "stops"])
@pytest.mark.parametrize(
    "flags",
    [
        ("left_out", "causal"),
        ("left_out", "row_bias", "softcap"),
        ("left_out", "bias", "documents"),
        ("left_out", "dropout", "wide"),
    ],
    ids="+".join,
)
def test_rows_that_may_attend_to_nothing(flags: tuple[str, ...], uniform: int) -> None:
    call = call_of(flags, torch.float32, 1, SHORT)._replace(uniform=uniform)
    grads = gradients_for(call)
    keep = revealed(call)
    true = answer(reference.attend, cast(call, torch.float64), *grads, keep)
    mine = answer(triton, call, *grads)
    assert max(errors(mine, true).values()) < FP32_BAR
    assert torch.equal(mine.lse == -torch.inf, true.lse == -torch.inf)
    assert relative(*(lse.masked_fill(lse == -torch.inf, 0) for lse in (mine.lse, true.lse))) < FP32_BAR


@pytest.mark.parametrize(
    "flags", [("sinks", "causal", "grouped"), ("window", "row_bias"), ("padding", "softcap")], ids="+".join
)
def test_lse_has_a_gradient(flags: tuple[str, ...]) -> None:
    call = call_of(flags, torch.float32)
    grads = gradients_for(call)
    true = answer(reference.attend, cast(call, torch.float64), *grads)
    assert max(errors(answer(triton, call, *grads), true).values()) < FP32_BAR
