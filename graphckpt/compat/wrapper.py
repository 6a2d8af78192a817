"""Reads the Python program that Inductor generates for one pass as a list of memory events.

What enters: the source text of a generated wrapper, the bytes of the buffers whose allocation the text does not spell out
(results of aten calls), and hints for symbolic sizes. What leaves: an `ir.program.Program`.

The text is the last word on memory: reuse, in-place updates and the place of every ``del`` are decided when it is written. A
name is bound to blocks; a block is dropped with the last name bound to it, as Python does. Read in torch 2.11 and 2.13.

Not guaranteed: memory that kernels take for themselves; that is the workspace model's, passed in as ``scratch_bytes``.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from graphckpt.errors import UnsupportedGraph
from graphckpt.ir.program import Event, Program

_ALIASING = ("reinterpret_tensor", "alloc_from_pool", "as_strided")
_ITEM_BYTES = {
    str(dtype): dtype.itemsize for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)
}


@dataclass(frozen=True, slots=True)
class BufferFacts:
    """What the text does not say. ``allocated(name)``: (buffer, bytes) of each tensor that the aten call bound to ``name`` gives:
    itself, or the elements of its tuple. ``symbols``: values of size symbols. ``scratch_bytes(name)``: workspace of that call."""

    allocated: Callable[[str], tuple[tuple[str, int], ...]]
    symbols: Mapping[str, int]
    scratch_bytes: Callable[[str], int]


@dataclass(slots=True)
class _Reader:
    """State of the walk: which blocks a name refers to, and how many names refer to a block."""

    facts: BufferFacts
    names: dict[str, tuple[int, ...]] = field(default_factory=dict)
    owners: dict[int, int] = field(default_factory=dict)
    elements: dict[str, tuple[int, ...]] = field(default_factory=dict)
    external: set[int] = field(default_factory=set)
    events: list[Event] = field(default_factory=list)
    symbols: dict[str, int] = field(default_factory=dict)
    next_block: int = 0

    def fresh(self, name: str, size_bytes: int, *, external: bool = False) -> None:
        block = self.next_block
        self.next_block += 1
        self.owners[block] = 0
        if external:
            self.external.add(block)
        elif size_bytes:
            self.events.append(Event(block, size_bytes, 0, name))
        self.bind(name, (block,))

    def call_result(self, name: str, tensors: tuple[tuple[str, int], ...]) -> None:
        """The result of an aten call: a block for each tensor of it. Elements of a tuple are dropped one by one."""
        blocks = []
        for element, size_bytes in tensors:
            self.fresh(element, size_bytes)
            blocks.append(self.names[element][0])
            if element != name:
                self.elements[element] = self.names[element]
        if blocks != list(self.names.get(name, ())):
            self.bind(name, tuple(blocks))
        for element, _ in tensors:
            if element != name:
                self.unbind(element)

    def bind(self, name: str, blocks: tuple[int, ...]) -> None:
        for block in blocks:
            self.owners[block] += 1
        self.unbind(name)
        self.names[name] = blocks

    def unbind(self, name: str) -> None:
        for block in self.names.pop(name, ()):
            self.owners[block] -= 1
            if self.owners[block] == 0:
                self.events.append(Event(block, 0, 0, name))

    def scratch(self, name: str) -> None:
        scratch_bytes = self.facts.scratch_bytes(name)
        if scratch_bytes:
            self.events.append(Event(-1, 0, scratch_bytes, name))


def read_program(source: str, facts: BufferFacts) -> Program:
    """The memory program of ``source``.

    Raises:
        UnsupportedGraph: the text has no ``call(args)`` function of the known shape.
    """
    call = _find_call(source)
    reader = _Reader(facts, symbols=dict(facts.symbols))
    inputs: list[tuple[str, int]] = []
    outputs: list[tuple[str, int]] = []
    _walk(call.body, reader, inputs, outputs)
    return Program(tuple(inputs), tuple(reader.events), tuple(outputs))


def _find_call(source: str) -> ast.FunctionDef:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == "call":
            return node
    raise UnsupportedGraph("generated wrapper", "a function call(args) was wanted, and the generated text has none")


def _walk(
    body: list[ast.stmt], reader: _Reader, inputs: list[tuple[str, int]], outputs: list[tuple[str, int]]
) -> None:
    for statement in body:
        match statement:
            case ast.With(body=inner):
                _walk(inner, reader, inputs, outputs)
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Name(id="args")):
                _bind_inputs([t.id for t in targets if isinstance(t, ast.Name)], reader, inputs)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                _assign(name, value, reader)
            case ast.Delete(targets=targets):
                for target in targets:
                    if isinstance(target, ast.Name):
                        reader.unbind(target.id)
            case ast.Expr(value=ast.Call() as kernel):
                _kernel(kernel, reader)
            case ast.Return(value=ast.Tuple(elts=elements)):
                for element in elements:
                    name, blocks = _refers_to(element, reader)
                    outputs.append((name, blocks[0] if blocks else -1))


def _bind_inputs(names: list[str], reader: _Reader, inputs: list[tuple[str, int]]) -> None:
    for name in names:
        reader.fresh(name, 0, external=True)
        inputs.append((name, reader.names[name][0]))


def _assign(name: str, value: ast.expr, reader: _Reader) -> None:
    """One ``name = value``: an allocation, another name for what is there, or a size symbol."""
    if isinstance(value, ast.Call):
        callee = ast.unparse(value.func)
        if "empty_strided" in callee:
            reader.fresh(name, _strided_bytes(value, reader.symbols))
            return
        if callee.endswith(_ALIASING):
            reader.bind(name, _refers_to(value, reader)[1])
            return
        if name.startswith(("raw_stream", "stream")) or callee.endswith((".size", ".stride")):
            return
        reader.scratch(name)
        reader.call_result(name, reader.facts.allocated(name))
        return
    if isinstance(value, (ast.Name, ast.Subscript)):
        blocks = _refers_to(value, reader)[1]
        if blocks:
            reader.bind(name, reader.elements.get(name, blocks) if isinstance(value, ast.Subscript) else blocks)
            return
    symbol = _try_number(value, reader.symbols)
    if symbol is not None:
        reader.symbols.setdefault(name, symbol)


def _kernel(kernel: ast.Call, reader: _Reader) -> None:
    """A call for its effect: it allocates nothing that lasts; an aten call may need a workspace."""
    for keyword in kernel.keywords:
        if keyword.arg == "out":
            reader.scratch(_refers_to(keyword.value, reader)[0])


def _refers_to(node: ast.expr, reader: _Reader) -> tuple[str, tuple[int, ...]]:
    """The first known name inside an expression and its blocks: views and tuple elements live where their base lives."""
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and child.id in reader.names:
            return child.id, reader.names[child.id]
    return ast.unparse(node), ()


def _strided_bytes(call: ast.Call, symbols: Mapping[str, int]) -> int:
    size = [_number(e, symbols) for e in _elements(call.args[0])]
    stride = [_number(e, symbols) for e in _elements(call.args[1])]
    if 0 in size:
        return 0
    dtype = next(a for a in [*call.args[2:], *(k.value for k in call.keywords)] if ast.unparse(a) in _ITEM_BYTES)
    return (sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1) * _ITEM_BYTES[ast.unparse(dtype)]


def _elements(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.Tuple):
        return node.elts
    raise UnsupportedGraph("generated wrapper", f"a tuple of sizes was wanted, {ast.unparse(node)} came")


def _try_number(node: ast.expr, symbols: Mapping[str, int]) -> int | None:
    try:
        return _number(node, symbols)
    except UnsupportedGraph:
        return None


def _number(node: ast.expr, symbols: Mapping[str, int]) -> int:
    """The value of a size expression: integers, symbols, + - * // and max."""
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.Name(id=name) if name in symbols:
            return symbols[name]
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _number(left, symbols), _number(right, symbols)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.FloorDiv() | ast.Div():
                    return a // b
                case ast.Pow():
                    return int(a**b)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand, symbols)
        case ast.Call(func=ast.Name(id="max"), args=args):
            return max(_number(a, symbols) for a in args)
    raise UnsupportedGraph("generated wrapper", f"a number was wanted, {ast.unparse(node)} came")
