"""Walks from a softmax up to the product that made its scores and down to the product that its weights go into.

    q, k -> product -> scale -> softcap -> masks and biases -> sinks -> softmax -> cast, dropout -> product with v

What is passed through on the way is what a kernel has a meaning for; anything else is no match, with the reason. Values on the way
must have no other reader: a model that returns its weights keeps its attention.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import fx

from graphckpt.rewrite.attention.calls import (
    CASTS,
    PRODUCTS,
    VIEWS,
    FullSizes,
    Size,
    argument,
    full_index,
    has_sizes,
    is_whole_slice,
    name_of,
    number,
    shape,
    value,
)
from graphckpt.rewrite.attention.coordinates import COORDINATES, At, source_of
from graphckpt.rewrite.attention.draws import probability_in
from graphckpt.rewrite.attention.no_match import NoMatch
from graphckpt.rewrite.attention.products import Operand, Product, read_product

# A score that is replaced by this or less has no weight beside any other; what is *added* must absorb every score.
_NOTHING = -1e9


class Term(NamedTuple):
    """What is added to the scores, with the shape they have there."""

    node: fx.Node
    shape: tuple[Size, ...]
    factor: float = 1.0


class Condition(NamedTuple):
    """What hides scores, with the shape they have there: hidden where ``node`` is ``hides``. ``uniform``: by a finite number."""

    node: fx.Node
    shape: tuple[Size, ...]
    hides: bool
    uniform: bool


@dataclass
class Scores:
    """What the way up has found."""

    product: Product | None = None
    scale: float = 1.0
    softcap: float = 0.0
    terms: list[Term] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)
    sinks: fx.Node | None = None
    leading: tuple[Size, ...] = ()
    chain: list[fx.Node] = field(default_factory=list)


@dataclass(frozen=True)
class Match:
    """One attention: scores of ``sizes`` (B, H, Q, K) in the type ``scores_in``, of operands in ``operands_in``.

    ``first`` reads q and k, ``last`` gives the result. ``is_causal``: a query sees keys up to its own place, both counted from 0.
    ``dropped_at``: the call that drops weights, with a probability of ``dropout`` in the type of the weights.
    """

    q: Operand
    k: Operand
    v: Operand
    first: fx.Node
    last: fx.Node
    sizes: FullSizes
    scores_in: torch.dtype
    operands_in: torch.dtype
    scale: float
    softcap: float = 0.0
    terms: tuple[Term, ...] = ()
    conditions: tuple[Condition, ...] = ()
    sinks: fx.Node | None = None
    dropout: float = 0.0
    is_causal: bool = False
    dropped_at: fx.Node | None = None


def is_attention(node: fx.Node) -> bool:
    """Whether this is a softmax whose weights go into a product of matrices, as those of a router or of a loss do not."""
    if name_of(node) != "softmax" or value(node) is None or value(node).dim() < 3:  # type: ignore[union-attr]
        return False
    seen, stack = set[fx.Node](), [node]
    while stack:
        for user in stack.pop().users:
            name = name_of(user)
            if name in PRODUCTS:
                return True
            if user not in seen and (name in CASTS or name in VIEWS or name in ("dropout", "getitem", "expand", "mul", "detach")):
                seen.add(user)
                stack.append(user)
    return False


def match(softmax: fx.Node) -> Match:
    """The attention around a softmax.

    Raises:
        NoMatch: there is none, or none that the operator has a meaning for.
    """
    rank = len(shape(softmax))
    if rank not in (3, 4):
        raise NoMatch("the softmax is not of 3 or 4 dimensions of known sizes")
    if argument(softmax, 1, "dim") not in (-1, rank - 1):
        raise NoMatch("the softmax is not over the last dimension")
    found = Scores()
    _walk_up(argument(softmax, 0), softmax, found)
    product = found.product
    assert product is not None
    dropped, v, last = _walk_down(softmax, found)
    _check_grad_mode(found, v, last)
    scores_in = value(product.node).dtype  # type: ignore[union-attr]
    return Match(
        product.left,
        product.right,
        v,
        product.node,
        last,
        _full_sizes(product.node, found.leading),
        scores_in,
        torch.promote_types(scores_in, value(last).dtype),  # type: ignore[union-attr]
        found.scale,
        found.softcap,
        tuple(found.terms),
        tuple(found.conditions),
        found.sinks,
        dropped.probability,
        dropped_at=dropped.node,
    )


def _full_sizes(product: fx.Node, leading: tuple[Size, ...]) -> FullSizes:
    """(B, H, Q, K) of the scores; a product of 3 dimensions that is viewed in no other way has one head."""
    own = shape(product)
    batch, heads = leading or (own[:2] if len(own) == 4 else (own[0], 1))
    if batch * heads != (own[0] * own[1] if len(own) == 4 else own[0]):
        raise NoMatch("the scores are viewed in other batches and heads")
    return batch, heads, own[-2], own[-1]


def _check_grad_mode(found: Scores, v: Operand, last: fx.Node) -> None:
    """All of it is under autograd, or nothing is."""
    assert found.product is not None
    sources = [found.product.left.node, found.product.right.node]
    expected = any(_needs_grad(node) for node in sources)
    cut = expected and not all(_needs_grad(node) for node in found.chain)
    if cut or ((expected or _needs_grad(v.node)) and not _needs_grad(last)):
        raise NoMatch("part of it is computed without gradients")


def _needs_grad(node: fx.Node) -> bool:
    found = value(node)
    return found is not None and found.requires_grad


def _walk_up(node: object, reader: fx.Node, found: Scores) -> None:
    readers = {reader}
    while True:
        if not isinstance(node, fx.Node) or len(shape(node)) not in (3, 4):
            raise NoMatch("the scores are no tensor of 3 or 4 dimensions of known sizes")
        found.chain.append(node)
        if set(node.users) - readers:
            raise NoMatch("the scores are used elsewhere too")
        if len(shape(node)) == 4 and not found.leading:
            found.leading = shape(node)[:2]
        readers = {node}
        name = name_of(node)
        if name in PRODUCTS:
            _end(node, found)
            return
        if name in CASTS or name in VIEWS:
            _check_view(node)
            _check_cast(node, argument(node, 0))
            node = argument(node, 0)
        elif name == "cat":
            node = _sinks(node, found)
        elif name in ("add", "sub"):
            node = _sum(node, found, readers)
        elif name in ("mul", "div"):
            node = _factor(node, found, readers)
        elif name == "tanh":
            raise NoMatch("a tanh that is not multiplied by a constant")
        elif name in ("masked_fill", "where"):
            node = _hidden(node, found)
        else:
            raise NoMatch(f"the scores come from {name or node.target}, which is no part of an attention")


def _end(node: fx.Node, found: Scores) -> None:
    product = read_product(node)
    if product is None:
        raise NoMatch(f"{name_of(node)} of these operands is no product of queries and keys")
    found.product = product
    if product.added is not None:
        if found.scale != 1.0 or found.softcap:
            raise NoMatch("a bias is scaled")
        found.terms.append(Term(product.added, shape(node), product.added_factor))
    found.scale *= product.factor


def _check_view(node: fx.Node) -> None:
    """A view may change how batches and heads are counted, not what a row is."""
    if name_of(node) in VIEWS and shape(node)[-2:] != shape(argument(node, 0))[-2:]:
        raise NoMatch("the scores are viewed in another shape")


def _check_cast(cast: fx.Node, source: object) -> None:
    """Scores and weights may change their floating type, not become integers on the way."""
    if any(found is not None and not found.is_floating_point() for found in (value(cast), value(source))):
        raise NoMatch("the scores are cast to integers")


def _sum(node: fx.Node, found: Scores, readers: set[fx.Node]) -> object:
    left, right = argument(node, 0), argument(node, 1)
    shifts = name_of(node) == "sub" or not (isinstance(left, fx.Node) and isinstance(right, fx.Node))
    if shifts and (found.softcap or found.sinks is not None):
        # Neither is blind to what is added to all of a row.
        raise NoMatch("the scores are shifted before their softcap, or beside a sink")
    if name_of(node) == "sub":
        if isinstance(left, fx.Node) and _is_largest_of(right, left):
            # A softmax does not see what is taken off all of a row.
            readers.update(user for user in left.users if name_of(user) in ("max", "amax"))
            return left
        raise NoMatch("something is subtracted from the scores")
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return left if isinstance(left, fx.Node) else right
    if found.scale != 1.0 or found.softcap:
        raise NoMatch("a bias is scaled")
    is_left, is_right = _leads_to_product(left), _leads_to_product(right)
    if is_left == is_right:
        raise NoMatch("two products are summed" if is_left else "no product of queries and keys is found")
    scores, term = (left, right) if is_left else (right, left)
    if not has_sizes(term):
        raise NoMatch("a bias has sizes that depend on data")
    found.terms.append(Term(term, shape(node)))
    return scores


def _is_largest_of(node: object, scores: fx.Node) -> bool:
    if not isinstance(node, fx.Node):
        return False
    if name_of(node) in ("getitem", "getattr") and name_of(argument(node, 0)) == "max":
        node = argument(node, 0)
    if not isinstance(node, fx.Node) or name_of(node) not in ("max", "amax") or argument(node, 0) is not scores:
        return False
    return argument(node, 1, "dim") in (-1, len(shape(scores)) - 1) and bool(argument(node, 2, "keepdim", False))


def _leads_to_product(node: object) -> bool:
    """Whether scores come this way: through what may stand between them and their softmax."""
    while isinstance(node, fx.Node):
        name = name_of(node)
        if name in PRODUCTS:
            return True
        if name == "where":
            return any(_leads_to_product(side) for side in node.args[1:])
        if name == "add":
            return any(_leads_to_product(side) for side in node.args)
        if name not in CASTS and name not in VIEWS and name not in ("mul", "div", "tanh", "masked_fill"):
            return False
        node = argument(node, 0) if isinstance(argument(node, 0), fx.Node) else argument(node, 1)
    return False


def _factor(node: fx.Node, found: Scores, readers: set[fx.Node]) -> object:
    left, right = argument(node, 0), argument(node, 1)
    factor, scores = number(right), left
    if factor is None and name_of(node) == "mul":
        factor, scores = number(left), right
    if factor is None or factor == 0:
        raise NoMatch("the scores are multiplied by something that is no constant")
    if name_of(node) == "div":
        factor = 1 / factor
    if name_of(scores) == "tanh" and isinstance(scores, fx.Node) and not found.softcap and found.scale == 1.0:
        if len(scores.users) > 1 or factor < 0:
            raise NoMatch("the scores are used elsewhere too")
        # c * tanh(s) is a softcap of c on c * s.
        found.softcap = factor
        found.scale *= factor
        readers.add(scores)
        return argument(scores, 0)
    if found.softcap and name_of(scores) == "tanh":
        raise NoMatch("the scores go through tanh twice")
    found.scale *= factor
    return scores


def _hidden(node: fx.Node, found: Scores) -> object:
    if found.scale != 1.0 or found.softcap:
        raise NoMatch("hidden scores are scaled")
    if name_of(node) == "masked_fill":
        scores, condition, filled, hides = argument(node, 0), argument(node, 1, "mask"), argument(node, 2, "value"), True
    else:
        condition, scores, filled, hides = argument(node, 0), argument(node, 1), argument(node, 2), False
        if number(scores) is not None:
            scores, filled, hides = filled, scores, True
    with_number = number(filled)
    least = torch.finfo(value(node).dtype).min  # type: ignore[union-attr]
    if with_number is None or not with_number <= max(_NOTHING, least) or not has_sizes(condition):
        raise NoMatch("scores are replaced by something that still has a weight")
    if found.terms:
        raise NoMatch("something is added to hidden scores")
    found.conditions.append(Condition(condition, shape(node), hides, with_number != float("-inf")))
    return scores


def _sinks(node: fx.Node, found: Scores) -> object:
    """``cat([scores, sinks], -1)``: one more key a head, which weighs and gives nothing."""
    parts, dim = argument(node, 0), argument(node, 1, "dim", 0)
    if not isinstance(parts, (list, tuple)) or len(parts) != 2 or dim not in (-1, 3) or _is_touched(found):
        raise NoMatch("scores are joined with something that is no sink")
    scores, sink = parts
    heads = shape(scores)[1] if len(shape(scores)) == 4 else 0
    if not isinstance(sink, fx.Node) or len(shape(sink)) != 4 or shape(sink)[-1] != 1:
        raise NoMatch("scores are joined with more than one sink")
    at: At | None = At(sink, tuple("" if size == 1 else name for size, name in zip(shape(sink), COORDINATES, strict=True)))
    while at is not None and len(shape(at.node)) > 1:
        at = source_of(at)
    if at is None or at.axes != ("h",) or shape(at.node) != (heads,):
        raise NoMatch("the sinks are not one number a head")
    found.sinks = at.node
    found.leading = ()
    return scores


def _is_touched(found: Scores) -> bool:
    return bool(found.terms or found.conditions or found.softcap or found.scale != 1.0)


class _Dropped(NamedTuple):
    """The dropout of the weights: its probability, 0 without one, and its call."""

    probability: float = 0.0
    node: fx.Node | None = None


def _walk_down(softmax: fx.Node, found: Scores) -> tuple[_Dropped, Operand, fx.Node]:
    """The dropout of the weights, v and the product with it."""
    node, dropped, has_sink = softmax, _Dropped(), found.sinks is not None
    while True:
        found.chain.append(node)
        if len(node.users) != 1:
            raise NoMatch("the weights are used elsewhere too, or are a result of the model")
        (user,) = node.users
        name = name_of(user)
        if name in PRODUCTS and not has_sink:
            return dropped, _values(user, node), user
        if name == "dropout" and not dropped.probability:
            is_on = argument(user, 2, "training", True)
            probability = float(argument(user, 1, "p", 0.5)) if is_on else 0.0
            dropped = _Dropped(probability_in(value(node).dtype, probability), user)  # type: ignore[union-attr]
        elif name == "getitem" and has_sink:
            *others, last = full_index(argument(user, 1), len(shape(node)))
            keeps = all(is_whole_slice(entry, size) for entry, size in zip(others, shape(node), strict=False))
            if not keeps or last != slice(None, -1, None):
                raise NoMatch("the weights are cut otherwise than by their sink")
            has_sink = False
        elif name in VIEWS or name == "expand":
            if shape(user)[-2:] != shape(node)[-2:] or shape(user)[0] * len(shape(user)) == 0:
                raise NoMatch("the weights are viewed in another shape")
        elif name in CASTS:
            _check_cast(user, node)
        else:
            raise NoMatch(f"the weights go into {name or user.target}, which is no part of an attention")
        node = user


def _values(last: fx.Node, weights: fx.Node) -> Operand:
    product = read_product(last)
    if product is None or product != Product(last, Operand(weights), product.right):
        raise NoMatch("the weights do not go into a plain product from the left")
    # A product of queries and keys reads its right side as keys by width; of weights and values it is values.
    return product.right.then("transpose", -2, -1)

