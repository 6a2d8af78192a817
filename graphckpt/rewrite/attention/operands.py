"""What of an attention's operands is a matter of layout alone: transpositions that cancel, repeated heads, heads moved last."""

from __future__ import annotations

from torch import fx

from graphckpt.rewrite.attention.calls import CASTS, VIEWS, argument, full_index, is_whole_slice, name_of, shape, value
from graphckpt.rewrite.attention.products import Operand


def moves_heads_last(node: fx.Node) -> bool:
    """Whether this is the view of (B, H, n, D) as (B, n, H, D)."""
    if name_of(node) == "transpose":
        return {argument(node, 1, "dim0"), argument(node, 2, "dim1")} == {1, 2}
    dims = node.args[1:] if len(node.args) != 2 else argument(node, 1)
    return name_of(node) == "permute" and tuple(dims) == (0, 2, 1, 3)


def simplified(operand: Operand) -> Operand:
    """Without a transposition that undoes the one its node is."""
    node, steps = operand
    while steps and steps[0] == ("transpose", (-2, -1)) and name_of(node) == "transpose":
        rank = len(shape(node))
        dims = sorted(int(argument(node, place, name)) % rank for place, name in ((1, "dim0"), (2, "dim1")))
        if dims != [rank - 2, rank - 1]:
            break
        node, steps = argument(node, 0), steps[1:]
    return Operand(node, steps)


def before_repeats(node: fx.Node) -> fx.Node | None:
    """The heads of (B, H, S, D) before each was repeated, as (B, Hk, S, D) or (B, Hk, 1, S, D): heads of keys are shared."""
    batch, heads, *rest = shape(node)
    while name_of(node) in CASTS and _same_type(node, argument(node, 0)):
        node = argument(node, 0)
    if name_of(node) == "repeat_interleave" and argument(node, 2, "dim") in (1, -3):
        return argument(node, 0) if isinstance(argument(node, 1, "repeats"), int) else None
    if name_of(node) not in VIEWS:
        return None
    repeated = argument(node, 0)
    while name_of(repeated) in CASTS:
        repeated = argument(repeated, 0)
    if name_of(repeated) != "expand" or len(shape(repeated)) != 5:
        return None
    once = argument(repeated, 0)
    key_heads = shape(once)[1] if len(shape(once)) == 5 else 0
    if shape(once) != (batch, key_heads, 1, *rest) or shape(repeated) != (batch, key_heads, heads // key_heads, *rest):
        return None
    base = argument(once, 0) if name_of(once) in ("getitem", "unsqueeze") else None
    if base is None or shape(base) != (batch, key_heads, *rest):
        return once
    if name_of(once) == "getitem":
        entries = [entry for entry in full_index(argument(once, 1), 4) if entry is not None]
        if not all(is_whole_slice(entry, size) for entry, size in zip(entries, shape(base), strict=True)):
            return once
    return base


def _same_type(node: fx.Node, source: fx.Node) -> bool:
    types = [None if found is None else found.dtype for found in (value(node), value(source))]
    return types[0] is not None and types[0] == types[1]
