"""What a mask of Hugging Face's kind says, proven from the calls that make it: a band, padding of keys, documents.

A mask is read as a conjunction over the coordinates (b, h, i, j) of the scores. Each dimension of each tensor on the way is one of
these coordinates, or of size one. Comparisons of index ranges are linear inequalities in i and j, and so bounds on j - i; what
depends on b and j alone is padding of keys; equality of a value at (b, i) with one at (b, j) is documents. A part that depends on
no input is computed and compared with every pair of the band it seems to be.

Nothing here is a guess: what is not proven raises `NotProven`, and the mask stays a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import fx

from graphckpt.rewrite.attention.calls import (
    CASTS,
    VIEWS,
    argument,
    full_index,
    has_sizes,
    is_whole_slice,
    name_of,
    number,
    shape,
    value,
)
from graphckpt.rewrite.attention.constants import computed, is_constant

COORDINATES = "bhij"
# Constant masks are computed up to this many elements.
_MOST_FOLDED = 2**26
_WIDTHS = (torch.bool, torch.int8, torch.int16, torch.int32, torch.int64)
_OPPOSITE = {"le": "gt", "gt": "le", "lt": "ge", "ge": "lt", "eq": "ne", "ne": "eq"}


class NotProven(Exception):
    """Why a mask is not known to be a band, padding or documents."""


class At(NamedTuple):
    """A tensor with the coordinate of each of its dimensions, "" for those of size one."""

    node: fx.Node
    axes: tuple[str, ...]

    @property
    def depends_on(self) -> frozenset[str]:
        """The coordinates it may differ in."""
        return frozenset(self.axes) - {""}

    @property
    def is_ordered(self) -> bool:
        """Whether each coordinate has one dimension at most, in their order."""
        named = [axis for axis in self.axes if axis]
        return named == sorted(set(named), key=COORDINATES.index)


class KeyPart(NamedTuple):
    """Keys that may be attended to: where the tensor, which depends on b and j, is true, or is false if ``negated``."""

    at: At
    negated: bool


class Linear(NamedTuple):
    """A sum of coordinates, each taken so many times, and a constant."""

    b: int = 0
    h: int = 0
    i: int = 0
    j: int = 0
    constant: int = 0

    def plus(self, other: Linear, times: int = 1) -> Linear:
        """The sum with so many times another."""
        return Linear(*(mine + times * theirs for mine, theirs in zip(self, other, strict=True)))


@dataclass
class Proven:
    """What a mask says. ``low`` and ``high`` bound j - i, None where they do not."""

    sizes: tuple[int, int, int, int]
    low: int | None = None
    high: int | None = None
    keys: list[KeyPart] = field(default_factory=list)
    documents: tuple[At, At] | None = None

    def bound(self, low: int | None, high: int | None) -> None:
        """Take in one more bound on j - i, if it is one for these sizes."""
        rows, keys = self.sizes[2:]
        if low is not None and low > 1 - rows:
            self.low = low if self.low is None else max(self.low, low)
        if high is not None and high < keys - 1:
            self.high = high if self.high is None else min(self.high, high)


def axes_of(node: fx.Node, full: tuple[int, int, int, int]) -> tuple[str, ...]:
    """The coordinates of a tensor that is broadcast to scores of these sizes."""
    own = shape(node)
    if not has_sizes(node):
        raise NotProven("a mask has sizes that are symbols")
    if len(own) > 4 or any(have not in (1, want) for have, want in zip(own[::-1], full[::-1], strict=False)):
        raise NotProven(f"a mask of shape {tuple(own)} is not broadcast to scores of {full}")
    return tuple("" if size == 1 else name for size, name in zip(own, COORDINATES[4 - len(own) :], strict=True))


def read_condition(at: At, is_true: bool, proven: Proven) -> None:
    """Take in that scores count only where a bool tensor is true, or is false."""
    node, axes = at
    name = name_of(node)
    below = source_of(at)
    if below is not None and _is_bool(below.node):
        read_condition(below, is_true, proven)
    elif name == "and_" and is_true:
        for side in node.args:
            part = _operand(side, axes)
            if not _is_bool(part.node):
                raise NotProven("a mask is joined with numbers")
            read_condition(part, True, proven)
    elif name == "not" and _is_bool(argument(node, 0)):
        read_condition(_operand(argument(node, 0), axes), not is_true, proven)
    elif (truth := _truth_of_choice(at)) is not None:
        read_condition(truth[0], is_true == truth[1], proven)
    elif not (is_true and name in ("new_ones", "ones", "ones_like")):
        relation = _OPPOSITE[name] if name in _OPPOSITE and not is_true else name
        if name not in _OPPOSITE or not _compares(at, relation, proven):
            _read_leaf(at, is_true, proven)


def _truth_of_choice(at: At) -> tuple[At, bool] | None:
    """The condition of ``where(condition, 0.0, hides).bool()``, and which truth of it makes that true; None where it is none."""
    chosen = argument(at.node, 0) if name_of(at.node) in CASTS and at.node.args else None
    if name_of(chosen) != "where" or not isinstance(chosen, fx.Node):
        return None
    condition, *sides = chosen.args
    left, right = (number(side) for side in sides)
    if left is None or right is None or (left == 0) == (right == 0) or not (_is_bool(at.node) and _is_bool(condition)):
        return None
    return _operand(condition, at.axes), left != 0


def source_of(at: At, *, asks_truth: bool = False) -> At | None:
    """What a view or a cast that keeps values looks at, with its coordinates; None where the node is neither.

    ``asks_truth``: a cast to bool will do.
    """
    node, axes = at
    name = name_of(node)
    source = argument(node, 0) if node.args else None
    if not isinstance(source, fx.Node) or value(source) is None:
        return None
    own = shape(source)
    if name in CASTS:
        return At(source, axes) if _keeps_values(source, node, asks_truth) else None
    if name == "expand":
        kept = axes[len(axes) - len(own) :]
        return At(source, tuple("" if size == 1 else axis for size, axis in zip(own, kept, strict=True)))
    if name == "repeat":
        times = node.args[1:]
        once = len(times) == len(own) and all(n == 1 or size == 1 for n, size in zip(times, own, strict=True))
        return At(source, tuple("" if size == 1 else axis for size, axis in zip(own, axes, strict=True))) if once else None
    if name == "unsqueeze":
        dim = int(argument(node, 1, "dim"))
        dim += len(axes) if dim < 0 else 0
        return At(source, axes[:dim] + axes[dim + 1 :])
    if name == "getitem":
        return _behind_index(node, source, axes)
    if name in VIEWS and [size for size in own if size != 1] == [size for size in shape(node) if size != 1]:
        named = iter(axis for axis, size in zip(axes, shape(node), strict=True) if size != 1)
        return At(source, tuple("" if size == 1 else next(named) for size in own))
    return None


def _keeps_values(source: fx.Node, cast: fx.Node, asks_truth: bool) -> bool:
    """Whether a cast is none, widens integers, or asks for truth where that is all that counts."""
    before, after = (found.dtype for found in (value(source), value(cast)) if found is not None)
    widens = before in _WIDTHS and after in _WIDTHS and _WIDTHS.index(before) <= _WIDTHS.index(after)
    return before == after or (asks_truth and after == torch.bool) or widens


def _is_bool(node: object) -> bool:
    found = value(node)
    return found is not None and found.dtype == torch.bool


def _behind_index(node: fx.Node, source: fx.Node, axes: tuple[str, ...]) -> At | None:
    """``x[:, None, :]``: new dimensions fall away; anything that picks is no view of the whole."""
    entries = full_index(argument(node, 1), len(shape(source)))
    found: list[str] = []
    for place, entry in enumerate(entries):
        if entry is not None:
            if not is_whole_slice(entry, shape(source)[len(found)]):
                return None
            found.append(axes[place])
    return At(source, tuple(found))


def _operand(node: object, axes: tuple[str, ...]) -> At:
    """One side of an elementwise operation whose result has these coordinates."""
    if not isinstance(node, fx.Node):
        raise NotProven("a mask is made from a number")
    own = shape(node)
    if not has_sizes(node) or len(own) > len(axes):
        raise NotProven(f"{node.name} is no tensor of known sizes")
    kept = axes[len(axes) - len(own) :]
    return At(node, tuple("" if size == 1 else axis for size, axis in zip(own, kept, strict=True)))


def _compares(at: At, relation: str, proven: Proven) -> bool:
    """Take in a comparison of index ranges, or of documents; False where it is neither."""
    left, right = argument(at.node, 0), argument(at.node, 1, "other")
    forms = [_linear(side, at.axes, proven.sizes) for side in (left, right)]
    if forms[0] is not None and forms[1] is not None:
        return _bounded(forms[0].plus(forms[1], -1), relation, proven)
    if relation != "eq" or not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return False
    ids = [_gathered(_operand(side, at.axes), proven.sizes) for side in (left, right)]
    if ids[0].depends_on <= {"b", "j"} and ids[1].depends_on <= {"b", "i"}:
        ids.reverse()
    if not all(value(side.node).dtype in _WIDTHS for side in ids):  # type: ignore[union-attr]
        return False
    if not (ids[0].depends_on <= {"b", "i"} and ids[1].depends_on <= {"b", "j"} and ids[0].is_ordered and ids[1].is_ordered):
        return False
    if all(is_constant(side.node) for side in ids):
        found = [computed(side.node) for side in ids]
        if all(bool((side == found[0].flatten()[0]).all()) for side in found):
            return True
    if proven.documents is not None:
        raise NotProven("there are two partitions into documents")
    proven.documents = (ids[0], ids[1])
    return True


def _bounded(form: Linear, relation: str, proven: Proven) -> bool:
    """Take in ``form relation 0`` where it bounds j - i or holds everywhere."""
    if form.b or form.h or relation == "ne":
        return False
    low, high = _range_of(form, proven.sizes)
    always = {"le": high <= 0, "lt": high < 0, "ge": low >= 0, "gt": low > 0, "eq": low == high == 0}
    if always[relation]:
        return True
    if (form.i, form.j) not in ((1, -1), (-1, 1)):
        return False
    if form.j == -1:
        form, relation = Linear().plus(form, -1), {"le": "ge", "lt": "gt", "ge": "le", "gt": "lt", "eq": "eq"}[relation]
    # Now j - i + constant relation 0.
    edge = -form.constant
    if relation in ("le", "lt", "eq"):
        proven.bound(None, edge - (relation == "lt"))
    if relation in ("ge", "gt", "eq"):
        proven.bound(edge + (relation == "gt"), None)
    return True


def _range_of(form: Linear, full: tuple[int, int, int, int]) -> tuple[int, int]:
    low = high = form.constant
    for times, size in zip(form[:4], full, strict=True):
        ends = (0, times * (size - 1))
        low, high = low + min(ends), high + max(ends)
    return low, high


def _linear(given: object, axes: tuple[str, ...], full: tuple[int, int, int, int]) -> Linear | None:
    """An integer or a tensor of integers as a sum of coordinates; None where it is none."""
    if isinstance(given, bool) or not isinstance(given, (int, fx.Node)):
        return None
    if isinstance(given, int):
        return Linear(constant=given)
    if value(given) is None:
        return None
    at = _operand(given, axes)
    name = name_of(given)
    if name == "arange":
        ends = [end for end in given.args if isinstance(end, int)]
        if len(ends) != len(given.args) or len(ends) not in (1, 2) or at.axes == ("",):
            return Linear(constant=0 if len(ends) == 1 else ends[0]) if ends and at.axes == ("",) else None
        start = 0 if len(ends) == 1 else ends[0]
        return Linear(constant=start)._replace(**{at.axes[0]: 1})
    if name in ("add", "sub") and len(given.args) == 2:
        sides = [_linear(side, at.axes, full) for side in given.args]
        if sides[0] is None or sides[1] is None:
            return None
        return sides[0].plus(sides[1], 1 if name == "add" else -1)
    below = source_of(at) or (_looked_up(at, full) if name == "getitem" else None)
    return None if below is None else _linear(below.node, below.axes, full)


def _gathered(at: At, full: tuple[int, int, int, int], *, asks_truth: bool = False) -> At:
    """Through views and casts, and through ``x[b, j]`` of index ranges, to the tensor that is looked up."""
    while True:
        below = source_of(at, asks_truth=asks_truth)
        if below is None and name_of(at.node) == "getitem":
            below = _looked_up(at, full)
        if below is None:
            return at
        at = below


def _looked_up(at: At, full: tuple[int, int, int, int]) -> At | None:
    source, index = argument(at.node, 0), argument(at.node, 1)
    entries = index if isinstance(index, tuple) else (index,)
    if not isinstance(source, fx.Node) or value(source) is None or len(entries) != len(shape(source)):
        return None
    axes = []
    for entry, size in zip(entries, shape(source), strict=True):
        form = _linear(entry, at.axes, full) if isinstance(entry, fx.Node) else None
        named = [axis for axis in COORDINATES if form == Linear()._replace(**{axis: 1})]
        if named and full[COORDINATES.index(named[0])] == size:
            axes.append(named[0])
        elif form == Linear() and size == 1:
            axes.append("")
        else:
            return None
    return At(source, tuple(axes))


def _read_leaf(at: At, is_true: bool, proven: Proven) -> None:
    found = _gathered(at, proven.sizes, asks_truth=True)
    if is_constant(found.node):
        _read_constant(found, is_true, proven)
    elif found.depends_on <= {"b", "j"} and found.is_ordered:
        proven.keys.append(KeyPart(found, not is_true))
    else:
        raise NotProven(f"{at.node.name} depends on {', '.join(sorted(found.depends_on)) or 'nothing'} in a way that is not known")


def _read_constant(at: At, is_true: bool, proven: Proven) -> None:
    """Compute the mask, and compare all of it with the band that its first and last true pairs span."""
    if torch.Size(shape(at.node)).numel() > _MOST_FOLDED or not at.is_ordered:
        raise NotProven("a constant mask is too large to be computed")
    allowed = computed(at.node).bool()
    if not is_true:
        allowed = ~allowed
    if allowed.all():
        return
    rows, keys = proven.sizes[2:]
    pairs = allowed.reshape(-1, rows if "i" in at.axes else 1, keys if "j" in at.axes else 1)
    if not torch.equal(pairs, pairs[:1].expand_as(pairs)):
        raise NotProven("a constant mask differs from batch to batch, or from head to head")
    pairs = pairs[0].expand(rows, keys)
    ahead = torch.arange(keys)[None, :] - torch.arange(rows)[:, None]
    if not pairs.any():
        raise NotProven("a constant mask hides everything")
    low, high = int(ahead[pairs].min()), int(ahead[pairs].max())
    if not torch.equal(pairs, (ahead >= low) & (ahead <= high)):
        raise NotProven("a constant mask is no band")
    proven.bound(low, high)


class Additive(NamedTuple):
    """What of a term is a mask, and the tensors that are left to be added."""

    conditions: tuple[tuple[At, bool], ...]
    biases: tuple[At, ...]
    uniform: bool


def read_additive(at: At, least: float) -> Additive:
    """Split what is added to scores: a number that hides where a condition says so, 0 elsewhere, is a mask.

    ``least``: the most negative number of the scores' type; only that or -inf hides whatever the score is.
    """
    node, axes = at
    name = name_of(node)
    below = source_of(at)
    if below is not None:
        found = read_additive(below, least)
        return found if not found.biases else Additive((), (at,), True)
    if name == "add" and all(isinstance(side, fx.Node) for side in node.args):
        parts = [read_additive(_operand(side, axes), least) for side in node.args]
        if any(part.conditions for part in parts):
            return Additive(
                parts[0].conditions + parts[1].conditions,
                parts[0].biases + parts[1].biases,
                all(part.uniform for part in parts),
            )
    if name == "where":
        condition, left, right = node.args
        for filled, other, is_true in ((right, left, True), (left, right, False)):
            hides = number(filled)
            if hides is not None and hides <= least and number(other) == 0:
                return Additive(((_operand(condition, axes), is_true),), (), hides != float("-inf"))
    if name == "masked_fill" and number(argument(node, 0)) == 0:
        hides = number(argument(node, 2, "value"))
        if hides is not None and hides <= least:
            return Additive(((_operand(argument(node, 1, "mask"), axes), False),), (), hides != float("-inf"))
    return Additive((), () if number(node) == 0 else (at,), True)


