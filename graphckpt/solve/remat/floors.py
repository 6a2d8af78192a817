"""What is proven before anything is searched for: what each node costs once, and budgets under which some node cannot be computed.

The *cone* of v is v and all that it depends on. The steps of a schedule up to the first computation of v that belong to the cone
are a schedule of the cone, with no more live at each step. So if no schedule of one cone fits a budget, none of the whole does, in
any order and with any number of computations. A cone is tried with costs of 0, which lets the proof of
`graphckpt.solve.remat.proof` compute again what it wants to, and for a few states: at nodes with large inputs they are enough.
"""

from __future__ import annotations

import heapq

from graphckpt.solve.remat.answer import ANY, Bound
from graphckpt.solve.remat.instance import Instance, refuse_kernels
from graphckpt.solve.remat.proof import Outcome, prove
from graphckpt.solve.remat.search import Limits, Order

_CONES = 16
_STATES = 1_000


def node_bytes(instance: Instance, node: int) -> int:
    """What is live as this node is computed, at least: its inputs and its output."""
    return instance.size_bytes[node] + sum(instance.size_bytes[source] for source in instance.inputs[node])


def peak_floor(instance: Instance) -> tuple[int, int]:
    """Bytes that no schedule's peak is below, and the node that needs them for its inputs and its output.

    Raises `InstanceError` for an instance of kernels.
    """
    refuse_kernels(instance)
    largest = max(range(instance.count), key=lambda node: (node_bytes(instance, node), -node))
    return node_bytes(instance, largest), largest


def trivial_bound(instance: Instance) -> Bound:
    """Each node is computed once at least."""
    return Bound(instance.total_cost, "the cost of each node once", ANY)


def floor_refusal(instance: Instance, budget_bytes: int, seconds: float) -> Bound | None:
    """That nothing fits: one node with its inputs does not, or one of the cones of those that need most. None says nothing."""
    floor, largest = peak_floor(instance)
    if floor > budget_bytes:
        argument = (
            f"node {largest}, its inputs and its output take {floor} bytes, more than the budget of {budget_bytes}"
        )
        return Bound(None, argument, ANY)
    for node in heapq.nlargest(_CONES, range(instance.count), key=lambda node: node_bytes(instance, node)):
        proof = prove(cone(instance, node), budget_bytes, Limits(seconds), Order.FREE, None, _STATES)
        if proof.outcome is Outcome.INFEASIBLE:
            argument = (
                f"what node {node} reads cannot be brought together in {budget_bytes} bytes ({proof.states} states)"
            )
            return Bound(None, argument, ANY)
        if proof.interrupted:
            break
    return None


def cone(instance: Instance, node: int) -> Instance:
    """A node and all that it depends on, numbered as before among themselves, at no cost."""
    members, left = {node}, [node]
    while left:
        for source in instance.inputs[left.pop()]:
            if source not in members:
                members.add(source)
                left.append(source)
    order = sorted(members)
    place = {member: at for at, member in enumerate(order)}
    return Instance(
        f"{instance.name}, node {node}",
        (0,) * len(order),
        tuple(instance.size_bytes[member] for member in order),
        tuple(tuple(place[source] for source in instance.inputs[member]) for member in order),
        frozenset(place[member] for member in instance.once if member in members),
    )
