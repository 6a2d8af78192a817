"""Puts ``graphckpt::attention`` in the place of every attention of a graph, before autograd sees it.

What enters: a Dynamo graph of a training step. What leaves: how many were replaced, and why the others were not. The graph is
changed in place; what nobody reads any more is gone. Where weights were dropped stands a seed as Inductor makes it for dropout, so
that what is drawn from it, and from the seeds of the other random calls, is what would have been drawn. Sizes may be symbols. Not
guaranteed: attentions with sizes that depend on data, or are sums and the like of symbols; they are left alone, with that reason.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

import torch
from torch import fx

from graphckpt.kernels.attention import ops
from graphckpt.kernels.attention.api import fastest
from graphckpt.kernels.attention.meaning import Attention
from graphckpt.rewrite.attention.calls import (
    CASTS,
    PRODUCTS,
    VIEWS,
    FullSizes,
    is_transformed,
    last_written,
    mark_written,
    name_of,
    shape,
)
from graphckpt.rewrite.attention.draws import SeedWriter, seed_of_inductor
from graphckpt.rewrite.attention.masking import MaskWriter
from graphckpt.rewrite.attention.match import Match, is_attention, match
from graphckpt.rewrite.attention.no_match import NoMatch
from graphckpt.rewrite.attention.operands import before_repeats, moves_heads_last, simplified
from graphckpt.rewrite.attention.products import Operand
from graphckpt.rewrite.attention.sdpa import is_sdpa, read_sdpa, takes_math_path
from graphckpt.rewrite.attention.writer import GraphWriter, fake

_IN_A_BODY = (
    "it is in a part that an operator of the graph runs as a whole: a region of torch.utils.checkpoint that is honoured, "
    "control flow, or an autograd.Function"
)
# What may stand around an attention and is gone with it, in-place sums of scores included.
_WITHOUT_EFFECT = (
    frozenset({"scaled_dot_product_attention", "softmax", "dropout", "cat", "max", "amax", "sub", "add", "mul", "div", "tanh"})
    | frozenset({"masked_fill", "where", "getitem"})
    | frozenset({"expand", "repeat_interleave", "transpose", "permute", "arange", "zeros", "full", "ones", "new_ones", "ones_like"})
    | frozenset({"and_", "not", "le", "lt", "ge", "gt", "eq", "ne", "cumsum", "diff"})
    | CASTS
    | VIEWS
    | PRODUCTS
)


class Replaces(Enum):
    """Which attentions are replaced: all, those that drop weights, or those that do not."""

    ALL = "all"
    WITH_DROPOUT = "with dropout"
    WITHOUT_DROPOUT = "without dropout"


@dataclass(frozen=True)
class Replaced:
    """What became of a graph's attentions: ``kept`` are (name of the softmax, why); ``notes`` say which masks stayed tensors."""

    fused: int
    kept: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def replace_attentions(
    module: fx.GraphModule,
    choose: Callable[[Attention], str] = fastest,
    *,
    replaces: Replaces = Replaces.ALL,
    write_seed: SeedWriter = seed_of_inductor,
) -> Replaced:
    """Replace what can be; see the module's head. ``choose``: the implementation of a call, by its tensors without data;
    ``replaces``: which attentions; ``write_seed``: what draws the seed of a dropout."""
    transformed = is_transformed(module.graph)
    if not transformed:
        mark_written(module.graph)
    writer = GraphWriter(module.graph)
    places = {node: place for place, node in enumerate(module.graph.nodes)}
    replacer = _Replacer(writer, MaskWriter(writer), choose, replaces, write_seed, places)
    fused, kept = 0, []
    for attention in attentions_of(module.graph):
        try:
            if transformed:
                raise NoMatch("it is inside of a function transform, such as vmap")
            if not _writes_weights(attention):
                continue
            replacer.replace(attention)
            fused += 1
        except NoMatch as reason:
            kept.append((attention.name, str(reason)))
    if fused:
        module.graph.lint()
        module.recompile()
    bodies = [(name, part) for name, part in module.named_modules() if isinstance(part, fx.GraphModule) and part is not module]
    inside = [(name, node) for name, body in bodies for node in attentions_of(body.graph)]
    kept += [(f"{name}.{node.name}", _IN_A_BODY) for name, node in inside if _may_write_weights(node)]
    return Replaced(fused, tuple(kept), tuple(dict.fromkeys(replacer.masks.notes)))


def attentions_of(graph: fx.Graph) -> list[fx.Node]:
    """The softmax of each attention that is written out, and calls of torch's own, of which it may fuse some itself."""
    return [node for node in graph.nodes if is_attention(node) or is_sdpa(node)]


def _writes_weights(attention: fx.Node) -> bool:
    """Whether it is written out, or would be by torch. Raises `NoMatch` where torch cannot be asked."""
    return not is_sdpa(attention) or takes_math_path(attention)


def _may_write_weights(attention: fx.Node) -> bool:
    try:
        return _writes_weights(attention)
    except NoMatch:
        return True


@dataclass
class _Replacer:
    """Puts the operator before an attention's last product. ``choose``: its implementation; ``places``: of the nodes the graph had;
    ``read_from``: where queries and keys are read."""

    writer: GraphWriter
    masks: MaskWriter
    choose: Callable[[Attention], str]
    replaces: Replaces
    write_seed: SeedWriter
    places: Mapping[fx.Node, int]
    read_from: int = 0

    def replace(self, attention: fx.Node) -> None:
        """Write the operator and take the last product out; nothing is written where that fails.

        Raises:
            NoMatch: whatever it is that fails.
        """
        before = set(self.writer.graph.nodes)
        try:
            found = read_sdpa(attention) if is_sdpa(attention) else match(attention)
            if found.dropout and self.replaces is Replaces.WITHOUT_DROPOUT:
                raise NoMatch("its dropout is to draw eager's numbers (fallback_random)")
            if not found.dropout and self.replaces is Replaces.WITH_DROPOUT:
                raise NoMatch("it drops nothing, and nothing needs a gradient")
            self.writer.place, self.read_from = self.places[found.last], self.places[found.first]
            self.writer.needs_grad = fake(found.last).requires_grad
            with self.writer.graph.inserting_before(found.last):
                out = self._written(found)
        # Whatever a strange graph does to fake tensors here is a reason to leave it as it is.
        except Exception as reason:
            self.writer.take_back(before)
            raise NoMatch(" ".join(str(reason).split())) from reason
        found.last.replace_all_uses_with(out)
        _erase_unread(found.last)

    def _written(self, found: Match) -> fx.Node:
        q = self._operand(found.q, found.sizes, shares_heads=False)
        k, v = (self._operand(side, found.sizes, shares_heads=True) for side in (found.k, found.v))
        dtype = found.operands_in
        q, k, v = (node if fake(node).dtype == dtype else self.writer.method("to", node, dtype) for node in (q, k, v))
        masks = self.masks.write(found)
        seed = None
        if found.dropout:
            with self.writer.graph.inserting_before(found.dropped_at):
                seed = self.write_seed(self.writer.graph, fake(q).device)
            seed.meta["example_value"] = fake(q).new_empty((), dtype=torch.int64)
        tensors = (q, k, v, masks.bias, masks.keys, *(masks.documents or (None, None)), found.sinks, seed)
        known = [None if node is None else fake(node) for node in tensors]
        flags = ops.Flags(found.scale, *masks.band, found.softcap, found.dropout, masks.uniform, "blocked")
        flags = flags._replace(implementation=self.choose(ops.call_of(known, flags)))
        both = self.writer.call(torch.ops.graphckpt.attention.default, *tensors, *flags)
        # The report names what is kept by the module it comes from.
        for key in ("stack_trace", "nn_module_stack"):
            if key in found.last.meta:
                both.meta[key] = found.last.meta[key]
        out = self.writer.cast(self.writer.call(operator.getitem, both, 0), fake(found.last).dtype)
        if shape(out) != shape(found.last):
            return self.writer.reshaped(out, shape(found.last))
        # Heads lie last in memory, as the projection behind it wants them; whoever does not look there sees them as they were.
        return out if all(moves_heads_last(user) for user in found.last.users) else self.writer.method("contiguous", out)

    def _operand(self, operand: Operand, full: FullSizes, *, shares_heads: bool) -> fx.Node:
        node, steps = simplified(operand)
        self._check_settled(node)
        for method, arguments in steps:
            node = self.writer.method(method, node, *arguments)
        if len(shape(node)) == 3:
            node = self.writer.reshaped(node, (*full[:2], *shape(node)[1:]))
        once = before_repeats(node) if shares_heads else None
        if once is not None:
            self._check_settled(once)
            node = self.writer.method("squeeze", once, 2) if len(shape(once)) == 5 else once
        if shape(node)[0] != full[0]:
            node = self.writer.method("expand", node, self.writer.given(full[0]), -1, -1, -1)
        return node

    def _check_settled(self, node: fx.Node) -> None:
        """Queries, keys and values may be put together in place, as long as that is over when their product is taken."""
        if last_written(node) >= self.read_from:
            raise NoMatch(f"{node.name} is written to in place")


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


