"""The one table of options and flags, and how an option finds its value.

``torch.compile(options={...})`` > ``GRAPHCKPT_*`` environment > default. `resolve` takes both mappings and returns frozen
`Options` and the options that are Inductor's. An environment variable set to the empty string counts as not set. A name that is
in our table is ours even if Inductor has one of the same name.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Literal, NamedTuple

from graphckpt.errors import BudgetError, OptionError
from graphckpt.units import FORMS, Size, parse_size

ENVIRONMENT_PREFIX = "GRAPHCKPT_"
POLICIES = ("stock", "every_N", "sqrt", "full", "selective", "smallest", "index:K")

_POLICY = re.compile(r"stock|every_0*[1-9]\d*|sqrt|full|selective|smallest|index:\d+", re.ASCII)
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Options:
    """What one compile was asked for. ``source_of``: (option, "options" or "environment") for each that was given."""

    budget: Size | None = None
    activation_budget: Size | None = None
    optimizer: Literal["adam", "sgd"] | int = "adam"
    inner: Literal["inductor", "eager"] = "inductor"
    on_infeasible: Literal["error", "warn"] = "error"
    checkpoints: Literal["replan", "honour"] = "replan"
    attention: Literal["auto", "keep", "fused"] = "auto"
    verify: bool = False
    solver_seconds: float | None = None
    refine: bool = True
    policy: str | None = None
    dump: str | None = None
    disable: bool = False
    source_of: tuple[tuple[str, str], ...] = ()

    def source(self, name: str) -> str:
        """Where the value of an option came from: "options", "environment" or "default"."""
        return dict(self.source_of).get(name, "default")


class Resolved(NamedTuple):
    """Our options, and those that go to Inductor as they came."""

    options: Options
    inner_options: dict[str, object]


class OptionSpec(NamedTuple):
    """One row of the table. ``read`` takes a Python value or text, and raises `ValueError` if it is not one of ``forms``."""

    name: str
    forms: str
    meaning: str
    read: Callable[[object], object]

    @property
    def flag(self) -> str:
        """The environment variable of this option."""
        return ENVIRONMENT_PREFIX + self.name.upper()


def resolve(
    options: Mapping[str, object] | None, environ: Mapping[str, str], *, inner_option_names: Collection[str]
) -> Resolved:
    """Read both mappings, options first.

    Raises `OptionError` for a name that neither we nor ``inner_option_names`` know, for a value that an option does not take, and
    if one source gives both budgets; `BudgetError` for a size that cannot be read. Values of inner options are not looked at.
    """
    ours, inner_options = _split(options or {}, inner_option_names)
    flags = _flags(environ)
    values: dict[str, object] = {}
    source_of: list[tuple[str, str]] = []
    for spec in OPTIONS:
        if spec.name in ours:
            values[spec.name] = _read(spec, ours[spec.name], f"option {spec.name!r}")
            source_of.append((spec.name, "options"))
        elif spec.name in flags:
            values[spec.name] = _read(spec, flags[spec.name], f"environment variable {spec.flag}")
            source_of.append((spec.name, "environment"))
    source_of = _one_budget(values, source_of)
    return Resolved(Options(**values, source_of=tuple(source_of)), inner_options)  # type: ignore[arg-type]


def render_table() -> str:
    """The table of options as markdown, one row an option."""
    defaults = {field.name: field.default for field in fields(Options) if field.default is not MISSING}
    rows = ["| option | environment | forms | default | meaning |", "| --- | --- | --- | --- | --- |"]
    for spec in OPTIONS:
        default = defaults[spec.name]
        shown = "none" if default is None else f"`{default}`"
        rows.append(f"| `{spec.name}` | `{spec.flag}` | {spec.forms} | {shown} | {spec.meaning} |")
    return "\n".join(rows) + "\n"


def _split(options: Mapping[str, object], inner_names: Collection[str]) -> tuple[dict[str, object], dict[str, object]]:
    # torch.compile itself takes Inductor's names with "-" for "_"; so do we.
    known = {spec.name for spec in OPTIONS}
    inner_known = set(inner_names)
    ours: dict[str, object] = {}
    inner: dict[str, object] = {}
    for given, value in options.items():
        name = given.replace("-", "_")
        if name in known:
            ours[name] = value
        elif name in inner_known:
            inner[name] = value
        else:
            raise OptionError(f"unknown option {given!r}. {_nearest(name, known | inner_known, sorted(known))}")
    return ours, inner


def _flags(environ: Mapping[str, str]) -> dict[str, str]:
    names = {spec.flag: spec.name for spec in OPTIONS}
    given: dict[str, str] = {}
    for flag, value in environ.items():
        if not flag.startswith(ENVIRONMENT_PREFIX) or value == "":
            continue
        if flag not in names:
            near = _nearest(flag, names, sorted(names), ENVIRONMENT_PREFIX)
            raise OptionError(f"unknown environment variable {flag!r}. {near}")
        given[names[flag]] = value
    return given


def _nearest(name: str, candidates: Collection[str], listed: Collection[str], shared: str = "") -> str:
    """A hint. With the prefix that all of them share any two names would be near."""
    stems = sorted(candidate.removeprefix(shared) for candidate in candidates)
    near = difflib.get_close_matches(name.removeprefix(shared), stems, n=1)
    return f"Did you mean {shared + near[0]!r}?" if near else f"Known are: {', '.join(listed)}."


def _read(spec: OptionSpec, value: object, where: str) -> object:
    try:
        return spec.read(value)
    except BudgetError as error:
        raise BudgetError(f"{where}: {error}") from None
    except ValueError as error:
        raise OptionError(f"{where}: wanted {spec.forms}, came {value!r}. {error}".rstrip()) from None


def _one_budget(values: dict[str, object], source_of: list[tuple[str, str]]) -> list[tuple[str, str]]:
    given = [name for name in ("budget", "activation_budget") if values.get(name) is not None]
    if len(given) < 2:
        return source_of
    sources = dict(source_of)
    if sources["budget"] == sources["activation_budget"]:
        raise OptionError(
            f"both 'budget' and 'activation_budget' came from the {sources['budget']}. "
            "Give one: 'budget' bounds everything on the device, 'activation_budget' what a step allocates."
        )
    loser = next(name for name in given if sources[name] == "environment")
    del values[loser]
    return [(name, source) for name, source in source_of if name != loser]


def _size(value: object) -> Size | None:
    if value is None or isinstance(value, Size):
        return value
    return parse_size(value)  # type: ignore[arg-type]


def _choice(*words: str) -> Callable[[object], object]:
    def read(value: object) -> object:
        if value not in words:
            near = difflib.get_close_matches(str(value), words, n=1)
            raise ValueError(f"Did you mean {near[0]!r}?" if near else "")
        return value

    return read


def _optimizer(value: object) -> object:
    if value in ("adam", "sgd"):
        return value
    if value in (0, "0") and not isinstance(value, bool):
        return 0
    size = parse_size(value)  # type: ignore[arg-type]
    if size.kind != "bytes":
        raise ValueError("The optimizer's state has a size of its own.")
    return size.value


def _bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word not in _TRUE + _FALSE:
        raise ValueError
    return word in _TRUE


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    seconds = float(value)
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError
    return seconds


def _policy(value: object) -> object:
    if value is None or (isinstance(value, str) and _POLICY.fullmatch(value)):
        return value
    near = difflib.get_close_matches(str(value), POLICIES, n=1, cutoff=0.5)
    raise ValueError(f"Did you mean {near[0]!r}?" if near else "")


def _directory(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError
    return os.fspath(value)


_SIZES = f"a size ({FORMS})"
OPTIONS: tuple[OptionSpec, ...] = (
    OptionSpec("budget", _SIZES, "all tensor bytes on the device at the worst moment of a training step", _size),
    OptionSpec("activation_budget", _SIZES, "bytes a step may allocate above what is there when it starts", _size),
    OptionSpec("optimizer", "`adam`, `sgd` or bytes", "optimizer state to reserve inside `budget`", _optimizer),
    OptionSpec("inner", "`inductor` or `eager`", "what compiles the planned graph", _choice("inductor", "eager")),
    OptionSpec("on_infeasible", "`error` or `warn`", "`warn` trains at the smallest peak", _choice("error", "warn")),
    OptionSpec(
        "checkpoints", "`replan` or `honour`", "what becomes of `checkpoint()` regions", _choice("replan", "honour")
    ),
    OptionSpec(
        "attention",
        "`auto`, `keep` or `fused`",
        "`auto` fuses attentions that it knows, `fused` all or none",
        _choice("auto", "keep", "fused"),
    ),
    OptionSpec("verify", "`0` or `1`", "check gradients and peak on one step", _bool),
    OptionSpec("solver_seconds", "seconds above 0", "after this long no more plans of a graph are looked for", _seconds),
    OptionSpec("refine", "`0` or `1`", "where memory is short, seconds more for smaller and faster plans", _bool),
    OptionSpec("policy", ", ".join(f"`{name}`" for name in POLICIES), "one fixed plan, not the planner's", _policy),
    OptionSpec("dump", "a directory", "write graph, plan and report of each compile there", _directory),
    OptionSpec("disable", "`0` or `1`", "be plain Inductor", _bool),
)
