"""Reads the Python program that Inductor generates for one pass as a list of memory events.

What enters: the source text of a generated wrapper, the bytes of the buffers whose allocation the text does not spell out
(results of aten calls), and hints for symbolic sizes. What leaves: an `ir.program.Program`.

The text is the last word on memory: reuse, in-place updates and the place of every ``del`` are decided when it is written. A
name is bound to blocks; a block is dropped with the last name bound to it, as Python does. A statement that `wrapper_text` does not
know to leave memory alone is refused: skipped, it would make the peak wrong. Read in torch 2.11, 2.13, 2.14 and 2.15.

Not guaranteed: memory that kernels take for themselves; that is the workspace model's, passed in as ``scratch_bytes``.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from graphckpt.compat import wrapper_text
from graphckpt.compat.fake import extent
from graphckpt.errors import UnsupportedGraph
from graphckpt.ir.program import Event, Program

_ITEM_BYTES = {
    str(dtype): dtype.itemsize for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)
}


@dataclass(frozen=True, slots=True)
class BufferFacts:
    """What the text does not say. ``allocated(name)``: (buffer, bytes) of each tensor that the aten call bound to ``name`` gives:
    itself, or the elements of its tuple; none where the graph has no such name. ``symbols``: values of size symbols.
    ``scratch_bytes(name)``: what that call holds beside its results while it runs; ``writer_scratch_bytes(name)``: what a call
    that writes to the buffer ``name`` holds."""

    allocated: Callable[[str], tuple[tuple[str, int], ...]]
    symbols: Mapping[str, int]
    scratch_bytes: Callable[[str], int]
    writer_scratch_bytes: Callable[[str], int] = lambda name: 0


@dataclass(slots=True)
class _Reader:
    """State of the walk: which blocks a name refers to (none: a number, a stream), and how many names refer to a block.
    ``kernels`` are the generated ones: they are given all their memory."""

    facts: BufferFacts
    kernels: frozenset[str]
    names: dict[str, tuple[int, ...]] = field(default_factory=dict)
    owners: dict[int, int] = field(default_factory=dict)
    elements: dict[str, tuple[int, ...]] = field(default_factory=dict)
    external: set[int] = field(default_factory=set)
    events: list[Event] = field(default_factory=list)
    symbols: dict[str, int] = field(default_factory=dict)
    inputs: list[tuple[str, int]] = field(default_factory=list)
    outputs: list[tuple[str, int]] = field(default_factory=list)
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
        if tensors and all(element != name and element in self.names for element, _ in tensors):
            # Written into buffers that were there before.
            self.bind(name, tuple(block for element, _ in tensors for block in self.names[element]))
            return
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

    def scratch(self, name: str, scratch_bytes: int) -> None:
        if scratch_bytes:
            self.events.append(Event(-1, 0, scratch_bytes, name))


def read_program(source: str, facts: BufferFacts) -> Program:
    """The memory program of ``source``.

    Raises:
        UnsupportedGraph: the text has no ``call(args)`` function, or a statement whose memory is not known.
    """
    tree = ast.parse(source)
    reader = _Reader(facts, wrapper_text.kernel_names(tree), symbols=dict(facts.symbols))
    _walk(_find_call(tree).body, reader)
    return Program(tuple(reader.inputs), tuple(reader.events), tuple(reader.outputs))


def _find_call(tree: ast.Module) -> ast.FunctionDef:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "call":
            return node
    raise UnsupportedGraph("generated wrapper", "a function call(args) was wanted, and the generated text has none")


def _walk(body: list[ast.stmt], reader: _Reader) -> None:
    for statement in body:
        if not _read(statement, reader):
            text = ast.unparse(statement).partition("\n")[0]
            raise UnsupportedGraph("generated wrapper", f"a statement whose memory is known was wanted, {text!r} came")


def _read(statement: ast.stmt, reader: _Reader) -> bool:
    """Take one statement in; false if what it does to memory is not known."""
    match statement:
        case ast.With(items=items, body=inner) if all(map(wrapper_text.is_guard, items)):
            _walk(inner, reader)
        case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Name(id="args")):
            for name in map(ast.unparse, targets):
                reader.fresh(name, 0, external=True)
                reader.inputs.append((name, reader.names[name][0]))
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return _assign(name, value, reader)
        case ast.Delete(targets=targets) if all(ast.unparse(target) in reader.names for target in targets):
            for target in targets:
                reader.unbind(ast.unparse(target))
        case ast.Expr(value=ast.Call() as call):
            return _effect(call, reader)
        case ast.Return(value=ast.Tuple(elts=elements)):
            for element in elements:
                name = wrapper_text.viewed(element) or ast.unparse(element)
                reader.outputs.append((name, next(iter(reader.names.get(name, ())), -1)))
            return all(wrapper_text.viewed(element) or wrapper_text.is_plain(element, reader.names) for element in elements)
        case ast.If(test=test, body=[ast.Raise()], orelse=[]) | ast.Assert(test=test):
            return wrapper_text.is_plain(test, reader.names)
        case ast.Expr(value=ast.Constant()) | ast.Import() | ast.ImportFrom() | ast.Pass():
            return True
        case _:
            return False
    return True


def _assign(name: str, value: ast.expr, reader: _Reader) -> bool:
    """One ``name = value``: another name for what is there, an allocation, the result of a kernel, or a number; false: none."""
    base = wrapper_text.viewed(value)
    allocation = wrapper_text.allocation(value)
    if reader.names.get(base) and not wrapper_text.is_symbol(name):
        blocks = reader.names[base]
        reader.bind(name, reader.elements.get(name, blocks) if isinstance(value, ast.Subscript) else blocks)
    elif allocation is not None:
        reader.fresh(name, _strided_bytes(allocation, reader.symbols))
    elif not base and isinstance(value, ast.Call) and wrapper_text.is_kernel(value, reader.names):
        tensors = reader.facts.allocated(name)
        reader.call_result(name, tensors)
        reader.scratch(name, reader.facts.scratch_bytes(name))
        return bool(tensors) and wrapper_text.arguments_known(value, reader.names)
    elif base or wrapper_text.is_plain(value, reader.names):
        reader.bind(name, ())
        symbol = _try_number(value, reader.symbols)
        if symbol is not None:
            reader.symbols.setdefault(name, symbol)
    else:
        return False
    return True


def _effect(call: ast.Call, reader: _Reader) -> bool:
    """A call for its effect: it allocates nothing that lasts, but may need a workspace; false: it is not known to."""
    into = next((wrapper_text.viewed(keyword.value) for keyword in call.keywords if keyword.arg == "out"), "")
    if into:
        reader.scratch(into, reader.facts.scratch_bytes(into))
    elif call.args and (written := wrapper_text.viewed(call.args[0])):
        reader.scratch(written, reader.facts.writer_scratch_bytes(written))
    known = wrapper_text.is_effect(call, reader.names, reader.kernels)
    return known and wrapper_text.arguments_known(call, reader.names)


def _strided_bytes(call: ast.Call, symbols: Mapping[str, int]) -> int:
    size = [_number(e, symbols) for e in _elements(call.args[0])]
    stride = [_number(e, symbols) for e in _elements(call.args[1])]
    if 0 in size:
        return 0
    words = [ast.unparse(argument) for argument in (*call.args[2:], *(keyword.value for keyword in call.keywords))]
    item_bytes = next((_ITEM_BYTES[word] for word in words if word in _ITEM_BYTES), None)
    if item_bytes is None:
        raise UnsupportedGraph("generated wrapper", f"an allocation with a dtype was wanted, {ast.unparse(call)!r} came")
    return extent(size, stride) * item_bytes


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
