"""Chains of layers in text form, small enough to plan by hand."""

from __future__ import annotations

from typing import NamedTuple

from graphckpt.ir.graph import Graph, Phase
from graphckpt.ir.plan import Plan
from graphckpt.ir.text import parse


class Chain(NamedTuple):
    """A chain, the plan that computes everything once, and the numbers of its operations by name."""

    graph: Graph
    keep: Plan
    number: dict[str, int]

    def numbers(self, *names: str) -> frozenset[int]:
        """The operations of these names."""
        return frozenset(self.number[name] for name in names)

    def names(self, steps: tuple[int, ...]) -> list[str]:
        """What steps of a plan are called."""
        return [self.graph.ops[step].name for step in steps]


def chain(layers: int) -> Chain:
    """x -> h0 -> a0 -> h1 -> a1 ... -> loss, and t -> s -> gN -> ... -> g0, with the gradients w0, w1, ... of the weights.

                      mask (of x alone) is read by every a
        x --mm--> h0 --act--> a0 --mm--> h1 --act--> a1 ... --square--> loss
                  |           |          |           |
        w0 <-mm-- g0 <--------+---mm---- g1 <--------+--- ... --------- s <--- t

    g reads h and mask, w reads the a before it, s reads the last a. A value has 64 bytes, h 128, the loss 4.
    """
    lines = ["%0 x = input placeholder() @fwd s0", "%1 mask = compute lt(%0) @fwd s1 fusible"]
    storages = ["s0 64B external", "s1 64B"]
    number = {"x": 0, "mask": 1}

    def add(name: str, text: str, size_bytes: int, module: str = "") -> None:
        number[name] = len(lines)
        body, _, flags = text.partition(" @")
        sources = ", ".join(f"%{number[word]}" for word in body.split()[1:])
        phase, _, rest = flags.partition(" ")
        where = f' ; {module} "" f32[]' if module else ""
        kind = "tangent" if name == "t" else "compute"
        target = body.split()[0]
        lines.append(f"%{len(lines)} {name} = {kind} {target}({sources}) @{phase} s{len(storages)} {rest}{where}")
        storages.append(f"s{len(storages)} {size_bytes}B")

    before = "x"
    for layer in range(layers):
        add(f"h{layer}", f"mm {before} @fwd flops=10", 128, f"layers.{layer}")
        add(f"a{layer}", f"act h{layer} mask @fwd fusible", 64, f"layers.{layer}")
        before = f"a{layer}"
    add("loss", f"square {before} @fwd fusible", 4)
    add("t", "placeholder @bwd", 4)
    add("s", f"times t {before} @bwd fusible", 64)
    gradient = "s"
    for layer in range(layers - 1, -1, -1):
        add(f"g{layer}", f"back {gradient} h{layer} mask @bwd fusible", 64, f"layers.{layer}")
        add(f"w{layer}", f"mm g{layer} {f'a{layer - 1}' if layer else 'x'} @bwd flops=10", 64, f"layers.{layer}")
        gradient = f"g{layer}"
    outputs = " ".join(f"%{number[f'w{layer}']}" for layer in range(layers))
    text = "\n".join([*storages, *lines, f"forward_outputs %{number['loss']}", f"backward_outputs {outputs}"])
    graph = parse(text)
    steps = [index for index, op in enumerate(graph.ops) if op.kind.value == "compute"]
    late = [index for index in steps if graph.ops[index].phase is Phase.BACKWARD]
    return Chain(graph, Plan("keep", tuple(i for i in steps if i not in late), tuple(late)), number)


def pinned_view() -> Graph:
    """x -> view (runs only in forward) -> y, and g from the view and the tangent; a view cannot be saved."""
    return parse("""
        s0 8B external
        s1 8B
        s2 8B
        s3 8B
        %0 x = input placeholder() @fwd s0
        %1 view = alias aten.view(%0) @fwd s0 pinned="runs only in forward"
        %2 y = compute mm(%1) @fwd s1
        %3 t = tangent placeholder() @bwd s2
        %4 g = compute mul(%3, %1) @bwd s3
        forward_outputs %2
        backward_outputs %4
    """)
