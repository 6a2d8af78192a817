"""Calls of torch's ``scaled_dot_product_attention``, read as an attention; those that torch fuses itself are not ours to replace.

Which of its ways torch takes depends on device, type, dropout, mask and sizes, and differs between its versions. So it is not
worked out here but asked: the call is made on fake tensors, and what it dispatches to tells.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import fx
from torch.nn.functional import scaled_dot_product_attention

from graphckpt.compat.dispatch import operators_of
from graphckpt.rewrite.attention.calls import argument, has_sizes, is_written, name_of, number, shape, value, values_of
from graphckpt.rewrite.attention.draws import probability_in
from graphckpt.rewrite.attention.match import Condition, Match, Term
from graphckpt.rewrite.attention.no_match import NoMatch
from graphckpt.rewrite.attention.products import Operand

_SOFTMAXES = frozenset({"aten::_softmax", "aten::_safe_softmax"})


def is_sdpa(node: fx.Node) -> bool:
    """Whether this is a call of torch's own attention."""
    return node.op == "call_function" and node.target is scaled_dot_product_attention


def takes_math_path(node: fx.Node) -> bool:
    """Whether torch would write out the weights of such a call.

    Raises:
        NoMatch: torch cannot be asked.
    """
    if not has_sizes(node):
        raise NoMatch("its sizes depend on data")
    try:
        with ExitStack() as stack:
            for settings in _autocasts_at(node):
                stack.enter_context(torch.autocast(*settings))
            made_of = operators_of(cast(Callable[..., object], node.target), values_of(node.args), values_of(node.kwargs))
    # Whatever a strange graph does to fake tensors here is a reason to leave it as it is.
    except Exception as reason:
        raise NoMatch(f"torch cannot be asked whether it fuses it: {' '.join(str(reason).split())}") from reason
    return not _SOFTMAXES.isdisjoint(made_of)


def _autocasts_at(node: fx.Node) -> list[tuple[Any, ...]]:
    """The settings of each autocast that the graph has entered and not left, the outermost first."""
    entered: dict[fx.Node, tuple[Any, ...]] = {}
    for other in node.graph.nodes:
        if other is node:
            break
        name = str(getattr(other.target, "__name__", ""))
        if name == "_enter_autocast":
            entered[other] = other.args
        elif name == "_exit_autocast":
            entered.pop(other.args[0], None)
    return list(entered.values())


def read_sdpa(node: fx.Node) -> Match:
    """The attention that a call is.

    Raises:
        NoMatch: it has another meaning than the operator, or one that is not known.
    """
    if not name_of(node):
        raise NoMatch("it is written to in place" if is_written(node) else "it has an option that is not known")
    q, k, v = (argument(node, place, name) for place, name in enumerate(("query", "key", "value")))
    if any(len(shape(operand)) != 4 for operand in (q, k, v)):
        raise NoMatch("its queries, keys or values are not of 4 dimensions")
    dropout, is_causal = argument(node, 4, "dropout_p", 0.0), argument(node, 5, "is_causal", False)
    if number(dropout) is None or not isinstance(is_causal, bool):
        raise NoMatch("its dropout or causality is no constant")
    expected = any(value(operand).requires_grad for operand in (q, k, v))  # type: ignore[union-attr]
    if expected and not value(node).requires_grad:  # type: ignore[union-attr]
        raise NoMatch("it is computed without gradients")
    sizes = (*shape(node)[:3], shape(k)[2])
    if shape(q)[1:3] != sizes[1:3] or any(shape(operand)[0] not in (1, sizes[0]) for operand in (q, k, v)):
        raise NoMatch("its queries are not of as many heads as its result")
    terms, conditions = _mask(argument(node, 3, "attn_mask"), sizes)
    # Halves are multiplied as such, and their scores are of 32 bits.
    kind = value(node).dtype  # type: ignore[union-attr]
    scores_in = torch.promote_types(kind, torch.float32)
    return Match(
        Operand(q),
        Operand(k),
        Operand(v),
        node,
        node,
        sizes,
        scores_in,
        kind,
        _scale(argument(node, 6, "scale"), shape(q)[3]),
        terms=terms,
        conditions=conditions,
        dropout=probability_in(scores_in, float(dropout)),
        is_causal=is_causal,
        dropped_at=node,
    )


def _scale(given: object, width: object) -> float:
    if given is None and isinstance(width, int):
        return float(width**-0.5)
    scale = number(given)
    if scale is None:
        raise NoMatch("its scale is no constant, or follows from a width that is a symbol")
    return scale


def _mask(mask: Any, sizes: tuple[Any, ...]) -> tuple[tuple[Term, ...], tuple[Condition, ...]]:
    """What is added to the scores, and what hides them: a row that is hidden whole gives 0."""
    if mask is None:
        return (), ()
    if not has_sizes(mask):
        raise NoMatch("its mask is no tensor of known sizes")
    if value(mask).dtype == torch.bool:  # type: ignore[union-attr]
        return (), (Condition(mask, sizes, hides=False, uniform=False),)
    return (Term(mask, sizes),), ()
