"""Verdicts, and that each of them can be had."""

from __future__ import annotations

import math
import statistics

import pytest

from benchmarks.bars import Value, Verdict, each, over_all

HOLDS, BREAKS = Value("gpt2", 0.5), Value("bert", 0.51)
NOT_YET, PARTIAL = Value("vit", unmeasured=True), Value("vit", 0.4, unmeasured=True)
REFUSED, NOTHING_TO_HAVE = Value("llama", failure="refused at 68.5 MB"), Value("t5")


@pytest.mark.parametrize(
    ("values", "verdict", "measured"),
    [
        ([HOLDS], Verdict.MET, "at most 0.500 (gpt2)"),
        ([HOLDS, NOTHING_TO_HAVE], Verdict.MET, "at most 0.500 (gpt2)"),
        ([HOLDS, BREAKS], Verdict.MISSED, "at most 0.510 (bert)"),
        ([HOLDS, REFUSED], Verdict.MISSED, "at most 0.500 (gpt2); llama: refused at 68.5 MB"),
        ([REFUSED], Verdict.MISSED, "llama: refused at 68.5 MB"),
        ([HOLDS, NOT_YET], Verdict.SO_FAR, "at most 0.500 (gpt2)"),
        ([HOLDS, PARTIAL], Verdict.SO_FAR, "at most 0.500 (gpt2)"),
        ([BREAKS, NOT_YET], Verdict.MISSED, "at most 0.510 (bert)"),
        ([NOT_YET], Verdict.UNMEASURED, "-"),
        ([], Verdict.UNMEASURED, "-"),
        ([Value("gpt2", math.nan)], Verdict.MISSED, "at most nan (gpt2)"),
        ([Value("gpt2", math.inf)], Verdict.MISSED, "at most inf (gpt2)"),
    ],
)
def test_each_value_has_to_hold(values: list[Value], verdict: Verdict, measured: str) -> None:
    bar = each("a bar", values, 0.5)
    assert (bar.verdict, bar.measured) == (verdict, measured)


@pytest.mark.parametrize(
    ("values", "verdict", "measured"),
    [
        ([Value("gpt2", 0.4), BREAKS], Verdict.MET, "0.455 over 2"),
        ([HOLDS, BREAKS], Verdict.MISSED, "0.505 over 2"),
        ([Value("gpt2", 0.4), NOT_YET], Verdict.SO_FAR, "0.400 over 1"),
        ([Value("gpt2", 0.4), REFUSED], Verdict.MISSED, "0.400 over 1; llama: refused at 68.5 MB"),
        ([NOT_YET, NOTHING_TO_HAVE], Verdict.UNMEASURED, "-"),
    ],
)
def test_a_mean_has_to_hold(values: list[Value], verdict: Verdict, measured: str) -> None:
    bar = over_all("a bar", values, 0.5, statistics.fmean)
    assert (bar.verdict, bar.measured) == (verdict, measured)


OLD, NEW = Value("gpt2", 0.5, commits=("old",)), Value("bert", 0.4, commits=("new",))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([OLD], "met over 1 model (old)"),
        ([OLD, NEW, OLD], "met over 2 models (old, new)"),
        ([OLD, NEW, NOTHING_TO_HAVE], "met over 2 models (old, new)"),
        ([OLD, NOT_YET], "met so far over 1 of 2 models (old)"),
        ([OLD, PARTIAL], "met so far over 1 of 2 models, 1 in part (old)"),
        # One knob of a model is measured and another is not.
        ([OLD, Value("gpt2", unmeasured=True)], "met so far over 0 of 1 model, 1 in part (old)"),
        ([OLD, Value("bert", unmeasured=True, commits=("new",))], "met so far over 1 of 2 models (old)"),
        ([OLD, Value("bert", 0.51, commits=("new",))], "missed (old, new)"),
        ([Value("bert", failure="refused", commits=("new",))], "missed (new)"),
        ([NOT_YET], "unmeasured"),
    ],
)
def test_a_verdict_says_over_how_many_models_and_at_which_commits(values: list[Value], text: str) -> None:
    assert each("a bar", values, 0.5).verdict_text == text
    assert over_all("a bar", values, 0.5, max).verdict_text == text
