"""Inputs of a graph that are written to between its forward and its backward.

A plan reads inputs again in backward where eager would have kept a result. Small inputs without a gradient are copied in forward
(`graphckpt.rewrite.schedule`). For all others autograd checks versions; `Watched` says which input it was and what to do. What a
version does not show, a write through ``.data``, is seen only with ``verify=True``, by the content of the inputs.

Not guaranteed: inputs whose Python object is gone when backward runs. Under saved-tensor hooks nothing is checked, as autograd
checks nothing there: what they hand back is theirs (``checkpoint`` runs forward again, ``save_on_cpu`` has copied).
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import fx

from graphckpt.compat.aot import source_name
from graphckpt.compat.contents import checksum
from graphckpt.compat.isolation import has_hooks
from graphckpt.errors import InputChanged

Compiled = Callable[..., object]
_KEY = re.compile(r"\['([^']+)'\]|\.([A-Za-z]\w*)|\[(\d+)\]")
_HIDDEN = ("_modules", "_parameters", "_buffers")
# Steps from an output back to the node of its graph: outputs that are views of others have nodes of their own.
_MOST_STEPS = 8


class _Seen(NamedTuple):
    """One input as forward read it; ``content`` is None where it is not compared."""

    tensor: weakref.ref[torch.Tensor]
    name: str
    version: int
    content: int | None


@dataclass(frozen=True, slots=True)
class Watched:
    """A compiled graph whose backward refuses inputs that changed. ``names``: of its inputs, in order; ``by_content``: compare
    what they hold as well, which reads all of it twice a step."""

    compiled: Compiled
    names: tuple[str, ...]
    by_content: bool

    def __call__(self, *args: object) -> object:
        """Run the graph; its backward raises `InputChanged` if it reads an input that was written to since."""
        if not torch.is_grad_enabled() or has_hooks():
            return self.compiled(*args)
        sources = [value.grad_fn for value in args if isinstance(value, torch.Tensor) and value.grad_fn is not None]
        outputs = self.compiled(*args)
        if (node := _node_of(outputs, sources)) is not None:
            # Behind the call: what the graph itself writes to its inputs belongs to it.
            seen, itself = tuple(self._seen(args)), weakref.ref(node)
            node.register_prehook(lambda _: _check(itself(), seen))
        return outputs

    def _seen(self, args: Sequence[object]) -> Iterator[_Seen]:
        for name, value in zip(self.names, args, strict=False):
            if isinstance(value, torch.Tensor) and not value.is_inference():
                content = checksum(value) if self.by_content else None
                yield _Seen(weakref.ref(value), name, value._version, content)


def input_names(module: fx.GraphModule) -> tuple[str, ...]:
    """The names of a Dynamo graph's inputs as a person would write them, such as ``layers.0.scale``."""
    return tuple(_spoken(source_name(node)) for node in module.graph.find_nodes(op="placeholder"))


def _spoken(source: str) -> str:
    parts = [next(filter(None, found.groups())) for found in _KEY.finditer(source)]
    # A method may call its module as it likes; what is behind that name is known by where it stands.
    inside = parts[1:] if len(parts) > 1 and parts[1] in _HIDDEN else parts
    return ".".join(part for part in inside if part not in (*_HIDDEN, "self")) or source


def _node_of(outputs: object, sources: Sequence[object]) -> Any:
    """The autograd node of the call that gave these outputs; None where nothing needs a gradient.

    ``sources``: the nodes that its inputs come from. Behind them are other calls, and an output may be a view of an input.
    """
    flat = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    nodes: list[Any] = [out.grad_fn for out in flat if isinstance(out, torch.Tensor) and out.grad_fn is not None]
    for _ in range(_MOST_STEPS):
        nodes = [node for node in nodes if not any(node is source for source in sources)]
        for node in nodes:
            if isinstance(node, torch.autograd.function.BackwardCFunction):
                return node
        nodes = [source for node in nodes for source, _ in node.next_functions if source is not None]
    return None


def _check(node: Any, seen: Sequence[_Seen]) -> None:
    """Raise `InputChanged` if an input was written to that the backward of ``node`` reads."""
    changed = [entry for entry in seen if _is_changed(entry)]
    if node is None or not changed:
        return
    try:
        saved = node.saved_tensors
    except RuntimeError as error:
        # Autograd refuses what it saved under another version, and does not say which input that was.
        raise _error(changed) from error
    addresses = {tensor.untyped_storage().data_ptr() for tensor in saved if isinstance(tensor, torch.Tensor)}
    read = [entry for entry in changed if entry.content is not None and _address(entry) in addresses]
    if read:
        raise _error(read)


def _is_changed(entry: _Seen) -> bool:
    tensor = entry.tensor()
    if tensor is None:
        return False
    return tensor._version != entry.version or (entry.content is not None and checksum(tensor) != entry.content)


def _address(entry: _Seen) -> int:
    tensor = entry.tensor()
    return -1 if tensor is None else tensor.untyped_storage().data_ptr()


def _error(changed: Sequence[_Seen]) -> InputChanged:
    return InputChanged(tuple(entry.name for entry in changed))
