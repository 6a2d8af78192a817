"""Calls of torch's ``scaled_dot_product_attention``, read as an attention; those that torch fuses itself are not ours to replace.

Which of its ways torch takes depends on device, type, dropout, mask and sizes, and differs between its versions. So it is not
worked out here but asked: the call is made on fake tensors, and what it dispatches to tells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import fx

from graphckpt.compat.dispatch import operators_of
from graphckpt.rewrite.attention.calls import FullSizes, argument, has_sizes, is_written, name_of, number, shape, value
from graphckpt.rewrite.attention.match import Condition, Match, NoMatch, Term
from graphckpt.rewrite.attention.products import Operand

_NAME = "scaled_dot_product_attention"
_SOFTMAXES = frozenset({"aten::_softmax", "aten::_safe_softmax"})


def is_sdpa(node: fx.Node) -> bool:
    """Whether this is a call of torch's own attention."""
    return name_of(node) == _NAME


def takes_math_path(node: fx.Node) -> bool:
    """Whether this is such a call, and torch would write out its weights for it."""
    if not is_sdpa(node) or not has_sizes(node):
        return False
    made_of = operators_of(cast(Callable[..., object], node.target), _values(node.args), _values(node.kwargs))
    return not _SOFTMAXES.isdisjoint(made_of)


def read_sdpa(node: fx.Node) -> Match:
    """The attention that a call is.

    Raises:
        NoMatch: it has another meaning than the operator, or one that is not known.
    """
    q, k, v = (argument(node, place, name) for place, name in enumerate(("query", "key", "value")))
    if any(len(shape(operand)) != 4 or is_written(operand) for operand in (q, k, v)):
        raise NoMatch("its queries, keys or values are not of 4 dimensions of known sizes, or are written to in place")
    dropout, is_causal = argument(node, 4, "dropout_p", 0.0), argument(node, 5, "is_causal", False)
    scale = argument(node, 6, "scale")
    if number(dropout) is None or not isinstance(is_causal, bool) or (scale is not None and number(scale) is None):
        raise NoMatch("its dropout, causality or scale is no constant")
    (batch, heads, rows, width), keys = shape(q), shape(k)[2]
    expected = any(value(operand).requires_grad for operand in (q, k, v))  # type: ignore[union-attr]
    if expected and not value(node).requires_grad:  # type: ignore[union-attr]
        raise NoMatch("it is computed without gradients")
    sizes = (batch, heads, rows, keys)
    terms, conditions = _mask(argument(node, 3, "attn_mask"), sizes)
    return Match(
        Operand(q),
        Operand(k),
        Operand(v),
        node,
        node,
        sizes,
        value(q).dtype,  # type: ignore[union-attr]
        width**-0.5 if scale is None else float(scale),
        terms=terms,
        conditions=conditions,
        dropout=float(dropout),
        is_causal=is_causal,
    )


def _mask(mask: Any, sizes: FullSizes) -> tuple[tuple[Term, ...], tuple[Condition, ...]]:
    """What is added to the scores, and what hides them: a row that is hidden whole gives 0."""
    if mask is None:
        return (), ()
    if not has_sizes(mask):
        raise NoMatch("its mask is no tensor of known sizes")
    if value(mask).dtype == torch.bool:  # type: ignore[union-attr]
        return (), (Condition(mask, sizes, hides=False, uniform=False),)
    return (Term(mask, sizes),), ()


def _values(arguments: Any) -> Any:
    return fx.map_arg(arguments, lambda node: node.meta["example_value"])
