"""Head sizes that are no power of two, as Triton wants its tiles: two powers that are multiplied one after the other.

80 is 64 and 16, 96 is 64 and 32, 192 is 128 and 64: nothing is wasted. A rest that is none is rounded up, and what is beyond the
head is masked on reading.
"""

from __future__ import annotations

from typing import NamedTuple

# The least that a matrix instruction multiplies.
LEAST = 16


class Parts(NamedTuple):
    """A head of ``width`` columns in ``span`` and ``rest`` columns, ``rest`` 0 for none."""

    width: int
    span: int
    rest: int


def parts_of(width: int) -> Parts:
    """The parts of a head."""
    span = max(LEAST, 1 << (width.bit_length() - 1))
    if width <= span:
        return Parts(width, span, 0)
    rest = max(LEAST, 1 << (width - span - 1).bit_length())
    return Parts(width, 2 * span, 0) if rest >= span else Parts(width, span, rest)
