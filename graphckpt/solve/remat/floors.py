"""What is proven without a search."""

from __future__ import annotations

from graphckpt.solve.remat.answer import ANY, Bound
from graphckpt.solve.remat.instance import Instance


def peak_floor(instance: Instance) -> tuple[int, int]:
    """Bytes that no schedule's peak is below, and the node that needs them for its inputs and its output."""
    floor, node = max(
        (instance.size_bytes[node] + sum(instance.size_bytes[source] for source in sources), -node)
        for node, sources in enumerate(instance.inputs)
    )
    return floor, -node


def trivial_bound(instance: Instance) -> Bound:
    """Each node is computed once at least."""
    return Bound(instance.total_cost, "the cost of each node once", ANY)


def floor_refusal(instance: Instance, budget_bytes: int) -> Bound | None:
    """That nothing fits, where one node alone does not."""
    floor, node = peak_floor(instance)
    if floor <= budget_bytes:
        return None
    argument = f"node {node}, its inputs and its output take {floor} bytes, more than the budget of {budget_bytes}"
    return Bound(None, argument, ANY)
