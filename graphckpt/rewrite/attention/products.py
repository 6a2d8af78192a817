"""Products of two matrices, however they are written, as rows of the left times rows of the right: left @ right^T."""

from __future__ import annotations

from typing import NamedTuple

from torch import fx

from graphckpt.rewrite.attention.calls import argument, name_of, number, shape


class Operand(NamedTuple):
    """A node and the views of it that are still to be made: (method, arguments), first to last."""

    node: fx.Node
    steps: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def then(self, method: str, *arguments: int) -> Operand:
        """One more view; a transposition undoes the one before it."""
        step = (method, arguments)
        if method == "transpose" and self.steps and self.steps[-1] == step:
            return Operand(self.node, self.steps[:-1])
        return Operand(self.node, (*self.steps, step))


class Product(NamedTuple):
    """``factor * left @ right^T + added_factor * added``: ``left`` (..., rows, n), ``right`` (..., columns, n)."""

    node: fx.Node
    left: Operand
    right: Operand
    factor: float = 1.0
    added: fx.Node | None = None
    added_factor: float = 1.0


def read_product(node: fx.Node) -> Product | None:
    """The product that a node computes; None where it is none of two operands of 3 or 4 dimensions."""
    name = name_of(node)
    if name == "einsum":
        return _einsum(node)
    first = 1 if name == "baddbmm" else 0
    left, right = argument(node, first, "batch1" if first else "input"), argument(node, first + 1, "batch2" if first else "other")
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return None
    if len(shape(left)) not in (3, 4) or len(shape(right)) != len(shape(left)):
        return None
    sides = Operand(left), Operand(right).then("transpose", -2, -1)
    if name != "baddbmm":
        return Product(node, *sides)
    alpha, beta = (number(node.kwargs.get(key, 1.0)) for key in ("alpha", "beta"))
    added = argument(node, 0) if node.args else None
    if alpha is None or beta is None or not isinstance(added, fx.Node):
        return None
    return Product(node, *sides, alpha, added if beta else None, beta)


def _einsum(node: fx.Node) -> Product | None:
    """``bhid,bhjd->bhij`` in any letters and any order: one letter summed, one of each side kept, the others shared."""
    equation, *operands = node.args
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    if not isinstance(equation, str) or len(operands) != 2 or "->" not in equation or "." in equation:
        return None
    inputs, result = equation.replace(" ", "").split("->")
    letters = inputs.split(",")
    if len(letters) != 2 or any(len(set(part)) != len(part) for part in (*letters, result)) or len(result) not in (3, 4):
        return None
    left, right = letters
    shared, row, column = list(result[:-2]), result[-2], result[-1]
    summed = (set(left) & set(right)) - set(result)
    if len(summed) != 1 or row not in left or column not in right or row in right or column in left:
        # The result may name the right side's row first: the left operand is then the other one.
        return None
    (inner,) = summed
    sides = []
    for operand, has, own in ((operands[0], left, row), (operands[1], right, column)):
        wanted = [*shared, own, inner]
        if not isinstance(operand, fx.Node) or sorted(wanted) != sorted(has):
            return None
        order = tuple(has.index(letter) for letter in wanted)
        side = Operand(operand)
        sides.append(side if order == tuple(range(len(order))) else side.then("permute", *order))
    return Product(node, sides[0], sides[1])
