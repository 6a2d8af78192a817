"""The description of a random training program, drawn from one integer.

A `Program` is data: layers, and how the step runs them. Everything in it has a plain default; a draw changes a few fields from
there, so that a fault points at a field. `draw` gives only programs that eager PyTorch trains, and whose gradient in eager is the
one of the values that forward read. `features` names what a program contains, in words that ``--features`` takes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Attention:
    """How an attention is written. ``fill``: by which value a masked score is replaced, or what is added to it."""

    form: str = "matmul"  # matmul, einsum, baddbmm, sdpa
    scale: str = "after"  # after, divided, query
    causal: bool = False
    window: int = 0
    padding: str = "none"  # none, some, empty (one sequence has no key)
    style: str = "fill"  # fill (masked_fill), add (a mask of numbers)
    masked: str = "minimum"  # minimum (of the dtype), infinity
    grouped: bool = False
    dropout: float = 0.0


@dataclass(frozen=True, slots=True)
class Buffer:
    """A buffer that a layer reads. ``when`` it is written: between forward and backward, between steps, or in forward."""

    size: str = "small"  # small, large (above 64 KiB)
    read: str = (
        "add"  # add (inside of tanh), derived (times a function of it), multiply, lookup (softmax over its rows)
    )
    when: str = "never"  # never, passes, steps, forward
    how: str = "in_place"  # in_place (under no_grad), data


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer, with what stands around its body."""

    kind: str = "mlp"  # mlp, attention, conv, gate
    activation: str = "gelu"  # gelu, tanh, silu
    norm: str = "layer"  # layer, rms, batch, none
    residual: bool = True
    attention: Attention = Attention()
    dropout: float = 0.0
    drop_path: float = 0.0
    roll: int = 0  # by how many places the sequence is shifted around the body
    buffer: Buffer | None = None
    in_place: str = "none"  # none, mul, add, masked_fill
    stop: str = "none"  # none, detach, no_grad
    checkpoint: str = "none"  # none, reentrant, non_reentrant
    masked_assignment: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """A model and its training step. Lengths: of the first and of the second step."""

    layers: tuple[Layer, ...] = (Layer(),)
    batch: int = 2
    lengths: tuple[int, int] = (24, 24)
    width: int = 16
    embedding: bool = False
    loss_inside: bool = True
    dtype: str = "float64"  # float64, float32, bfloat16 (autocast)
    dynamic: str = "static"  # static, automatic (dynamic=None), yes (dynamic=True)
    around: str = "none"  # a checkpoint around the compiled model: none, reentrant, non_reentrant
    saved_hooks: str = "none"  # none, clone, save_on_cpu
    hooks: str = "none"  # none, parameter (of gradients), optimizer (in backward)
    micro_batches: int = 1
    calls: int = 1
    frozen: bool = False

    @property
    def dropout(self) -> bool:
        """Whether masks are Inductor's or the attention operator's, so that eager draws others."""
        return any(layer.dropout or layer.attention.dropout for layer in self.layers)

    @property
    def random(self) -> bool:
        """Whether anything is drawn."""
        return self.dropout or any(layer.drop_path for layer in self.layers)

    @property
    def differentiable_input(self) -> bool:
        """Whether the input needs a gradient: without one, a reentrant checkpoint around or in the first layer has none."""
        return "reentrant" in (self.around, *(layer.checkpoint for layer in self.layers))

    @property
    def true_gradient(self) -> bool:
        """Whether the gradient is the derivative of the step's loss, so that a finite difference shows it."""
        stopped = any(layer.stop != "none" or _absorbed(layer.attention) for layer in self.layers)
        carried = any(layer.buffer is not None and layer.buffer.when == "forward" for layer in self.layers)
        several = self.micro_batches * self.calls > 1
        return not (stopped or (carried and several) or self.hooks != "none" or self.dtype != "float64")

    @property
    def peak_is_one_graphs(self) -> bool:
        """Whether the peak of the step is that of one graph, if the model is one: nothing else allocates or is held meanwhile."""
        alone = self.around == self.saved_hooks == self.hooks == "none" and self.loss_inside
        return alone and self.micro_batches == self.calls == 1 and self.dynamic == "static"


def _absorbed(attention: Attention) -> bool:
    """Whether scores vanish beside the number that masks them, while their gradient does not: in rows without a key."""
    written = attention.style == "add" and attention.masked == "minimum"
    return written and (attention.padding == "empty" or (attention.window > 0 and attention.padding != "none"))


def features(program: Program) -> frozenset[str]:
    """The names of what a program contains: ``field`` or ``field:value`` for all that differs from plain layers."""
    found = {f"layers:{len(program.layers)}", f"dtype:{program.dtype}"}
    found.update(
        _differing(program, Program(layers=program.layers, dtype=program.dtype), ("batch", "width", "lengths"))
    )
    if max(program.lengths) > 64:
        found.add("long")
    for layer in program.layers:
        found.add(f"layer:{layer.kind}")
        found.update(_differing(layer, Layer(kind=layer.kind, norm=layer.norm), ("attention", "buffer", "activation")))
        found.add(f"norm:{layer.norm}")
        if layer.kind == "attention":
            found.add(f"attention:{layer.attention.form}")
            found.update(
                f"attention:{name}" for name in _differing(layer.attention, Attention(), ("form", "scale", "masked"))
            )
        if layer.buffer is not None:
            found.update(f"buffer:{name}:{value}" for name, value in asdict(layer.buffer).items())
            found.add(f"buffer:{layer.buffer.when}:{layer.buffer.how}")
    return frozenset(found)


def _differing(given: Any, plain: Any, left_out: tuple[str, ...]) -> Iterator[str]:
    for field in fields(given):
        value = getattr(given, field.name)
        if field.name not in left_out and value != getattr(plain, field.name):
            yield f"{field.name}:{value}" if isinstance(value, str) else field.name if value else f"no_{field.name}"


def from_dict(row: dict[str, Any]) -> Program:
    """The program that `dataclasses.asdict` wrote down, as it comes out of JSON."""
    layers = []
    for given in row["layers"]:
        buffer = Buffer(**given["buffer"]) if given["buffer"] else None
        layers.append(Layer(**{**given, "attention": Attention(**given["attention"]), "buffer": buffer}))
    return Program(**{**row, "layers": tuple(layers), "lengths": tuple(row["lengths"])})


def draw(seed: int) -> Program:
    """The program of a seed: one to four layers, and up to three rarer things."""
    rng = random.Random(seed)
    count = rng.choices((1, 2, 3, 4), (12, 6, 2, 1))[0]
    length = rng.choice((24, 40))
    program = Program(
        layers=tuple(_layer(rng) for _ in range(count)),
        batch=rng.choice((2, 3)),
        lengths=(length, length),
        width=rng.choice((16, 16, 32)),
        embedding=rng.random() < 0.2,
    )
    for _ in range(rng.choices((0, 1, 2, 3), (1, 4, 4, 2))[0]):
        change = rng.choices(list(_CHANGES), list(_CHANGES.values()))[0]
        program = change(rng, program)
    return _trainable(program)


def _layer(rng: random.Random) -> Layer:
    kind = rng.choices(("mlp", "attention", "conv", "gate"), (5, 8, 2, 2))[0]
    return Layer(
        kind=kind,
        activation=rng.choice(("gelu", "tanh", "silu")),
        norm=rng.choices(("layer", "rms", "batch", "none"), (4, 2, 1, 1))[0],
        residual=rng.random() < 0.8,
        attention=_attention(rng) if kind == "attention" else Attention(),
    )


def _attention(rng: random.Random) -> Attention:
    causal = rng.random() < 0.5
    return Attention(
        form=rng.choices(("matmul", "einsum", "baddbmm", "sdpa"), (4, 2, 2, 2))[0],
        scale=rng.choice(("after", "divided", "query")),
        causal=causal,
        window=rng.choice((0, 8)) if causal else 0,
        padding=rng.choices(("none", "some", "empty"), (4, 2, 1))[0],
        style=rng.choice(("fill", "add")),
        masked=rng.choice(("minimum", "infinity")),
        grouped=rng.random() < 0.25,
    )


def _with(rng: random.Random, program: Program, **changes: Any) -> Program:
    """``program`` with ``changes`` made in one of its layers."""
    layers = list(program.layers)
    at = rng.randrange(len(layers))
    layers[at] = replace(layers[at], **changes)
    return replace(program, layers=tuple(layers))


def _drop_weights(rng: random.Random, program: Program) -> Program:
    rate = rng.choice((0.1, 0.3, 0.5))
    attention = replace(_attention(rng), dropout=rate)
    return _with(rng, program, kind="attention", attention=attention)


def _drop_hidden(rng: random.Random, program: Program) -> Program:
    return _with(rng, program, dropout=rng.choice((0.1, 0.3, 0.5)))


def _drop_path(rng: random.Random, program: Program) -> Program:
    """Stochastic depth: rates that differ from layer to layer, and several draws, for one cannot be out of order."""
    layers = (program.layers * 4)[: rng.choice((2, 4, 4))]
    roll = rng.choice((0, 4, 4))
    layers = tuple(
        replace(layer, drop_path=round(0.2 * (1 + index), 1) % 0.7, residual=True, roll=roll * (index % 2))
        for index, layer in enumerate(layers)
    )
    return replace(program, layers=layers)


def _buffer(rng: random.Random, program: Program) -> Program:
    when = rng.choices(("never", "passes", "steps", "forward"), (1, 5, 2, 3))[0]
    how = rng.choice(("in_place", "data")) if when in ("passes", "steps") else "in_place"
    reads = ("add", "derived", "lookup", "multiply") if when in ("never", "steps") else ("add", "derived", "lookup")
    buffer = Buffer(rng.choices(("small", "large"), (3, 1))[0], rng.choice(reads), when, how)
    return _with(rng, program, buffer=buffer)


def _long(rng: random.Random, program: Program) -> Program:
    """Sliding windows much shorter than the sequence, with padding more often than not, in an attention that is fused."""
    attention = replace(_attention(rng), causal=True, grouped=False, window=rng.choice((8, 16)))
    attention = replace(attention, padding=rng.choice(("none", "some", "empty", "some")))
    length = rng.choice((256, 320))
    return replace(_with(rng, program, kind="attention", attention=attention), lengths=(length, length))


def _dtype(rng: random.Random, program: Program) -> Program:
    length = rng.choice((40, 256))
    return replace(program, dtype=rng.choice(("float32", "bfloat16", "bfloat16")), lengths=(length, length))


def _dynamic(rng: random.Random, program: Program) -> Program:
    length = program.lengths[0]
    return replace(program, dynamic=rng.choice(("automatic", "yes")), lengths=(length, length - rng.choice((5, 8))))


_CHANGES: dict[Callable[[random.Random, Program], Program], int] = {
    _drop_weights: 4,
    _drop_hidden: 3,
    _drop_path: 3,
    _buffer: 6,
    _long: 3,
    _dtype: 4,
    _dynamic: 3,
    lambda rng, p: _with(rng, p, in_place=rng.choice(("mul", "add", "masked_fill"))): 3,
    lambda rng, p: _with(rng, p, stop=rng.choice(("detach", "no_grad"))): 2,
    lambda rng, p: _with(rng, p, checkpoint=rng.choice(("reentrant", "non_reentrant", "non_reentrant"))): 3,
    lambda rng, p: _with(rng, p, masked_assignment=True): 1,
    lambda rng, p: replace(p, around=rng.choice(("reentrant", "non_reentrant"))): 4,
    lambda rng, p: replace(p, saved_hooks=rng.choice(("clone", "save_on_cpu"))): 2,
    lambda rng, p: replace(p, hooks=rng.choice(("parameter", "optimizer"))): 3,
    lambda rng, p: replace(p, micro_batches=2): 2,
    lambda rng, p: replace(p, calls=2): 2,
    lambda rng, p: replace(p, frozen=True): 2,
    lambda rng, p: replace(p, loss_inside=False): 2,
}


def _trainable(program: Program) -> Program:
    """``program`` without what eager PyTorch refuses, or computes other gradients for than those of what forward read."""
    if program.around == "reentrant":
        # Numbers of words require no gradient.
        program = replace(program, embedding=False)
    if program.random and program.dtype == "bfloat16":
        program = replace(program, dtype="float64")
    layers = []
    empty = any(layer.attention.padding == "empty" for layer in program.layers)
    for layer in program.layers:
        attention = layer.attention
        if attention.padding != "none" and (attention.window or empty):
            # The softmax of a row of infinities is no number. Padding is the same in all layers.
            layer = replace(layer, attention=replace(attention, masked="minimum"))
        if layer.checkpoint != "none" or program.around != "none":
            # A recomputation in eager reads what was written meanwhile, and writes statistics twice.
            norm = "layer" if layer.norm == "batch" and layer.checkpoint != "none" else layer.norm
            buffer = layer.buffer if layer.buffer is None or layer.buffer.when in ("never", "steps") else None
            layer = replace(layer, norm=norm, buffer=buffer)
        if program.dropout and layer.stop != "none":
            # Masks that eager does not draw are judged by a finite difference, which sees through it.
            layer = replace(layer, stop="none")
        layers.append(layer)
    return replace(program, layers=tuple(layers))
