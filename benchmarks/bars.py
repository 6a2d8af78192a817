"""Bars, and what the figures of several models come to against them.

Enters: one `Value` a model, or more. Leaves: a `Bar` with its verdict: missed where a figure is above the limit or a row failed,
met only where nothing is unmeasured. It says over how many models, and of which commits the rows of ours are: several may meet
in one bar. Not guaranteed: that a bar is about every model; those without a figure to have are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What a bar comes to. `SO_FAR`: every figure there is holds, and some are not measured."""

    MET = "met"
    SO_FAR = "met so far"
    MISSED = "missed"
    UNMEASURED = "unmeasured"


@dataclass(frozen=True)
class Value:
    """One model's figure: ours over a peer's. `failure` says what of ours does not count; a figure may be partial.

    `commits`: those of the rows of ours behind it, as tables show them.
    """

    model: str
    ratio: float | None = None
    failure: str = ""
    unmeasured: bool = False
    commits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Coverage:
    """How many models a bar is about, how many of them are measured wholly and in part, and at which commits of ours."""

    models: int
    whole: int
    part: int
    commits: tuple[str, ...]


@dataclass(frozen=True)
class Bar:
    """A limit, what is held against it, as text, and the verdict."""

    name: str
    limit: float
    measured: str
    verdict: Verdict
    coverage: Coverage

    @property
    def verdict_text(self) -> str:
        """The verdict, what it is over, and the commits it rests on."""
        covered = self.coverage
        models = f"{covered.models} model{'' if covered.models == 1 else 's'}"
        text = str(self.verdict)
        if self.verdict is Verdict.MET:
            text += f" over {models}"
        if self.verdict is Verdict.SO_FAR:
            text += f" over {covered.whole} of {models}" + (f", {covered.part} in part" if covered.part else "")
        return f"{text} ({', '.join(covered.commits)})" if covered.commits else text


def each(name: str, values: Sequence[Value], limit: float) -> Bar:
    """A bar that every figure has to hold; the worst one is named."""
    worst = max(((value.ratio, value.model) for value in values if value.ratio is not None), default=None)
    if worst is None:
        return _bar(name, limit, [], "", values)
    return _bar(name, limit, [worst[0]], f"at most {worst[0]:.3f} ({worst[1]})", values)


def over_all(name: str, values: Sequence[Value], limit: float, mean: Callable[[Sequence[float]], float]) -> Bar:
    """A bar that a mean of all figures has to hold."""
    ratios = [value.ratio for value in values if value.ratio is not None]
    if not ratios:
        return _bar(name, limit, [], "", values)
    return _bar(name, limit, [mean(ratios)], f"{mean(ratios):.3f} over {len(ratios)}", values)


def _bar(name: str, limit: float, figures: Sequence[float], measured: str, values: Sequence[Value]) -> Bar:
    failures = [f"{value.model}: {value.failure}" for value in values if value.failure]
    text = "; ".join([*filter(None, [measured]), *failures]) or "-"
    # So written that a figure that is no number misses too.
    if failures or not all(figure <= limit for figure in figures):
        verdict = Verdict.MISSED
    elif not figures:
        verdict = Verdict.UNMEASURED
    else:
        verdict = Verdict.SO_FAR if any(value.unmeasured for value in values) else Verdict.MET
    return Bar(name, limit, text, verdict, _coverage(values))


def _coverage(values: Sequence[Value]) -> Coverage:
    unmeasured = {value.model for value in values if value.unmeasured}
    figured = {value.model for value in values if value.ratio is not None}
    # Rows behind no figure and no failure bear on no verdict.
    telling = [value for value in values if value.ratio is not None or value.failure]
    commits = dict.fromkeys(commit for value in telling for commit in value.commits)
    return Coverage(len(unmeasured | figured), len(figured - unmeasured), len(figured & unmeasured), tuple(commits))
