"""Puts ``graphckpt::attention`` in the place of every attention of a graph, before autograd sees it.

What enters: a Dynamo graph of a training step. What leaves: how many were replaced, and why the others were not. The graph is
changed in place; what nobody reads any more is gone. Dropout is drawn from a seed of its own: the distribution is kept, the bits
are not. Not guaranteed: attentions whose sizes are symbols; they are left alone, with that reason.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import fx

from graphckpt.kernels.attention import ops
from graphckpt.kernels.attention.api import fastest
from graphckpt.kernels.attention.meaning import NOTHING, OPEN, PASSES, STOPS, Attention, Band
from graphckpt.kernels.attention.validation import INTEGERS
from graphckpt.rewrite.attention.calls import (
    CASTS,
    PRODUCTS,
    VIEWS,
    is_transformed,
    is_written,
    last_written,
    mark_written,
    name_of,
    shape,
    value,
)
from graphckpt.rewrite.attention.masks import (
    COORDINATES,
    At,
    KeyPart,
    NotProven,
    Proven,
    axes_of,
    read_additive,
    read_condition,
)
from graphckpt.rewrite.attention.match import Match, NoMatch, is_attention, match
from graphckpt.rewrite.attention.operands import before_repeats, moves_heads_last, simplified
from graphckpt.rewrite.attention.products import Operand

# Seeds are drawn below this: Inductor draws integers of 32 bits.
_SEEDS = 2**31 - 1
# Less than half a unit in its last place, in fp64 too, is what any score is.
_ABSORBS = -1e30
# What may stand around an attention and is gone with it, in-place sums of scores included.
_WITHOUT_EFFECT = (
    frozenset({"softmax", "dropout", "cat", "max", "amax", "sub", "add", "mul", "div", "tanh", "masked_fill", "where", "getitem"})
    | frozenset({"expand", "repeat_interleave", "transpose", "permute", "arange", "zeros", "full", "ones", "new_ones", "ones_like"})
    | frozenset({"and_", "not", "le", "lt", "ge", "gt", "eq", "ne", "cumsum", "diff"})
    | CASTS
    | VIEWS
    | PRODUCTS
)


@dataclass(frozen=True)
class Replaced:
    """What became of a graph's attentions: ``kept`` are (name of the softmax, why); ``notes`` say which masks stayed tensors."""

    fused: int
    kept: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


class _Masks(NamedTuple):
    band: Band
    keys: fx.Node | None
    documents: tuple[fx.Node, fx.Node] | None
    bias: fx.Node | None
    uniform: int


def replace_attentions(module: fx.GraphModule, choose: Callable[[Attention], str] = fastest) -> Replaced:
    """Replace what can be; see the module's head. ``choose``: the implementation of a call, by its tensors without data."""
    transformed = is_transformed(module.graph)
    if not transformed:
        mark_written(module.graph)
    writer = _Writer(module.graph, choose, {}, [], {node: place for place, node in enumerate(module.graph.nodes)})
    fused, kept = 0, []
    for softmax in [node for node in module.graph.nodes if is_attention(node)]:
        try:
            if transformed:
                raise NoMatch("it is inside of a function transform, such as vmap")
            writer.replace(softmax)
            fused += 1
        except NoMatch as reason:
            kept.append((softmax.name, str(reason)))
    if fused:
        module.graph.lint()
        module.recompile()
    return Replaced(fused, tuple(kept), tuple(dict.fromkeys(writer.notes)))


@dataclass
class _Writer:
    """Writes nodes before an attention's last product. ``made``: mask tensors of earlier attentions, by what they are made of."""

    graph: fx.Graph
    choose: Callable[[Attention], str]
    made: dict[tuple[object, ...], tuple[fx.Node, int]]
    notes: list[str]
    places: Mapping[fx.Node, int]
    place: int = 0
    read_from: int = 0
    scores_in: torch.dtype = torch.float32

    def replace(self, softmax: fx.Node) -> None:
        """Write the operator and take the last product out; nothing is written where that fails.

        Raises:
            NoMatch: whatever it is that fails.
        """
        before = set(self.graph.nodes)
        try:
            found = match(softmax)
            self.place, self.read_from = self.places[found.last], self.places[found.product.node]
            with self.graph.inserting_before(found.last):
                out = self._written(found, _full_sizes(found))
        # Whatever a strange graph does to fake tensors here is a reason to leave it as it is.
        except Exception as reason:
            for node in reversed([node for node in self.graph.nodes if node not in before]):
                self.graph.erase_node(node)
            self.made = {key: kept for key, kept in self.made.items() if kept[0] in before}
            raise NoMatch(" ".join(str(reason).split())) from reason
        found.last.replace_all_uses_with(out)
        _erase_unread(found.last)

    def _written(self, found: Match, full: tuple[int, int, int, int]) -> fx.Node:
        q = self._operand(found.product.left, full, shares_heads=False)
        k, v = (self._operand(side, full, shares_heads=True) for side in (found.product.right, found.v))
        dtype = torch.promote_types(*(_fake(node).dtype for node in (found.product.node, found.last)))
        q, k, v = (node if _fake(node).dtype == dtype else self._method("to", node, dtype) for node in (q, k, v))
        masks = self._masks(found, full)
        seed = None
        if found.dropout:
            device = _fake(q).device
            seed = self.graph.call_function(torch.randint, (0, _SEEDS, ()), {"dtype": torch.int64, "device": device})
            seed.meta["example_value"] = _fake(q).new_empty((), dtype=torch.int64)
        tensors = (q, k, v, masks.bias, masks.keys, *(masks.documents or (None, None)), found.sinks, seed)
        known = [None if node is None else _fake(node) for node in tensors]
        # The operator reads later than the calls it stands for.
        written = [node.name for node in tensors[3:] if node is not None and is_written(node)]
        if written:
            raise NoMatch(f"{', '.join(written)} is written to in place")
        flags = ops.Flags(found.scale, *masks.band, found.softcap, found.dropout, masks.uniform, "blocked")
        flags = flags._replace(implementation=self.choose(ops.call_of(known, flags)))
        both = self._call(torch.ops.graphckpt.attention.default, *tensors, *flags)
        # The report names what is kept by the module it comes from.
        for key in ("stack_trace", "nn_module_stack"):
            if key in found.last.meta:
                both.meta[key] = found.last.meta[key]
        out = self._cast(self._call(operator.getitem, both, 0), _fake(found.last).dtype)
        if shape(out) != shape(found.last):
            return self._method("reshape", out, shape(found.last))
        # Heads lie last in memory, as the projection behind it wants them; whoever does not look there sees them as they were.
        return out if all(moves_heads_last(user) for user in found.last.users) else self._method("contiguous", out)

    def _operand(self, operand: Operand, full: tuple[int, int, int, int], *, shares_heads: bool) -> fx.Node:
        node, steps = simplified(operand)
        self._check_settled(node)
        for method, arguments in steps:
            node = self._method(method, node, *arguments)
        if len(shape(node)) == 3:
            node = self._method("reshape", node, (*full[:2], *shape(node)[1:]))
        once = before_repeats(node) if shares_heads else None
        if once is not None:
            self._check_settled(once)
            node = self._method("squeeze", once, 2) if len(shape(once)) == 5 else once
        if shape(node)[0] != full[0]:
            node = self._method("expand", node, full[0], -1, -1, -1)
        return node

    def _check_settled(self, node: fx.Node) -> None:
        """Queries, keys and values may be put together in place, as long as that is over when their product is taken."""
        if last_written(node) >= self.read_from:
            raise NoMatch(f"{node.name} is written to in place")

    def _masks(self, found: Match, full: tuple[int, int, int, int]) -> _Masks:
        scores = _fake(found.product.node).dtype
        self.scores_in = torch.promote_types(scores, torch.float32)
        hidden: list[tuple[At, bool, int]] = []
        biases = []
        for term in found.terms:
            read = read_additive(self._at(term.node, term.shape, full), max(torch.finfo(scores).min, _ABSORBS))
            if read.conditions and term.factor != 1.0:
                raise NoMatch("a mask is scaled")
            hidden += [(at, is_true, PASSES if read.uniform else NOTHING) for at, is_true in read.conditions]
            biases += [at.node if term.factor == 1.0 else self._method("mul", at.node, term.factor) for at in read.biases]
        for condition in found.conditions:
            at = self._at(condition.node, condition.shape, full)
            hidden.append((at, not condition.hides, STOPS if condition.uniform else NOTHING))
        uniform = _one_way({way for _, _, way in hidden})
        proven, left = self._proven(hidden, full)
        biases += [self._as_bias(at, is_true, way, full) for at, is_true, way in left]
        keys = [self._keys(part, full) for part in proven.keys]
        documents = None
        if proven.documents is not None:
            documents = self._ids(proven.documents[0], "i", full), self._ids(proven.documents[1], "j", full)
        return _Masks(_band(proven), self._joined("and", operator.and_, keys), documents, self._bias(biases), uniform)

    def _at(self, node: fx.Node, where: tuple[int, ...], full: tuple[int, int, int, int]) -> At:
        """A tensor that is broadcast to scores, in the coordinates of 4 dimensions."""
        own = shape(node)
        if len(where) == 4 and where[:2] != full[:2]:
            raise NoMatch("a mask is for other batches and heads")
        if len(where) == 3 and len(own) == 3:
            node = self._method("reshape", node, (*(full[:2] if own[0] != 1 else (1, 1)), *own[1:]))
        return At(node, axes_of(node, full))

    def _proven(
        self, hidden: list[tuple[At, bool, int]], full: tuple[int, int, int, int]
    ) -> tuple[Proven, list[tuple[At, bool, int]]]:
        """What all conditions say that can be proven; if not all can, those that are left, and nothing else."""
        proven, left = Proven(full), []
        for at, is_true, way in hidden:
            before = replace(proven, keys=list(proven.keys))
            try:
                read_condition(at, is_true, proven)
            except NotProven as reason:
                self.notes.append(f"a mask stays a tensor: {reason}")
                proven = before
                left.append((at, is_true, way))
        if left and proven != Proven(full):
            # A row that one of them hides as far as the other does not would come out otherwise.
            raise NoMatch("a mask that is proven is joined with one that is not")
        return proven, left

    def _as_bias(self, at: At, is_true: bool, way: int, full: tuple[int, int, int, int]) -> fx.Node:
        """A condition as a tensor to be added, in a type in which it absorbs every score."""
        if way == STOPS or not at.is_ordered or is_written(at.node):
            raise NoMatch("scores are replaced by a mask that is not proven")
        dtype = self.scores_in

        def written() -> fx.Node:
            own = tuple(size if name in at.axes else 1 for name, size in zip(COORDINATES, full, strict=True))
            condition = self._cast(self._method("reshape", at.node, own), torch.bool)
            hides = -torch.inf if way == NOTHING else torch.finfo(dtype).min
            return self._filled(condition, *((0.0, hides) if is_true else (hides, 0.0)), dtype)

        return self._once(("hidden", at, is_true, way), written)

    def _filled(self, condition: fx.Node, where: float, elsewhere: float, dtype: torch.dtype) -> fx.Node:
        # Of a bool tensor the new one would be bool, without its type.
        whole = self._method("new_full", condition, (), elsewhere, dtype=dtype)
        return self._method("masked_fill", whole, condition, where)

    def _bias(self, biases: list[fx.Node]) -> fx.Node | None:
        floating = [node if _fake(node).is_floating_point() else self._cast(node, torch.float32) for node in biases]
        bias = self._joined("add", operator.add, floating)
        while bias is not None and len(shape(bias)) < 4:
            bias = self._method("unsqueeze", bias, 0)
        return bias

    def _joined(self, name: str, operation: Callable[..., object], nodes: list[fx.Node]) -> fx.Node | None:
        if not nodes:
            return None
        total = nodes[0]
        for node in nodes[1:]:
            pair = (operation, total, node)
            total = self._once((name, total, node), partial(self._call, *pair))
        return total

    def _keys(self, part: KeyPart, full: tuple[int, int, int, int]) -> fx.Node:
        """Bool (B, K): the keys that may be attended to."""
        allowed = self._cast(self._vector(part.at, "j", full), torch.bool)
        return self._once(("not", allowed), lambda: self._method("logical_not", allowed)) if part.negated else allowed

    def _ids(self, at: At, coordinate: str, full: tuple[int, int, int, int]) -> fx.Node:
        """Integers (B, n): the documents that queries or keys are of."""
        vector = self._vector(at, coordinate, full)
        return vector if _fake(vector).dtype in INTEGERS else self._cast(vector, torch.int64)

    def _vector(self, at: At, coordinate: str, full: tuple[int, int, int, int]) -> fx.Node:
        """(B, n) of a tensor that depends on b and one more coordinate."""
        if is_written(at.node):
            raise NoMatch(f"{at.node.name} is written to in place")
        count = full[COORDINATES.index(coordinate)]
        own = (full[0] if "b" in at.axes else 1, count if coordinate in at.axes else 1)

        def written() -> fx.Node:
            node = at.node if shape(at.node) == own else self._method("reshape", at.node, own)
            return node if own == (full[0], count) else self._method("expand", node, full[0], count)

        return self._once(("vector", at, coordinate), written)

    def _once(self, key: tuple[object, ...], write: Callable[[], fx.Node]) -> fx.Node:
        """What was written for an earlier attention, if that stands before this one; else anew."""
        if key not in self.made or self.made[key][1] > self.place:
            self.made[key] = write(), self.place
        return self.made[key][0]

    def _cast(self, node: fx.Node, dtype: torch.dtype) -> fx.Node:
        if _fake(node).dtype == dtype:
            return node
        if is_written(node):
            raise NoMatch(f"{node.name} is written to in place")
        return self._once(("cast", node, dtype), lambda: self._method("to", node, dtype))

    def _call(self, function: Callable[..., object], *arguments: Any) -> fx.Node:
        node = self.graph.call_function(function, arguments)
        node.meta["example_value"] = function(*_values(arguments))
        return node

    def _method(self, method: str, *arguments: Any, **options: Any) -> fx.Node:
        node = self.graph.call_method(method, arguments, options)
        first, *rest = _values(arguments)
        node.meta["example_value"] = getattr(first, method)(*rest, **options)
        return node


def _values(arguments: Any) -> Any:
    """Arguments of a call with fake tensors in the place of nodes."""
    return fx.map_arg(arguments, lambda node: node.meta["example_value"])


def _erase_unread(node: fx.Node) -> None:
    """Erase a node and what only it read. Not for a general sweep to do: that takes a write to a buffer for something unread."""
    stack, gone = [node], set[fx.Node]()
    while stack:
        current = stack.pop()
        if current in gone or current.users or name_of(current) not in _WITHOUT_EFFECT:
            continue
        gone.add(current)
        stack.extend(current.all_input_nodes)
        current.graph.erase_node(current)


def _fake(node: fx.Node) -> torch.Tensor:
    found = value(node)
    if found is None:
        raise NoMatch(f"{node.name} is no tensor")
    return found


def _full_sizes(found: Match) -> tuple[int, int, int, int]:
    """(B, H, Q, K) of the scores; a product of 3 dimensions that is viewed in no other way has one head."""
    own = shape(found.product.node)
    batch, heads = found.leading or (own[:2] if len(own) == 4 else (own[0], 1))
    if batch * heads != (own[0] * own[1] if len(own) == 4 else own[0]):
        raise NoMatch("the scores are viewed in other batches and heads")
    return batch, heads, own[-2], own[-1]


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
