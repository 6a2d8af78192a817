"""What hides scores or is added to them, as arguments of the operator: what is proven of masks, and tensors for the rest."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import fx

from graphckpt.kernels.attention.meaning import NOTHING, OPEN, PASSES, STOPS, Band
from graphckpt.kernels.attention.validation import INTEGERS
from graphckpt.rewrite.attention.calls import FullSizes, Size, changes_later, is_written, shape
from graphckpt.rewrite.attention.coordinates import COORDINATES, At, NotProven, axes_of
from graphckpt.rewrite.attention.masks import Part, Proven, read_additive, read_mask
from graphckpt.rewrite.attention.match import Match
from graphckpt.rewrite.attention.no_match import NoMatch
from graphckpt.rewrite.attention.writer import GraphWriter, fake

# Less than half a unit in its last place, in fp64 too, is what any score is.
_ABSORBS = -1e30


class Masks(NamedTuple):
    """Arguments of the operator."""

    band: Band
    keys: fx.Node | None
    documents: tuple[fx.Node, fx.Node] | None
    bias: fx.Node | None
    uniform: int


@dataclass
class MaskWriter:
    """Writes the mask tensors of one attention after another. ``notes``: why masks stay tensors."""

    writer: GraphWriter
    notes: list[str] = field(default_factory=list)
    scores_in: torch.dtype = torch.float32

    def write(self, found: Match) -> Masks:
        """The masks and biases of one attention. Raises `NoMatch` where the operator has no meaning for all of them together."""
        full, scores = found.sizes, found.scores_in
        self.scores_in = torch.promote_types(scores, torch.float32)
        hidden: list[tuple[At, bool, int]] = []
        biases = []
        for term in found.terms:
            read = read_additive(self._at(term.node, term.shape, full), max(torch.finfo(scores).min, _ABSORBS))
            for part in (*read.biases, *(at for at, _ in read.conditions)):
                _check_settled(part.node)
            if read.conditions and term.factor != 1.0:
                raise NoMatch("a mask is scaled")
            hidden += [(at, is_true, PASSES if read.uniform else NOTHING) for at, is_true in read.conditions]
            biases += [at.node if term.factor == 1.0 else self.writer.method("mul", at.node, term.factor) for at in read.biases]
        for condition in found.conditions:
            at = self._at(condition.node, condition.shape, full)
            hidden.append((at, not condition.hides, STOPS if condition.uniform else NOTHING))
        uniform = _one_way({way for _, _, way in hidden})
        proven, left = self._proven(hidden, full)
        biases += [self._as_bias(at, is_true, way, full) for at, is_true, way in left]
        keys = [self._allowed(part, "j", full) for part in proven.keys]
        documents = None
        if proven.documents is not None:
            documents = self._ids(proven.documents[0], "i", full), self._ids(proven.documents[1], "j", full)
        if proven.rows:
            if documents is not None:
                raise NoMatch("some queries may attend to nothing, and there are documents")
            documents = self._of_rows([self._allowed(part, "i", full) for part in proven.rows], full)
        if found.is_causal:
            proven.bound(None, 0)
        return Masks(_band(proven), self._joined("and", operator.and_, keys), documents, self._bias(biases), uniform)

    def _at(self, node: fx.Node, where: tuple[Size, ...], full: FullSizes) -> At:
        """A tensor that is broadcast to scores, in the coordinates of 4 dimensions."""
        _check_settled(node)
        own = shape(node)
        if len(where) == 4 and where[:2] != full[:2]:
            raise NoMatch("a mask is for other batches and heads")
        if len(where) == 3 and len(own) == 3:
            node = self.writer.reshaped(node, (*(full[:2] if own[0] != 1 else (1, 1)), *own[1:]))
        return At(node, axes_of(node, full))

    def _proven(
        self, hidden: list[tuple[At, bool, int]], full: FullSizes
    ) -> tuple[Proven, list[tuple[At, bool, int]]]:
        """What all conditions say that can be proven; if not all can, those that are left, and nothing else."""
        proven, left = Proven(full), []
        for at, is_true, way in hidden:
            before = replace(proven, keys=list(proven.keys), rows=list(proven.rows), orders=[])
            try:
                read_mask(at, is_true, proven)
            except NotProven as reason:
                self.notes.append(f"a mask stays a tensor: {reason}")
                proven = before
                left.append((at, is_true, way))
        if left and proven != Proven(full):
            # A row that one of them hides as far as the other does not would come out otherwise.
            raise NoMatch("a mask that is proven is joined with one that is not")
        return proven, left

    def _as_bias(self, at: At, is_true: bool, way: int, full: FullSizes) -> fx.Node:
        """A condition as a tensor to be added, in a type in which it absorbs every score."""
        if way == STOPS or not at.is_ordered or is_written(at.node):
            raise NoMatch("scores are replaced by a mask that is not proven")
        dtype = self.scores_in

        def written() -> fx.Node:
            own = tuple(size if name in at.axes else 1 for name, size in zip(COORDINATES, full, strict=True))
            condition = self.writer.cast(self.writer.reshaped(at.node, own), torch.bool)
            hides = -torch.inf if way == NOTHING else torch.finfo(dtype).min
            return self._filled(condition, *((0.0, hides) if is_true else (hides, 0.0)), dtype)

        return self.writer.once(("hidden", at, is_true, way), written)

    def _filled(self, condition: fx.Node, where: float, elsewhere: float, dtype: torch.dtype) -> fx.Node:
        # Of a bool tensor the new one would be bool, without its type.
        whole = self.writer.method("new_full", condition, (), elsewhere, dtype=dtype)
        return self.writer.method("masked_fill", whole, condition, where)

    def _bias(self, biases: list[fx.Node]) -> fx.Node | None:
        floating = [node if fake(node).is_floating_point() else self.writer.cast(node, torch.float32) for node in biases]
        bias = self._joined("add", operator.add, floating)
        while bias is not None and len(shape(bias)) < 4:
            bias = self.writer.method("unsqueeze", bias, 0)
        return bias

    def _joined(self, name: str, operation: Callable[..., object], nodes: list[fx.Node]) -> fx.Node | None:
        if not nodes:
            return None
        total = nodes[0]
        for node in nodes[1:]:
            pair = (operation, total, node)
            total = self.writer.once((name, total, node), partial(self.writer.call, *pair))
        return total

    def _allowed(self, part: Part, coordinate: str, full: FullSizes) -> fx.Node:
        """Bool (B, n): the queries that may attend, or the keys that may be attended to."""
        allowed = self.writer.cast(self._vector(part.at, coordinate, full), torch.bool)
        return self._not(allowed) if part.negated else allowed

    def _of_rows(self, parts: list[fx.Node], full: FullSizes) -> tuple[fx.Node, fx.Node]:
        """Queries that may attend as one document with all keys, the others as one without any."""
        allowed = self._joined("and", operator.and_, parts)
        assert allowed is not None
        own = self.writer.cast(self._not(allowed), torch.int64)
        sizes = self.writer.given(full[0]), self.writer.given(full[3])
        return own, self.writer.once(("document", *full), lambda: self.writer.method("new_zeros", own, sizes))

    def _not(self, node: fx.Node) -> fx.Node:
        return self.writer.once(("not", node), lambda: self.writer.method("logical_not", node))

    def _ids(self, at: At, coordinate: str, full: FullSizes) -> fx.Node:
        """Integers (B, n): the documents that queries or keys are of."""
        vector = self._vector(at, coordinate, full)
        return vector if fake(vector).dtype in INTEGERS else self.writer.cast(vector, torch.int64)

    def _vector(self, at: At, coordinate: str, full: FullSizes) -> fx.Node:
        """(B, n) of a tensor that depends on b and one more coordinate."""
        if is_written(at.node):
            raise NoMatch(f"{at.node.name} is written to in place")
        count = full[COORDINATES.index(coordinate)]
        own = (full[0] if "b" in at.axes else 1, count if coordinate in at.axes else 1)

        def written() -> fx.Node:
            node = at.node if shape(at.node) == own else self.writer.reshaped(at.node, own)
            if own == (full[0], count):
                return node
            return self.writer.method("expand", node, self.writer.given(full[0]), self.writer.given(count))

        return self.writer.once(("vector", at, coordinate), written)


def _check_settled(node: fx.Node) -> None:
    if changes_later(node):
        # The operator reads later than the calls it stands for, and autograd longer.
        raise NoMatch(f"{node.name} is written to in place")


def _one_way(ways: set[int]) -> int:
    """What becomes of a row that is hidden, if all that hides does so in one way."""
    if len(ways) > 1:
        raise NoMatch("scores are hidden in several ways, which differ where all of a row is hidden")
    return next(iter(ways), PASSES)


def _band(proven: Proven) -> Band:
    """The bounds on j - i as a band around a diagonal."""
    if proven.high is not None:
        left = OPEN if proven.low is None else proven.high - proven.low
        if left < OPEN or (left == OPEN and proven.low is not None):
            raise NoMatch("a mask hides everything")
        return Band(left, 0, proven.high)
    return Band() if proven.low is None else Band(0, OPEN, proven.low)
