"""Graphs as text: for fixtures, logs and bug reports. ``parse(render(graph)) == graph``, for every graph.

One line a storage, one an operation, one a list of outputs; ``#`` starts a comment line, blank lines are skipped:

    s0 64B external
    s1 1024B shared
    %0 weight = input placeholder() @fwd s0
    %1 = compute aten.mm(%0, %0) @fwd s1 flops=4096 workspace=64 pinned="random" fusible tag=save ; layers.0 a.py:12 f32[16, 16]
    forward_outputs %1
    backward_outputs

The name is left out where it is ``op`` and the number, ``flops`` and ``workspace`` (in bytes) where they are 0, and what follows
``;`` (module, source line, dtype and shape) where all of it is empty. Words with other characters than letters, digits and
``._:/-<>`` are quoted as in JSON.
Storages and operations are numbered from 0 in the order of their lines. Not checked: anything `check_graph` checks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import NoReturn

from graphckpt.errors import GraphTextError
from graphckpt.ir.graph import Graph, Op, OpKind, Origin, Phase, Storage

_PHASE_WORDS = {Phase.FORWARD: "fwd", Phase.BACKWARD: "bwd"}
_PHASES = {word: phase for phase, word in _PHASE_WORDS.items()}
_KINDS = {kind.value: kind for kind in OpKind}
_OUTPUTS = ("forward_outputs", "backward_outputs")
_NO_ORIGIN = Origin("", "", (), "")

_PLAIN = re.compile(r"[A-Za-z0-9_.:/<>-]+", re.ASCII)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_INT = re.compile(r"-?\d+", re.ASCII)


class _Line:
    """One line and how far it is read. Every method skips the blanks before what it reads."""

    def __init__(self, number: int, text: str) -> None:
        self.number = number
        self.text = text
        self.position = 0

    def accept(self, token: str) -> bool:
        """Read a token if it is there."""
        self._skip()
        there = self.text.startswith(token, self.position)
        if there:
            self.position += len(token)
        return there

    def expect(self, token: str) -> None:
        """Read a token, which must be there."""
        if not self.accept(token):
            self.fail(repr(token))

    def word(self, wanted: str) -> str:
        """Read a plain or quoted word."""
        quoted = self._match(_QUOTED)
        if quoted:
            try:
                return str(json.loads(quoted))
            except ValueError:
                self.fail(f"{wanted} quoted as in JSON", quoted)
        return self._match(_PLAIN) or self.fail(wanted)

    def choice(self, words: Collection[str]) -> str:
        """Read one of these words."""
        start = self.position
        word = self._match(_PLAIN)
        if word not in words:
            self.position = start
            self.fail(" or ".join(words) or "nothing more")
        return word

    def integer(self, wanted: str) -> int:
        """Read a whole number."""
        return int(self._match(_INT) or self.fail(wanted))

    def numbers(self, prefix: str, *, separator: str = "") -> tuple[int, ...]:
        """Read numbers with a prefix each, as many as there are; with a separator, nothing may follow a separator but one."""
        found: list[int] = []
        while self.accept(separator) if found and separator else self.peek(prefix):
            self.expect(prefix)
            found.append(self.integer(f"a number after {prefix!r}"))
        return tuple(found)

    def peek(self, prefix: str) -> bool:
        """Whether a number with this prefix comes next."""
        self._skip()
        return (
            self.text.startswith(prefix, self.position)
            and _INT.match(self.text, self.position + len(prefix)) is not None
        )

    def end(self) -> None:
        """Nothing may be left."""
        self._skip()
        if self.position < len(self.text):
            self.fail("the end of the line")

    def fail(self, wanted: str, came: str = "") -> NoReturn:
        """Raise, with what comes next for what came."""
        rest = self.text[self.position :].split()
        raise GraphTextError(self.number, wanted, came or (rest[0] if rest else "the end of the line"))

    def _match(self, pattern: re.Pattern[str]) -> str:
        self._skip()
        match = pattern.match(self.text, self.position)
        if match is None:
            return ""
        self.position = match.end()
        return match[0]

    def _skip(self) -> None:
        while self.position < len(self.text) and self.text[self.position].isspace():
            self.position += 1


def render(graph: Graph) -> str:
    """The text of a graph, ending in a newline."""
    lines = [
        f"s{index} {storage.size_bytes}B{' external' if storage.external else ''}{' shared' if storage.shared else ''}"
        for index, storage in enumerate(graph.storages)
    ]
    lines.extend(_render_op(index, op) for index, op in enumerate(graph.ops))
    lines.append(" ".join(["forward_outputs", *(f"%{index}" for index in graph.forward_outputs)]))
    lines.append(" ".join(["backward_outputs", *(f"%{index}" for index in graph.backward_outputs)]))
    return "\n".join(lines) + "\n"


def parse(text: str) -> Graph:
    """The graph of a text. Raises `GraphTextError` saying the line, what was wanted and what came."""
    storages: list[Storage] = []
    ops: list[Op] = []
    outputs: dict[str, tuple[int, ...]] = {}
    lines = text.split("\n")
    for number, content in enumerate(lines, start=1):
        line = _Line(number, content.strip())
        if not line.text or line.text.startswith("#"):
            continue
        if line.text.startswith("s"):
            storages.append(_parse_storage(line, len(storages)))
        elif line.text.startswith("%"):
            ops.append(_parse_op(line, len(ops)))
        else:
            word = line.choice([word for word in _OUTPUTS if word not in outputs])
            outputs[word] = line.numbers("%")
        line.end()
    for word in _OUTPUTS:
        if word not in outputs:
            raise GraphTextError(len(lines), f"a line of {word}", "the end")
    return Graph(tuple(ops), tuple(storages), outputs["forward_outputs"], outputs["backward_outputs"])


def _render_op(index: int, op: Op) -> str:
    name = "" if op.name == f"op{index}" else f" {_word(op.name)}"
    inputs = ", ".join(f"%{source}" for source in op.inputs)
    parts = [f"%{index}{name} = {op.kind.value} {_word(op.target)}({inputs}) @{_PHASE_WORDS[op.phase]}"]
    parts.extend(f"s{storage}" for storage in op.storages)
    if op.flops:
        parts.append(f"flops={op.flops}")
    if op.workspace_bytes:
        parts.append(f"workspace={op.workspace_bytes}")
    if op.pinned:
        parts.append(f"pinned={json.dumps(op.pinned)}")
    if op.fusible:
        parts.append("fusible")
    if op.tag:
        parts.append(f"tag={_word(op.tag)}")
    if op.origin != _NO_ORIGIN:
        origin = op.origin
        shape = ", ".join(str(size) for size in origin.shape)
        parts.append(f"; {_word(origin.module)} {_word(origin.source)} {_word(origin.dtype)}[{shape}]")
    return " ".join(parts)


def _word(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _parse_storage(line: _Line, index: int) -> Storage:
    line.expect(f"s{index} ")
    size_bytes = line.integer("a size in bytes")
    line.expect("B")
    return Storage(size_bytes, line.accept("external"), line.accept("shared"))


def _parse_op(line: _Line, index: int) -> Op:
    line.expect(f"%{index} ")
    name = f"op{index}"
    if not line.accept("="):
        name = line.word("a name or '='")
        line.expect("=")
    kind = _KINDS[line.choice(_KINDS)]
    target = line.word("a target")
    line.expect("(")
    inputs = line.numbers("%", separator=",")
    line.expect(")")
    line.expect("@")
    phase = _PHASES[line.choice(_PHASES)]
    storages = line.numbers("s")
    return Op(
        name=name,
        target=target,
        kind=kind,
        phase=phase,
        inputs=inputs,
        storages=storages,
        flops=line.integer("a number of flops") if line.accept("flops=") else 0,
        workspace_bytes=line.integer("a size in bytes") if line.accept("workspace=") else 0,
        pinned=line.word("a reason") if line.accept("pinned=") else "",
        fusible=line.accept("fusible"),
        tag=line.word("a tag") if line.accept("tag=") else "",
        origin=_parse_origin(line) if line.accept(";") else _NO_ORIGIN,
    )


def _parse_origin(line: _Line) -> Origin:
    module = line.word("a module path")
    source = line.word("a source line")
    dtype = line.word("a dtype")
    line.expect("[")
    shape = line.numbers("", separator=",")
    line.expect("]")
    return Origin(module, source, shape, dtype)
