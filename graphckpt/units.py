"""Sizes as people write them. One parser, one error that lists the forms.

Text or an int enters, a `Size` leaves. ``GiB`` is 2**30 and ``GB`` is 10**9, whatever the case of the letters.
Not guaranteed: what a percentage is a percentage of; the caller knows the whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from graphckpt.errors import BudgetError

FORMS = "8GiB, 8GB, 512MB, 1.5GiB, an int of bytes (123456), 60%, auto"

_UNITS = ("K", "M", "G", "T")
_SCALE: dict[str, int] = {"": 1, "B": 1}
_SCALE.update({f"{unit}B": 1000 ** (power + 1) for power, unit in enumerate(_UNITS)})
_SCALE.update({f"{unit}IB": 1024 ** (power + 1) for power, unit in enumerate(_UNITS)})
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*(%|[A-Za-z]*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Size:
    """A size before the whole is known. ``value``: bytes (an int), percent of a whole, or 0 for ``auto``."""

    kind: Literal["bytes", "percent", "auto"]
    value: int | float

    def of(self, whole_bytes: int) -> int:
        """Bytes of this size where the whole is ``whole_bytes``; ``auto`` is all of it, rounding is down."""
        match self.kind:
            case "bytes":
                return int(self.value)
            case "percent":
                return int(Decimal(str(self.value)) * whole_bytes / 100)
            case "auto":
                return whole_bytes

    def __str__(self) -> str:
        match self.kind:
            case "bytes":
                return format_bytes(int(self.value))
            case "percent":
                return f"{self.value:g}%"
            case "auto":
                return "auto"


def parse_size(text: str | int) -> Size:
    """Read a size. Raises `BudgetError` listing the forms if it is none of them, zero, negative, or above 100 %."""
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise BudgetError(f"wanted a size, came {text!r}. Give one of: {FORMS}")
    if isinstance(text, int):
        return Size("bytes", _positive(text, text))
    stripped = text.strip()
    if stripped.lower() == "auto":
        return Size("auto", 0)
    match = _NUMBER.fullmatch(stripped)
    if match is None:
        raise BudgetError(f"wanted a size above zero, came {text!r}. Give one of: {FORMS}")
    number, unit = Decimal(match[1]), match[2].upper()
    if unit == "%":
        if not 0 < number <= 100:
            raise BudgetError(f"wanted a percentage above 0 and up to 100, came {text!r}. Give one of: {FORMS}")
        return Size("percent", float(number))
    if unit not in _SCALE or ("." in match[1] and _SCALE[unit] == 1):
        raise BudgetError(f"wanted a size in a known unit, came {text!r}. Give one of: {FORMS}")
    return Size("bytes", _positive(int(number * _SCALE[unit]), text))


def format_bytes(size_bytes: int) -> str:
    """Bytes for people, in binary units with three digits or more: ``1.50 GiB``, ``195 MiB``, ``-3 B``."""
    magnitude, unit = float(abs(size_bytes)), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if magnitude < 1024:
            break
        magnitude, unit = magnitude / 1024, larger
    sign = "-" if size_bytes < 0 else ""
    if unit == "B":
        return f"{sign}{magnitude:.0f} B"
    digits = 2 if magnitude < 10 else 1 if magnitude < 100 else 0
    return f"{sign}{magnitude:.{digits}f} {unit}"


def _positive(size_bytes: int, came: str | int) -> int:
    if size_bytes <= 0:
        raise BudgetError(f"wanted a size above zero, came {came!r}. Give one of: {FORMS}")
    return size_bytes
