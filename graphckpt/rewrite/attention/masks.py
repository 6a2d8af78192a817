"""What a mask of Hugging Face's kind says, proven from the calls that make it: a band, padding of keys, documents.

A mask is read as a conjunction over the coordinates (b, h, i, j) of the scores. Each dimension of each tensor on the way is one of
these coordinates, or of size one. Comparisons of index ranges are linear inequalities in i and j, and so bounds on j - i; what
depends on b and j alone is padding of keys; equality of a value at (b, i) with one at (b, j) is documents. A part that depends on
no input is computed and compared with every pair of the band it seems to be.

Nothing here is a guess: what is not proven raises `NotProven`, and the mask stays a tensor. Not guaranteed: integers so large
that their product wraps around to zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import fx

from graphckpt.rewrite.attention.calls import CASTS, FullSizes, argument, name_of, number, shape, value
from graphckpt.rewrite.attention.constants import computed, is_constant
from graphckpt.rewrite.attention.coordinates import WIDENING, At, NotProven, side_of, source_of
from graphckpt.rewrite.attention.positions import position_of, run_source, same_everywhere
from graphckpt.rewrite.attention.ranges import Linear, gathered, linear, range_of

# Constant masks are computed up to this many elements.
_MOST_FOLDED = 2**26
_OPPOSITE = {"le": "gt", "gt": "le", "lt": "ge", "ge": "lt", "eq": "ne", "ne": "eq"}


class Part(NamedTuple):
    """What may attend, or be attended to: where the tensor, which depends on b and i, or on b and j, is true, or false if
    ``negated``."""

    at: At
    negated: bool


@dataclass
class Proven:
    """What a mask says. ``low`` and ``high`` bound j - i, None where they do not. ``orders``: comparisons of positions, as of their
    places, that hold if the documents are runs of these positions."""

    sizes: FullSizes
    low: int | None = None
    high: int | None = None
    keys: list[Part] = field(default_factory=list)
    rows: list[Part] = field(default_factory=list)
    documents: tuple[At, At] | None = None
    orders: list[tuple[fx.Node, Linear, str]] = field(default_factory=list)

    def bound(self, low: int | None, high: int | None) -> None:
        """Take in one more bound on j - i, if it is one for these sizes."""
        rows, keys = self.sizes[2:]
        if low is not None and not (isinstance(rows, int) and low <= 1 - rows):
            self.low = low if self.low is None else max(self.low, low)
        if high is not None and not (isinstance(keys, int) and high >= keys - 1):
            self.high = high if self.high is None else min(self.high, high)


def read_mask(at: At, is_true: bool, proven: Proven) -> None:
    """Take in that scores count only where a bool tensor is true, or is false.

    Raises:
        NotProven: it does not say so in a way that is known; ``proven`` is then of no more use.
    """
    _read(at, is_true, proven)
    ids = {side.node for side in proven.documents or ()}
    source = run_source(ids.pop()) if len(ids) == 1 else None
    for positions, form, relation in proven.orders:
        if positions is not source or not _bounded(form, relation, proven):
            raise NotProven(f"{positions.name} is compared between queries and keys that may be of different documents")
    proven.orders.clear()


def _read(at: At, is_true: bool, proven: Proven) -> None:
    node, axes = at
    name = name_of(node)
    below = source_of(at)
    if below is not None and _is_bool(below.node):
        _read(below, is_true, proven)
    elif name == "and_" and is_true:
        for side in node.args:
            part = side_of(side, axes)
            if not _is_bool(part.node):
                raise NotProven("a mask is joined with numbers")
            _read(part, True, proven)
    elif name == "not" and _is_bool(argument(node, 0)):
        _read(side_of(argument(node, 0), axes), not is_true, proven)
    elif is_true and (factors := _factors(at)) is not None:
        for factor in factors:
            _read_leaf(factor, True, proven)
    elif (truth := _truth_of_choice(at)) is not None:
        _read(truth[0], is_true == truth[1], proven)
    elif not (is_true and name in ("new_ones", "ones", "ones_like")):
        relation = _OPPOSITE[name] if name in _OPPOSITE and not is_true else name
        if name not in _OPPOSITE or not _compares(at, relation, proven):
            _read_leaf(at, is_true, proven)


def _factors(at: At) -> tuple[At, At] | None:
    """The integers of ``(keys * rows).bool()``, which is true where both are; None where it is none."""
    product = argument(at.node, 0) if name_of(at.node) in CASTS and at.node.args else None
    if not isinstance(product, fx.Node) or name_of(product) != "mul" or not all(isinstance(side, fx.Node) for side in product.args):
        return None
    left, right = (side_of(side, at.axes) for side in product.args)
    integers = all(value(side.node).dtype in WIDENING for side in (left, right))  # type: ignore[union-attr]
    return (left, right) if integers and _is_bool(at.node) else None


def _truth_of_choice(at: At) -> tuple[At, bool] | None:
    """The condition of ``where(condition, 0.0, hides).bool()``, and which truth of it makes that true; None where it is none."""
    chosen = argument(at.node, 0) if name_of(at.node) in CASTS and at.node.args else None
    if name_of(chosen) != "where" or not isinstance(chosen, fx.Node):
        return None
    condition, *sides = chosen.args
    left, right = (number(side) for side in sides)
    if left is None or right is None or not (_is_bool(at.node) and _is_bool(condition)):
        return None
    # A small number may be none in the type that it is put into.
    truths = torch.tensor([left, right], dtype=value(chosen).dtype).bool()  # type: ignore[union-attr]
    return (side_of(condition, at.axes), bool(truths[0])) if truths[0] != truths[1] else None


def _is_bool(node: object) -> bool:
    found = value(node)
    return found is not None and found.dtype == torch.bool


def _compares(at: At, relation: str, proven: Proven) -> bool:
    """Take in a comparison of index ranges, or of documents; False where it is neither."""
    left, right = argument(at.node, 0), argument(at.node, 1, "other")
    forms = [linear(side, at.axes, proven.sizes) for side in (left, right)]
    if forms[0] is not None and forms[1] is not None:
        return _bounded(forms[0].plus(forms[1], -1), relation, proven)
    if relation != "eq" and _orders(at, relation, proven):
        return True
    if relation != "eq" or not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return False
    ids = [gathered(side_of(side, at.axes), proven.sizes) for side in (left, right)]
    if ids[0].depends_on <= {"b", "j"} and ids[1].depends_on <= {"b", "i"}:
        ids.reverse()
    if not all(value(side.node).dtype in WIDENING for side in ids):  # type: ignore[union-attr]
        return False
    if not (ids[0].depends_on <= {"b", "i"} and ids[1].depends_on <= {"b", "j"} and ids[0].is_ordered and ids[1].is_ordered):
        return False
    numbers = [same_everywhere(side.node) for side in ids]
    if None not in numbers and numbers[0] == numbers[1]:
        return True
    if all(is_constant(side.node) and _is_computable(side.node) for side in ids):
        found = [computed(side.node) for side in ids]
        if all(bool((side == found[0].flatten()[0]).all()) for side in found):
            return True
    if proven.documents is not None:
        raise NotProven("there are two partitions into documents")
    proven.documents = (ids[0], ids[1])
    return True


def _orders(at: At, relation: str, proven: Proven) -> bool:
    """Take in a comparison of two positions, for `read_mask` to see whether it is one of places; False if it is none."""
    sides = [position_of(argument(at.node, place, "other"), at.axes, proven.sizes) for place in (0, 1)]
    left, right = sides
    if left is None or right is None or left.source is not right.source or left.coordinate == right.coordinate or relation == "ne":
        return False
    forms = [Linear(constant=side.more)._replace(**{side.coordinate: 1}) for side in (left, right)]
    proven.orders.append((left.source, forms[0].plus(forms[1], -1), relation))
    return True


def _bounded(form: Linear, relation: str, proven: Proven) -> bool:
    """Take in ``form relation 0`` where it bounds j - i or holds everywhere."""
    if form.b or form.h or relation == "ne":
        return False
    low, high = range_of(form, proven.sizes)
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


def _read_leaf(at: At, is_true: bool, proven: Proven) -> None:
    found = gathered(at, proven.sizes, asks_truth=True)
    if is_constant(found.node):
        _read_constant(found, is_true, proven)
    elif found.depends_on <= {"b", "j"} and found.is_ordered:
        proven.keys.append(Part(found, not is_true))
    elif found.depends_on <= {"b", "i"} and found.is_ordered:
        proven.rows.append(Part(found, not is_true))
    else:
        raise NotProven(f"{at.node.name} depends on {', '.join(sorted(found.depends_on)) or 'nothing'} in a way that is not known")


def _is_computable(node: fx.Node) -> bool:
    sizes = shape(node)
    return all(isinstance(size, int) for size in sizes) and torch.Size(sizes).numel() <= _MOST_FOLDED


def _read_constant(at: At, is_true: bool, proven: Proven) -> None:
    """Compute the mask, and compare all of it with the band that its first and last true pairs span."""
    if not _is_computable(at.node) or not all(isinstance(size, int) for size in proven.sizes) or not at.is_ordered:
        raise NotProven("a constant mask is too large to be computed, or its sizes are symbols")
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
        parts = [read_additive(side_of(side, axes), least) for side in node.args]
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
                return Additive(((side_of(condition, axes), is_true),), (), hides != float("-inf"))
    if name == "masked_fill" and number(argument(node, 0)) == 0:
        hides = number(argument(node, 2, "value"))
        if hides is not None and hides <= least:
            return Additive(((side_of(argument(node, 1, "mask"), axes), False),), (), hides != float("-inf"))
    return Additive((), () if number(node) == 0 else (at,), True)
