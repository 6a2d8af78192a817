"""What no schedule can beat: a search backwards over sets of live values, in C++ (``csrc/remat_states.cpp``, ``remat_cover.cpp``).

**States.** Walk a legal schedule from its end. Behind the walk lie steps that are decided; the state is (M, L): the nodes M whose
first computation is still to come (going backwards), and the values L that are live there because steps behind read them.
Taking one more step x off the end of what is left

    needs     size(L + x + inputs(x)) <= B         leads to    L' = L - x + inputs(x)
    M' = M - x at no cost, if x is computed here for the first time: no reader of x is in M (fixed order: x is the largest of M)
    M' = M at the cost of x, if it is computed again here: x must be in L, for nobody would compute what is not read

from (all nodes, {}) to ({}, {}). Every schedule within the budget whose repeats are all read gives such a walk, and every walk
a schedule, so the cheapest walk is the optimum over *all* schedules: any order, any number of computations. If no walk arrives, no
schedule fits.

**Pruned** by exchange arguments that keep an optimal walk: (1) a first computation whose inputs add no more bytes than x frees, and
that fits, is taken at once and alone; (2) computing x again where its inputs add no more than x frees is decided at the earliest
place since x was last read, or not before it is read again; of several at one place, readers come before what they read.

**Bounded** from below by `remat_cover.cpp`: at the first computation of v every value that v depends on exists; those needed later
are kept over v or computed again, so they are a knapsack with the room that v and its inputs leave. A* takes the largest bound
over all v. What has been proven when time or memory ends is the smallest sum of cost and bound among the open states.

The walk over sets is the pebble game turned round (Sethi, "Complete register allocation problems", 1975, shows how hard it is);
that it closes graphs of hundreds of nodes is because in a forward/backward graph few sets fit. Not guaranteed: that it ends. Costs
and sizes are whole, so bounds are rounded up.
"""

from __future__ import annotations

import ctypes
from enum import Enum
from typing import NamedTuple

from graphckpt.core import Status, address_of
from graphckpt.solve.remat.core import Handed, Options, ProofResult, Watch
from graphckpt.solve.remat.instance import Instance, refuse_kernels
from graphckpt.solve.remat.search import Goal, Limits, Order
from graphckpt.solve.remat.search import Progress as Report

# Some hundred bytes each for a hundred nodes, three hundred for five hundred: half a gigabyte and up.
MOST_STATES = 4_000_000
# The proof keeps which node depends on which: a square of bits.
MOST_NODES = 6_000


class Outcome(Enum):
    """How a proof ended."""

    FOUND = 0  # the schedule is optimal
    NONE_CHEAPER = 1  # no schedule costs less than the plan to beat
    INFEASIBLE = 2  # no schedule fits
    STOPPED = 3


class Proof(NamedTuple):
    """``lower_bound``: no schedule within the budget costs less. ``schedule``: an optimal one, if `Outcome.FOUND` and it has no
    more steps than `Instance.capacity`."""

    outcome: Outcome
    lower_bound: int
    schedule: tuple[int, ...]
    states: int
    interrupted: bool


def prove(
    instance: Instance,
    budget_bytes: int,
    limits: Limits,
    order: Order = Order.FREE,
    cost_to_beat: int | None = None,
    most_states: int = MOST_STATES,
) -> Proof:
    """Search for a schedule cheaper than ``cost_to_beat`` (any, if None) until there is none, or time or states end.

    Of ``limits`` the seconds and the watch count. The same on every machine unless time ends it. Optimal over any number of
    computations a node, in the order that is asked for. Above `MOST_NODES` nodes it does not begin. Raises `InstanceError` for
    an instance of kernels, which may take less than their inputs and outputs.
    """
    refuse_kernels(instance)
    if instance.count > MOST_NODES:
        return Proof(Outcome.STOPPED, instance.total_cost, (), 0, False)
    handed = Handed(instance)

    def report(seconds: float, states: int, _cost: int, _peak_bytes: int) -> bool:
        return limits.watch is not None and limits.watch(Report(seconds, states, None, None))

    watch = Watch(report)
    options = Options(
        Goal.CHEAPEST.value,
        order is Order.FIXED,
        budget_bytes,
        0,
        0,
        limits.seconds,
        -1 if cost_to_beat is None else cost_to_beat,
        None,
        0,
        watch.callback,
        None,
    )
    result = ProofResult()
    with watch:
        status = handed.library.graphckpt_remat_prove(
            ctypes.byref(handed.arrays),
            ctypes.byref(options),
            most_states,
            address_of(handed.steps),
            len(handed.steps),
            ctypes.byref(result),
        )
    if status == Status.OUT_OF_MEMORY:
        raise MemoryError("the proof")
    is_there = result.count <= len(handed.steps)
    return Proof(
        outcome=Outcome(result.outcome),
        lower_bound=instance.total_cost + result.extra_cost,
        schedule=handed.out(result.count) if is_there else (),
        states=result.states,
        interrupted=watch.interrupted,
    )
