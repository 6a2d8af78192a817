"""Tells whether the code of a frame computes with tensors itself, or only calls on functions that do.

A frame that Dynamo runs eagerly still has what it calls compiled, frame by frame: a wrapper that passes arguments on, a context
manager, a comprehension keep nothing for backward. By the code alone: arithmetic of two integers counts, code in strings does not.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterable
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType

import torch
from torch.nn import functional

_NOT_OF_TENSORS = (torch.nn.Module, dict, list, tuple, set, str, int, float, FunctionType, ModuleType)
_KEEP_NOTHING = (
    *("backward", "bool", "cpu", "cuda", "data_ptr", "detach", "dim", "double", "float", "half", "int", "item", "long"),
    *("ndimension", "numel", "requires_grad_", "retain_grad", "size", "storage", "stride", "to", "tolist", "type"),
    "untyped_storage",
)
_QUESTIONS = ("is_", "get_", "set_", "register_", "__")


def _operations(owner: object, kinds: tuple[type, ...] | None = None) -> frozenset[str]:
    names = (name for name in dir(owner) if not name.startswith(_QUESTIONS) and name not in _KEEP_NOTHING)
    found = ((name, getattr(owner, name, None)) for name in names)
    return frozenset(name for name, value in found if (callable(value) if kinds is None else isinstance(value, kinds)))


_METHODS = _operations(torch.Tensor) - {name for kind in _NOT_OF_TENSORS for name in dir(kind)}
_FUNCTIONS = _operations(torch, (BuiltinFunctionType,)) | _operations(functional, (BuiltinFunctionType, FunctionType))


def computes(code: CodeType, values: Iterable[object], subject: object) -> bool:
    """Whether ``code`` computes with tensors. ``values``: what it reaches by name; ``subject``: the module it is a method of."""
    if code.co_flags & inspect.CO_GENERATOR:
        # Context managers; what a generator expression computes shows in the frame that it is written in.
        return False
    names = set(code.co_names)
    if names & _METHODS or _has_arithmetic(code):
        return True
    if names & _FUNCTIONS and any(value is torch or value is functional for value in values):
        return True
    children = subject.named_children() if isinstance(subject, torch.nn.Module) else ()
    return any(_is_layer(child) for name, child in children if name in names)


def _has_arithmetic(code: CodeType) -> bool:
    """Whether code has a binary operation that keeps a tensor for backward: not one with a constant, but for a power."""
    before = None
    for instruction in dis.get_instructions(code):
        is_power = instruction.argrepr in ("**", "**=")
        if instruction.opname == "BINARY_OP" and (is_power or before is None or before.opname != "LOAD_CONST"):
            return True
        before = instruction
    return False


def _is_layer(module: torch.nn.Module) -> bool:
    """Whether a call of a module runs kernels of torch's own eagerly, where its caller is not compiled."""
    parts = module.modules() if isinstance(module, (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict)) else (module,)
    own = (part for part in parts if type(part).__module__.startswith("torch.nn."))
    return any(next(part.parameters(recurse=False), None) is not None for part in own)
