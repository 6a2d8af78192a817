"""Calls of a Dynamo graph by what they do, whichever way they are spelt: ``x @ y``, ``torch.matmul(x, y)``, ``x.matmul(y)``.

Only functions of torch and of Python's operators have a name here; a function of the user's is nobody's, whatever it is called.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from graphckpt.compat.fake import symbolic_size
from graphckpt.compat.ops import is_operator, written_to

# A number, or the expression of one that is known when the graph runs: equal expressions are equal sizes.
Size = Any
FullSizes = tuple[Size, Size, Size, Size]

_ALIASES = {
    "multiply": "mul",
    "truediv": "div",
    "true_divide": "div",
    "divide": "div",
    "subtract": "sub",
    "bitwise_and": "and_",
    "logical_and": "and_",
    "__and__": "and_",
    "__matmul__": "matmul",
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
    # Dynamo of torch 2.11 writes comparisons of tensors as calls of methods, later ones as Python's operators.
    **{f"__{name}__": name for name in ("eq", "ne", "le", "lt", "ge", "gt")},
}
# A detach is none: what is behind it gets no gradient.
CASTS = frozenset({"to", "type", "type_as", "float", "half", "bfloat16", "double", "bool", "long", "int", "contiguous", "clone"})
VIEWS = frozenset({"view", "reshape", "unflatten", "flatten", "unsqueeze", "squeeze"})
PRODUCTS = frozenset({"matmul", "bmm", "baddbmm", "einsum"})
_SPACES = (torch, torch.nn.functional, operator)
_MADE = frozenset({"device", "dtype", "layout", "pin_memory", "requires_grad", "fill_value"})
# Options that are understood, or change nothing that matters; a call with any other has no name here.
_OPTIONS = {
    **dict.fromkeys(("arange", "zeros", "ones", "full", "new_ones", "new_zeros", "new_full", "ones_like", "zeros_like"), _MADE),
    "full_like": _MADE,
    "tensor": _MADE,
    "to": frozenset({"device", "dtype", "copy", "non_blocking"}),
    "softmax": frozenset({"dim", "dtype"}),
    "scaled_dot_product_attention": frozenset(
        {"query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"}
    ),
    "dropout": frozenset({"p", "training"}),
    "cat": frozenset({"dim"}),
    "max": frozenset({"dim", "keepdim"}),
    "amax": frozenset({"dim", "keepdim"}),
    "masked_fill": frozenset({"mask", "value"}),
    "contiguous": frozenset({"memory_format"}),
    "clone": frozenset({"memory_format"}),
    "transpose": frozenset({"dim0", "dim1"}),
    "unsqueeze": frozenset({"dim"}),
    "cumsum": frozenset({"dim", "dtype"}),
    "diff": frozenset({"n", "dim", "prepend", "append"}),
    "baddbmm": frozenset({"batch1", "batch2", "beta", "alpha"}),
    "repeat_interleave": frozenset({"repeats", "dim"}),
}
_WRITES = frozenset({"setitem", "iadd", "isub", "imul", "imatmul", "itruediv", "ifloordiv", "imod", "ipow"}) | frozenset(
    {"iand", "ior", "ixor", "ilshift", "irshift"}
)
_NO_WRITES = frozenset({"and_", "or_", "not_", "is_"})
# Of these it is not known to what.
_WRITES_ALL = frozenset({"triton_kernel_wrapper_mutation"})
# Marks nodes whose memory some call writes to.
_WRITTEN = "graphckpt_written"


def mark_written(graph: fx.Graph) -> None:
    """Mark every node that shares its memory with something that is written to, with its own place and that of the last write: what
    it holds may depend on when it is read. Not seen: writes of a function that was put into the graph as a whole."""
    written: dict[int, int] = {}
    for place, node in enumerate(graph.nodes):
        written |= {_memory(target): place for target in _targets(node) if value(target) is not None}
    for place, node in enumerate(graph.nodes):
        if value(node) is not None and _memory(node) in written:
            node.meta[_WRITTEN] = place, written[_memory(node)]


def _targets(node: fx.Node) -> list[fx.Node]:
    """What a call writes to, as its schema, its name or its options say."""
    targets: list[fx.Node] = []
    if is_operator(node.target):
        written = written_to(node.target, node.args, node.kwargs)
    elif node.op in ("call_function", "call_method"):
        named = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        named = named.removeprefix("__").removesuffix("__")
        is_named = named in _WRITES or (named.endswith("_") and named not in _NO_WRITES)
        # The first argument may be given by name; which one that is differs.
        first = node.args[:1] or [*node.kwargs.values()]
        written = [first if is_named or _is_told_to(node) else (), node.kwargs.get("out"), _statistics(node)]
        if named in _WRITES_ALL:
            written = [node.args, node.kwargs]
    else:
        return targets
    fx.map_arg(written, targets.append)
    return targets


def _is_told_to(node: fx.Node) -> bool:
    """Whether a function is given ``inplace``, by place or by name."""
    if not callable(node.target):
        return bool(node.kwargs.get("inplace"))
    try:
        given = inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments
    except (TypeError, ValueError):
        # It has none, as what is built in, or is called otherwise than it says.
        given = node.kwargs
    return bool(given.get("inplace") or node.kwargs.get("inplace"))


def _statistics(node: fx.Node) -> list[Any]:
    """What a call keeps up to date besides its result: running means and variances, and a table whose rows are renormalised."""
    if node.target in (functional.batch_norm, functional.instance_norm):
        return [argument(node, 1, "running_mean"), argument(node, 2, "running_var")]
    if node.target in (functional.embedding, functional.embedding_bag) and argument(node, 3, "max_norm") is not None:
        return [argument(node, 1, "weight")]
    return []


def is_written(node: fx.Node) -> bool:
    """Whether `mark_written` found a write to its memory."""
    return _WRITTEN in node.meta


def last_written(node: fx.Node) -> int:
    """The place in the graph of the last write to its memory, -1 where there is none."""
    return int(node.meta.get(_WRITTEN, (-1, -1))[1])


def changes_later(node: fx.Node) -> bool:
    """Whether its memory is written to behind it; the result of the last write does not change."""
    own, last = node.meta.get(_WRITTEN, (-1, -1))
    return bool(last > own)


def _memory(node: object) -> int:
    """What tells one memory from another; tensors without any of their own are taken to share it."""
    found = value(node)
    assert found is not None
    try:
        return found.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return -1


def is_transformed(graph: fx.Graph) -> bool:
    """Whether a function transform (vmap, grad) is at work in the graph: its tensors are not what they seem."""
    names = (f"{getattr(node.target, '__module__', '')}.{getattr(node.target, '__name__', '')}" for node in graph.nodes)
    return any("functorch" in name or "vmap" in name or "_add_batch_dim" in name for name in names)


def name_of(node: object) -> str:
    """What a call does, by one name for all its spellings; "" for what is no call of torch's or of Python's operators, has an
    option that is not known here, writes to memory, or whose memory is written to."""
    if not isinstance(node, fx.Node) or is_written(node):
        return ""
    if node.op == "call_method":
        name = str(node.target)
    elif node.op == "call_function":
        name = str(getattr(node.target, "__name__", ""))
        if not any(getattr(space, name, None) is node.target for space in _SPACES):
            return ""
    else:
        return ""
    name = _ALIASES.get(name, name)
    return name if _OPTIONS.get(name, frozenset()).issuperset(node.kwargs) else ""


def argument(node: fx.Node, position: int, name: str = "", default: Any = None) -> Any:
    """One argument, given by place or by name."""
    return node.args[position] if position < len(node.args) else node.kwargs.get(name, default)


def value(node: object) -> torch.Tensor | None:
    """The fake tensor of a node, None where it makes something else."""
    found = node.meta.get("example_value") if isinstance(node, fx.Node) else None
    return found if isinstance(found, torch.Tensor) else None


def values_of(arguments: Any) -> Any:
    """Arguments of a call, with what nodes make in their place."""
    return fx.map_arg(arguments, lambda node: node.meta["example_value"])


def has_sizes(node: object) -> bool:
    """Whether a node makes a tensor whose sizes depend on no data."""
    found = value(node)
    return found is not None and all(symbolic_size(size) is not None for size in found.shape)


def shape(node: object) -> tuple[Size, ...]:
    """The sizes of what a node makes; () where that is no tensor or its sizes depend on data."""
    found = value(node)
    return tuple(symbolic_size(size) for size in found.shape) if found is not None and has_sizes(node) else ()


def size_of(given: object) -> Size | None:
    """A size that is given as a number or by a node; None where it is none."""
    found = given.meta.get("example_value") if isinstance(given, fx.Node) else given
    return symbolic_size(found) if isinstance(found, (int, torch.SymInt)) and not isinstance(found, bool) else None


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
    if isinstance(given, fx.Node) and name_of(given) in CASTS and value(given) is not None and value(given).is_floating_point():  # type: ignore[union-attr]
        return number(argument(given, 0))
    return None


def is_whole_slice(index: object, size: Size) -> bool:
    """Whether a slice takes everything of a dimension of this size."""
    if not isinstance(index, slice) or index.start not in (None, 0) or index.step not in (None, 1):
        return False
    stop = None if index.stop is None else size_of(index.stop)
    at_end = isinstance(stop, int) and isinstance(size, int) and stop >= size
    return index.stop is None or stop == size or at_end


def full_index(index: object, rank: int) -> tuple[object, ...]:
    """An index with its ellipsis written out, one entry a dimension and one for each None."""
    entries = index if isinstance(index, tuple) else (index,)
    taken = sum(entry is not None and entry is not Ellipsis for entry in entries)
    missing: Sequence[object] = [slice(None)] * (rank - taken)
    if any(entry is Ellipsis for entry in entries):
        at = next(place for place, entry in enumerate(entries) if entry is Ellipsis)
        return (*entries[:at], *missing, *entries[at + 1 :])
    return (*entries, *missing)
