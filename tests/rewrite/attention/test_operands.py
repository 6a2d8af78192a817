"""Layout of operands, on nodes with the shapes that decide.

    k (2, 2, 5, 8) -> [:, :, None] -> expand (2, 2, 3, 5, 8) -> reshape (2, 6, 5, 8)      heads 0 0 0 1 1 1
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from graphckpt.rewrite.attention.operands import before_repeats, moves_heads_last, simplified
from graphckpt.rewrite.attention.products import Operand


def _method(node: fx.Node, name: str, *arguments: Any) -> fx.Node:
    made = node.graph.call_method(name, (node, *arguments))
    made.meta["example_value"] = getattr(node.meta["example_value"], name)(*arguments)
    return made


def _keys() -> fx.Node:
    node = fx.Graph().placeholder("k")
    node.meta["example_value"] = torch.zeros(2, 2, 5, 8)
    return node


def test_a_transposition_that_is_undone_is_gone() -> None:
    k = _keys()
    for dims in ((2, 3), (-1, -2)):
        assert simplified(Operand(_method(k, "transpose", *dims)).then("transpose", -2, -1)) == Operand(k)
    other = Operand(_method(k, "transpose", 1, 2)).then("transpose", -2, -1)
    assert simplified(other) == other


def test_repeated_heads_are_found_before_they_were() -> None:
    k = _keys()
    once = _method(k, "unsqueeze", 2)
    repeated = _method(_method(once, "expand", 2, 2, 3, 5, 8), "reshape", 2, 6, 5, 8)
    assert before_repeats(repeated) is k
    assert before_repeats(_method(k, "repeat_interleave", 3, 1)) is k
    assert before_repeats(k) is None
    # Heads 0 1 0 1 0 1 are in another order than those that are shared.
    assert before_repeats(_method(_method(_method(k, "unsqueeze", 1), "expand", 2, 3, 2, 5, 8), "reshape", 2, 6, 5, 8)) is None


def test_heads_that_are_moved_last() -> None:
    k = _keys()
    assert moves_heads_last(_method(k, "transpose", 1, 2)) and moves_heads_last(_method(k, "permute", 0, 2, 1, 3))
    assert not moves_heads_last(_method(k, "transpose", 2, 3)) and not moves_heads_last(_method(k, "permute", 0, 2, 3, 1))
