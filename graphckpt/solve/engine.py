"""The timeline of `graphckpt.ir.peak` by the C++ core, fast enough to be asked thousands of times.

A `Graph` that `check_graph` accepts enters and is handed over once, as flat arrays; an `Engine` then answers plan after plan. There
is no fallback to the Python reference: a core that is not built is `CompilerMissing`. An `Engine` may be used from several threads.
"""

from __future__ import annotations

import ctypes
import itertools
import weakref
from array import array
from collections.abc import Iterable, Sequence

from graphckpt.core import GraphArrays, Peak, Status, address_of, load_library
from graphckpt.errors import PlanError
from graphckpt.ir.graph import Graph, OpKind
from graphckpt.ir.peak import Timeline
from graphckpt.ir.plan import Plan
from graphckpt.solve.backward import Question, runs_once_error

_KINDS = {OpKind.INPUT: 0, OpKind.TANGENT: 1, OpKind.COMPUTE: 2, OpKind.ALIAS: 3}


class Engine:
    """One graph, handed to the core. Raises `CompilerMissing` if the core is not there."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._library = load_library()
        self._handle = _hand_over(self._library, graph)
        weakref.finalize(self, self._library.graphckpt_graph_free, self._handle)

    def timeline(self, plan: Plan, materialised: Sequence[bool] | None = None) -> Timeline:
        """What `graphckpt.ir.peak.timeline` gives for the same arguments, errors included."""
        op_count = len(self.graph.ops)
        if materialised is not None and len(materialised) != op_count:
            raise PlanError(f"materialised: wanted {op_count} entries, one an operation, came {len(materialised)}")
        flags = None if materialised is None else array("B", [bool(entry) for entry in materialised])
        forward, backward = _steps(plan.forward), _steps(plan.backward)
        live = array("q", bytes(8 * (len(forward) + len(backward))))
        held = array("B", bytes(op_count))
        peak = Peak()
        status = self._library.graphckpt_timeline(
            self._handle,
            None if flags is None else address_of(flags),
            address_of(forward),
            len(forward),
            address_of(backward),
            len(backward),
            address_of(live),
            address_of(held),
            ctypes.byref(peak),
        )
        if status != Status.OK:
            self._raise(status, plan, int(peak.culprit))
        return Timeline(
            live_bytes=tuple(live),
            peak_bytes=peak.peak_bytes,
            peak_step=peak.peak_step,
            forward_peak_bytes=peak.forward_peak_bytes,
            backward_peak_bytes=peak.backward_peak_bytes,
            held_at_peak=tuple(index for index, flag in enumerate(held) if flag),
        )

    def steps_on_demand(self, question: Question) -> tuple[int, ...]:
        """What `graphckpt.solve.backward.steps_on_demand` gives for the same arguments, errors included.

        Raises:
            PlanError: also if a list of the question has not one entry an operation, or a step is no operation.
        """
        op_count = len(self.graph.ops)
        rows = (question.at_hand, question.once, question.shared, question.segment)
        if any(len(row) != op_count for row in rows):
            raise PlanError(f"a backward pass: wanted {op_count} entries a list, one an operation, came {[len(r) for r in rows]}")
        at_hand, once, shared = (array("B", flags) for flags in (question.at_hand, question.once, question.shared))
        segment, backward = array("i", question.segment), _steps(tuple(question.backward))
        count, capacity = ctypes.c_int64(2 * op_count), -1
        steps = array("i")
        while count.value > capacity:
            capacity = count.value
            steps = array("i", bytes(4 * capacity))
            status = self._library.graphckpt_demand(
                self._handle,
                address_of(at_hand),
                address_of(once),
                address_of(shared),
                address_of(segment),
                question.last_segment,
                address_of(backward),
                len(backward),
                address_of(steps),
                capacity,
                ctypes.byref(count),
            )
            if status == Status.OUT_OF_MEMORY:
                raise MemoryError
            if status == Status.BAD_STEP:
                wanted, came = op_count - 1, question.backward[count.value]
                raise PlanError(f"a backward pass: wanted operations 0 to {wanted}, came {came}")
            if status == Status.RUNS_ONCE:
                raise runs_once_error(self.graph, count.value)
        return tuple(steps[: count.value])

    def _raise(self, status: int, plan: Plan, culprit: int) -> None:
        ops = self.graph.ops
        if status == Status.OUT_OF_MEMORY:
            raise MemoryError
        if status == Status.NOT_FUSIBLE:
            raise PlanError(f"{ops[culprit].name!r} (%{culprit}) is not fusible, so it must be materialised")
        index = (*plan.forward, *plan.backward)[culprit]
        if not 0 <= index < len(ops):
            raise PlanError(f"plan {plan.name!r}: wanted operations 0 to {len(ops) - 1}, came {index}")
        kind = ops[index].kind.value
        raise PlanError(
            f"plan {plan.name!r} lists {ops[index].name!r} (%{index}), but what is {kind} is never computed"
        )


def timeline(graph: Graph, plan: Plan, materialised: Sequence[bool] | None = None) -> Timeline:
    """The timeline of one plan. For many plans of one graph keep an `Engine`."""
    return Engine(graph).timeline(plan, materialised)


def _hand_over(library: ctypes.CDLL, graph: Graph) -> int:
    input_offsets, inputs = _rows(op.inputs for op in graph.ops)
    storage_offsets, op_storages = _rows(op.storages for op in graph.ops)
    kind = array("B", [_KINDS[op.kind] for op in graph.ops])
    fusible = array("B", [op.fusible for op in graph.ops])
    workspace_bytes = array("q", [op.workspace_bytes for op in graph.ops])
    storage_bytes = array("q", [storage.size_bytes for storage in graph.storages])
    external = array("B", [storage.external for storage in graph.storages])
    shared = array("B", [storage.shared for storage in graph.storages])
    forward_outputs, backward_outputs = array("i", graph.forward_outputs), array("i", graph.backward_outputs)
    arrays = GraphArrays(
        op_count=len(graph.ops),
        kind=address_of(kind),
        fusible=address_of(fusible),
        workspace_bytes=address_of(workspace_bytes),
        input_offsets=address_of(input_offsets),
        inputs=address_of(inputs),
        storage_offsets=address_of(storage_offsets),
        op_storages=address_of(op_storages),
        storage_count=len(graph.storages),
        storage_bytes=address_of(storage_bytes),
        external=address_of(external),
        shared=address_of(shared),
        forward_output_count=len(forward_outputs),
        forward_outputs=address_of(forward_outputs),
        backward_output_count=len(backward_outputs),
        backward_outputs=address_of(backward_outputs),
    )
    handle = library.graphckpt_graph_new(ctypes.byref(arrays))
    if not handle:
        raise MemoryError
    return int(handle)


def _rows(rows: Iterable[tuple[int, ...]]) -> tuple[array[int], array[int]]:
    """Compressed rows: offsets, then the values of all rows."""
    kept = list(rows)
    offsets = array("q", itertools.accumulate((len(row) for row in kept), initial=0))
    return offsets, array("i", itertools.chain.from_iterable(kept))


def _steps(steps: tuple[int, ...]) -> array[int]:
    try:
        return array("i", steps)
    except OverflowError:
        # No graph has such an operation, so the core refuses -1 in its place, and the message quotes the plan.
        return array("i", [index if abs(index) < 2**31 else -1 for index in steps])
