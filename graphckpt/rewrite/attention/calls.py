"""Calls of a Dynamo graph by what they do, whichever way they are spelt: ``x @ y``, ``torch.matmul(x, y)``, ``x.matmul(y)``.

Only functions of torch and of Python's operators have a name here; a function of the user's is nobody's, whatever it is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from graphckpt.compat.fake import is_operator

_ALIASES = {
    "__matmul__": "matmul",
    "imul": "mul",
    "multiply": "mul",
    "iadd": "add",
    "itruediv": "div",
    "truediv": "div",
    "true_divide": "div",
    "divide": "div",
    "isub": "sub",
    "subtract": "sub",
    "masked_fill_": "masked_fill",
    "add_": "add",
    "mul_": "mul",
    "div_": "div",
    "sub_": "sub",
    "__and__": "and_",
    "iand": "and_",
    "bitwise_and": "and_",
    "logical_and": "and_",
    "invert": "not",
    "inv": "not",
    "bitwise_not": "not",
    "logical_not": "not",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "less_equal": "le",
    "less": "lt",
    "greater_equal": "ge",
    "greater": "gt",
    "negative": "neg",
    "absolute": "abs",
}
CASTS = frozenset({"to", "type", "type_as", "float", "half", "bfloat16", "double", "contiguous", "clone", "detach", "alias"})
VIEWS = frozenset({"view", "reshape", "unflatten", "flatten", "unsqueeze", "squeeze"})
PRODUCTS = frozenset({"matmul", "bmm", "baddbmm", "einsum"})
_MODULES = ("torch", "_operator")


def name_of(node: object) -> str:
    """What a call does, by one name for all its spellings; "" for what is no call of torch's or of Python's operators."""
    if not isinstance(node, fx.Node):
        return ""
    if node.op == "call_method":
        name = str(node.target)
    elif node.op == "call_function":
        module = getattr(node.target, "__module__", None) or "torch"
        if module.split(".")[0] not in _MODULES or is_operator(node.target):
            return ""
        name = getattr(node.target, "__name__", "")
    else:
        return ""
    return _ALIASES.get(name, name)


def argument(node: fx.Node, position: int, name: str = "", default: Any = None) -> Any:
    """One argument, given by place or by name."""
    return node.args[position] if position < len(node.args) else node.kwargs.get(name, default)


def value(node: object) -> torch.Tensor | None:
    """The fake tensor of a node, None where it makes something else."""
    found = node.meta.get("example_value") if isinstance(node, fx.Node) else None
    return found if isinstance(found, torch.Tensor) else None


def shape(node: object) -> tuple[int, ...]:
    """The sizes of what a node makes; () where that is no tensor or its sizes are not known numbers."""
    found = value(node)
    if found is None or not all(isinstance(size, int) for size in found.shape):
        return ()
    return tuple(found.shape)


def number(given: object) -> float | None:
    """A constant: a number, or a tensor of one element filled with one."""
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        return float(given)
    if isinstance(given, fx.Node) and name_of(given) in ("full", "tensor", "scalar_tensor", "new_full", "full_like"):
        filled = {"full": 1, "new_full": 2, "full_like": 1}.get(name_of(given), 0)
        found = argument(given, filled, "fill_value")
        return number(found) if not isinstance(found, fx.Node) else None
    if isinstance(given, fx.Node) and name_of(given) in ("zeros", "new_zeros", "zeros_like"):
        return 0.0
    if isinstance(given, fx.Node) and name_of(given) in CASTS:
        return number(argument(given, 0))
    return None


def is_whole_slice(index: object, size: int) -> bool:
    """Whether a slice takes everything of a dimension of this size."""
    if not isinstance(index, slice) or any(isinstance(part, fx.Node) for part in (index.start, index.stop, index.step)):
        return False
    return index.indices(size) == (0, size, 1)


def full_index(index: object, rank: int) -> tuple[object, ...]:
    """An index with its ellipsis written out, one entry a dimension and one for each None."""
    entries = index if isinstance(index, tuple) else (index,)
    taken = sum(entry is not None and entry is not Ellipsis for entry in entries)
    missing: Sequence[object] = [slice(None)] * (rank - taken)
    if any(entry is Ellipsis for entry in entries):
        at = next(place for place, entry in enumerate(entries) if entry is Ellipsis)
        return (*entries[:at], *missing, *entries[at + 1 :])
    return (*entries, *missing)
