"""A record as one line, as a full text, and as JSON and back.

A `Record` enters, text leaves; `from_json` goes the other way. Where a device budget was asked for, sizes in the line count what
is live or reserved before the step too, as the budget does; the full text shows peaks above the start of the step.
Not guaranteed: the wording and the layout of the texts between versions. What is to be parsed is the JSON.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from itertools import groupby
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from graphckpt.errors import GraphckptError
from graphckpt.report.record import Budget, Record, TensorEntry
from graphckpt.units import format_bytes

JSON_VERSION = 1

# A number of its own between dots or brackets: `h.3.attn`, `h[3]`, and not `layer1`.
_LAYER_NUMBER = re.compile(r"(?<![^.\[])(0|[1-9][0-9]{0,8})(?![^.\]])")
_TIMES = "\N{MULTIPLICATION SIGN}"


class ReportError(GraphckptError, ValueError):
    """A text that is not the JSON of a record, or not of a version that can be read. Says where, what was wanted, what came."""


def summary_line(record: Record) -> str:
    """One line: the budget, what the graph would need, what was planned, what it costs in time, and the notes."""
    solved = f"solved in {record.plan_seconds:.1f} s" + (f", {_gap(record)}" if _recomputes(record) else "")
    parts = (f"graph {record.graph_id}", _budget_text(record.budget), *_outcome(record), f"plan {record.plan}", solved)
    return "graphckpt: " + " · ".join(_one_line(part) for part in (*parts, *record.notes))


def full_text(record: Record) -> str:
    """The line, the sizes, the frontier, what is alive at the peak, and every tensor that crosses or is recomputed.

    Equal tensors of layers that differ only in their number are one row, ``h.{0-7}.attn``. Rows stand largest first.
    """
    times = (
        f"modelled time {_time_text(record.modelled_time_us)}, unbudgeted {_time_text(record.unbudgeted_time_us)} "
        f"({_extra_time(record)})\nplanned in {record.plan_seconds:.1f} s, {_gap(record)}; "
        f"{record.dry_lowerings} dry lowerings in {record.lower_seconds:.1f} s"
    )
    sections = [
        summary_line(record),
        _table("sizes, peaks above the start of the step", ("", "size", "bytes"), _sizes(record), ("size", "bytes")),
        times,
        _frontier(record),
        _table("alive at the peak", ("size", "tensor"), [(format_bytes(b), n) for n, b in record.holders], ("size",)),
        _tensor_table("saved", record.saved),
        _tensor_table("recomputed", record.recomputed),
    ]
    return "\n\n".join(sections) + "\n"


def to_json(record: Record) -> str:
    """The record as JSON in ASCII, several lines, with a version.

    Not guaranteed: JSON that others can read where a time is not finite; `from_json` does read it.
    """
    return json.dumps({"version": JSON_VERSION, "record": asdict(record)}, indent=1)


def from_json(text: str) -> Record:
    """The record that `to_json` wrote, equal to the last digit.

    Raises:
        ReportError: not JSON, another version, or a field that is missing, unknown or of another type.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"wanted the JSON of a report, came text that is not JSON: {error}") from None
    version = document.get("version") if isinstance(document, dict) else None
    if type(version) is not int or version != JSON_VERSION:
        raise ReportError(
            f"wanted a report of version {JSON_VERSION}, came version {version!r}. "
            "Read it with the graphckpt that wrote it, or compile again."
        )
    return _typed(Record, document.get("record"), "record")


def _typed(kind: Any, value: object, where: str) -> Any:
    """``value`` as parsed from JSON, in the type that ``kind`` says. ``where`` is its path, for the error."""
    if is_dataclass(kind) and isinstance(kind, type):
        names = [field.name for field in fields(kind)]
        if not isinstance(value, dict) or set(value) != set(names):
            came = sorted(set(names) ^ set(value)) if isinstance(value, dict) else type(value).__name__
            raise ReportError(f"{where}: wanted the fields of {kind.__name__}, came a difference in {came}")
        hints = get_type_hints(kind)
        return kind(**{name: _typed(hints[name], value[name], f"{where}.{name}") for name in names})
    if get_origin(kind) is UnionType:
        return None if value is None else _typed(get_args(kind)[0], value, where)
    if get_origin(kind) is tuple:
        items = get_args(kind)
        if not isinstance(value, list) or (items[-1] is not Ellipsis and len(items) != len(value)):
            raise ReportError(f"{where}: wanted a list, came {value!r:.80}")
        kinds = [items[0]] * len(value) if items[-1] is Ellipsis else items
        return tuple(_typed(item, v, f"{where}[{i}]") for i, (item, v) in enumerate(zip(kinds, value, strict=True)))
    allowed = (int, float) if kind is float else (kind,)
    if type(value) not in allowed:
        raise ReportError(f"{where}: wanted {kind.__name__}, came {value!r:.80}")
    return value


def _budget_text(budget: Budget) -> str:
    if budget.kind == "none":
        return "no budget"
    relative = budget.asked.endswith("%") or budget.asked.lower() == "auto"
    asked = f"{budget.asked} = " if relative else ""
    taken = f"; {format_bytes(_taken_bytes(budget))} live or reserved" if _taken_bytes(budget) else ""
    return f"{budget.kind.replace('_', ' ')} {asked}{format_bytes(budget.asked_bytes)} ({budget.source}{taken})"


def _taken_bytes(budget: Budget) -> int:
    # An activation budget counts from the start of the step, so nothing is taken from it.
    return budget.live_bytes + budget.reserve_bytes if budget.kind == "budget" else 0


def _recomputes(record: Record) -> bool:
    # Inductor's own plan recomputes what is cheap to fuse; that is not the price of a budget.
    return record.plan != "stock" and bool(record.recomputed_bytes or record.recomputed)


def _outcome(record: Record) -> tuple[str, ...]:
    """What became of the graph under its budget."""
    taken = _taken_bytes(record.budget)
    limited = record.budget.kind != "none"
    needed = format_bytes(record.unbudgeted_peak_bytes + taken)
    planned = format_bytes(record.predicted_peak_bytes + taken)
    # The allowance is never below zero, what a budget leaves after what is taken may be.
    room_bytes = min(record.budget.allowance_bytes, record.budget.asked_bytes - taken)
    over_bytes = record.predicted_peak_bytes - room_bytes
    held_over_bytes = record.predicted_held_peak_bytes - room_bytes
    warning: tuple[str, ...] = ()
    if limited and over_bytes > 0:
        warning = (f"OVER the budget by {format_bytes(over_bytes)}",)
    elif limited and held_over_bytes > 0:
        warning = (f"OVER the budget by {format_bytes(held_over_bytes)} if the outputs are kept through backward",)
    if _recomputes(record):
        time = f"{_extra_time(record)} modelled time"
        return (f"would need {needed}", f"planned {planned} ({_shares(record)})", *warning, time)
    nothing = "nothing is recomputed beyond what Inductor does of its own accord"
    if not limited:
        return (f"needs {planned}", nothing)
    if record.unbudgeted_peak_bytes <= room_bytes:
        return (f"the unbudgeted graph fits: it needs {needed}, {nothing}", *warning)
    return (f"would need {needed}", f"planned {planned}", nothing, *warning)


def _shares(record: Record) -> str:
    """Saved against recomputed bytes. What is there at all is at least 1 %, so that nothing is hidden by rounding."""
    whole = record.saved_bytes + record.recomputed_bytes
    keep = min(round(100 * record.saved_bytes / whole), 99) if whole else 0
    keep = max(keep, 1) if record.saved_bytes else keep
    return f"keep {keep} % / recompute {100 - keep} %"


def _extra_time(record: Record) -> str:
    return f"{100 * record.extra_time_share:+.1f} %" if record.unbudgeted_time_us else "unknown"


def _gap(record: Record) -> str:
    return record.gap if record.gap == "no bound" else f"gap {record.gap}"


def _time_text(time_us: float) -> str:
    if time_us < 1e3:
        return f"{time_us:.1f} us"
    return f"{time_us / 1e3:.2f} ms" if time_us < 1e6 else f"{time_us / 1e6:.2f} s"


def _size_or_dash(size_bytes: int | None) -> str:
    return "—" if size_bytes is None else format_bytes(size_bytes)


def _sizes(record: Record) -> list[tuple[str, ...]]:
    budget = record.budget
    limits = (
        (budget.kind.replace("_", " "), budget.asked_bytes),
        ("live before the step", budget.live_bytes),
        ("reserved for the optimizer", budget.reserve_bytes),
        ("the step may allocate", budget.allowance_bytes),
    )
    sizes: tuple[tuple[str, int | None], ...] = (
        *(limits if budget.kind != "none" else ()),
        ("predicted peak", record.predicted_peak_bytes),
        ("predicted peak, outputs kept through backward", record.predicted_held_peak_bytes),
        ("unbudgeted peak", record.unbudgeted_peak_bytes),
        ("smallest peak of any plan", record.smallest_peak_bytes),
        ("saved for backward", record.saved_bytes),
        ("of it random", record.random_saved_bytes),
        ("recomputed", record.recomputed_bytes),
    )
    return [(name, _size_or_dash(size), "—" if size is None else str(size)) for name, size in sizes]


def _frontier(record: Record) -> str:
    head = ("", "plan", "estimated peak", "predicted peak", "modelled time")
    rows = [
        (
            "*" if entry.plan == record.plan else "",
            entry.plan,
            format_bytes(entry.estimated_peak_bytes),
            _size_or_dash(entry.predicted_peak_bytes),
            _time_text(entry.modelled_time_us),
        )
        for entry in record.frontier
    ]
    return _table("frontier, * is the plan in force", head, rows, head[2:])


@dataclass(frozen=True, slots=True)
class _Row:
    """Equal tensors. ``path``: the module path, its layer numbers at the odd places, several of them as ``{0-7}``."""

    path: tuple[str, ...]
    entry: TensorEntry
    count: int


def _tensor_table(action: str, entries: Sequence[TensorEntry]) -> str:
    rows = sorted(_folded(entries), key=lambda row: -row.count * row.entry.size_bytes)
    cells = [
        (
            format_bytes(row.count * row.entry.size_bytes),
            "".join(row.path) + (f" {_TIMES}{row.count}" if row.count > 1 else "") or "—",
            format_bytes(row.entry.size_bytes),
            row.entry.dtype,
            str(list(row.entry.shape)),
            row.entry.source or "—",
            row.entry.name + (" …" if row.count > 1 else ""),
            row.entry.reason,
        )
        for row in rows
    ]
    total = format_bytes(sum(entry.size_bytes for entry in entries))
    head = ("total", "module", "each", "dtype", "shape", "source", "tensor", "reason")
    return _table(f"{action} tensors: {len(entries)}, {total} in all", head, cells, ("total", "each"))


def _folded(entries: Iterable[TensorEntry]) -> list[_Row]:
    """Rows in the order of the first tensor of each. One number of the paths is folded after the other, outermost first.

    Only whole sets fold: of experts in layers, ``layers.{0-3}.experts.{0-7}`` says that each pair is there. Of equal tensors in
    one layer, the first folds with the first of other layers, the second with the second.
    """
    rows = [_Row(tuple(_LAYER_NUMBER.split(entry.module)), entry, 1) for entry in entries]
    deepest = max((len(row.path) for row in rows), default=1)
    for place in range(1, deepest, 2):
        seen: defaultdict[object, int] = defaultdict(int)
        groups: defaultdict[object, list[_Row]] = defaultdict(list)
        for row in rows:
            traits = replace(row.entry, name="", module="")
            rest = (*row.path[:place], *row.path[place + 1 :])
            groups[len(row.path), rest, traits, seen[row.path, traits]].append(row)
            seen[row.path, traits] += 1
        rows = [_merged(group, place) for group in groups.values()]
    return rows


def _merged(group: list[_Row], place: int) -> _Row:
    path, entry, count = group[0].path, group[0].entry, group[0].count
    if len(group) > 1:
        numbers = _ranges(sorted(int(row.path[place]) for row in group))
        path = (*path[:place], "{" + numbers + "}", *path[place + 1 :])
    return _Row(path, entry, count * len(group))


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as ``0-7``, ``0-2,5``, or ``0,2,…,8`` where four or more are evenly apart."""
    step = numbers[1] - numbers[0]
    if step > 1 and len(numbers) > 3 and list(numbers) == list(range(numbers[0], numbers[-1] + 1, step)):
        return f"{numbers[0]},{numbers[1]},…,{numbers[-1]}"
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str]) -> str:
    """A titled table in columns. ``right``: the heads of the columns that are flush right."""
    lines = [head, *([_one_line(cell) for cell in row] for row in rows)]
    if len(lines) == 1:
        return f"{title}\n  none"
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    pads = [str.rjust if name in right else str.ljust for name in head]
    drawn = ("  ".join(pad(c, w) for pad, c, w in zip(pads, line, widths, strict=True)) for line in lines)
    return "\n".join([title, *(f"  {line}".rstrip() for line in drawn)])


def _one_line(text: str) -> str:
    return " ".join(text.split())
