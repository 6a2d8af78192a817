"""The C++ core, through ctypes: the timeline of `graphckpt.ir.peak`, fast enough to be asked thousands of times.

A `Graph` that `check_graph` accepts enters and is handed over once, as flat arrays; an `Engine` then answers plan after plan. There
is no fallback to the Python reference: a core that is not built is `CompilerMissing`. An `Engine` may be used from several threads.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import weakref
from array import array
from collections.abc import Iterable, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from graphckpt.errors import CompilerMissing, PlanError
from graphckpt.ir.graph import Graph, OpKind
from graphckpt.ir.peak import Timeline
from graphckpt.ir.plan import Plan

_ABI_VERSION = 1
_OK, _BAD_STEP, _NOT_FUSIBLE, _OUT_OF_MEMORY = range(4)
_KINDS = {OpKind.INPUT: 0, OpKind.TANGENT: 1, OpKind.COMPUTE: 2, OpKind.ALIAS: 3}
_BUILD = "Build it with `pip install -e .` in the checkout (a C++17 compiler such as g++ is needed)."


class _GraphArrays(ctypes.Structure):
    _fields_ = (
        ("op_count", ctypes.c_int32),
        ("kind", ctypes.c_void_p),
        ("fusible", ctypes.c_void_p),
        ("input_offsets", ctypes.c_void_p),
        ("inputs", ctypes.c_void_p),
        ("storage_offsets", ctypes.c_void_p),
        ("op_storages", ctypes.c_void_p),
        ("storage_count", ctypes.c_int32),
        ("storage_bytes", ctypes.c_void_p),
        ("external", ctypes.c_void_p),
        ("forward_output_count", ctypes.c_int64),
        ("forward_outputs", ctypes.c_void_p),
        ("backward_output_count", ctypes.c_int64),
        ("backward_outputs", ctypes.c_void_p),
    )


class _Peak(ctypes.Structure):
    _fields_ = (
        ("peak_bytes", ctypes.c_int64),
        ("peak_step", ctypes.c_int64),
        ("forward_peak_bytes", ctypes.c_int64),
        ("backward_peak_bytes", ctypes.c_int64),
        ("culprit", ctypes.c_int64),
    )


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
        peak = _Peak()
        status = self._library.graphckpt_timeline(
            self._handle,
            None if flags is None else _address(flags),
            _address(forward),
            len(forward),
            _address(backward),
            len(backward),
            _address(live),
            _address(held),
            ctypes.byref(peak),
        )
        if status != _OK:
            self._raise(status, plan, int(peak.culprit))
        return Timeline(
            live_bytes=tuple(live),
            peak_bytes=peak.peak_bytes,
            peak_step=peak.peak_step,
            forward_peak_bytes=peak.forward_peak_bytes,
            backward_peak_bytes=peak.backward_peak_bytes,
            held_at_peak=tuple(index for index, flag in enumerate(held) if flag),
        )

    def _raise(self, status: int, plan: Plan, culprit: int) -> None:
        ops = self.graph.ops
        if status == _OUT_OF_MEMORY:
            raise MemoryError
        if status == _NOT_FUSIBLE:
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


@functools.cache
def load_library() -> ctypes.CDLL:
    """The core, with its signatures set. Raises `CompilerMissing` if it is not built, or built from another header."""
    package = Path(__file__).parents[1]
    built = [path for suffix in EXTENSION_SUFFIXES if (path := package / f"_core{suffix}").is_file()]
    if not built:
        raise CompilerMissing(f"wanted the planner's C++ core as _core{EXTENSION_SUFFIXES[0]} in {package}. {_BUILD}")
    try:
        library = ctypes.CDLL(str(built[0]))
        version = int(library.graphckpt_abi_version())
    except (OSError, AttributeError) as error:
        raise CompilerMissing(f"the planner's C++ core cannot be loaded: {error}. {_BUILD}") from error
    if version != _ABI_VERSION:
        raise CompilerMissing(f"wanted version {_ABI_VERSION} of the planner's C++ core, came {version}. {_BUILD}")
    library.graphckpt_graph_new.argtypes = [ctypes.POINTER(_GraphArrays)]
    library.graphckpt_graph_new.restype = ctypes.c_void_p
    library.graphckpt_graph_free.argtypes = [ctypes.c_void_p]
    library.graphckpt_graph_free.restype = None
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.graphckpt_timeline.argtypes = [
        pointer, pointer, pointer, count, pointer, count, pointer, pointer, ctypes.POINTER(_Peak)
    ]  # fmt: skip
    library.graphckpt_timeline.restype = ctypes.c_int32
    return library


def _hand_over(library: ctypes.CDLL, graph: Graph) -> int:
    input_offsets, inputs = _rows(op.inputs for op in graph.ops)
    storage_offsets, op_storages = _rows(op.storages for op in graph.ops)
    kind = array("B", [_KINDS[op.kind] for op in graph.ops])
    fusible = array("B", [op.fusible for op in graph.ops])
    storage_bytes = array("q", [storage.size_bytes for storage in graph.storages])
    external = array("B", [storage.external for storage in graph.storages])
    forward_outputs, backward_outputs = array("i", graph.forward_outputs), array("i", graph.backward_outputs)
    arrays = _GraphArrays(
        op_count=len(graph.ops),
        kind=_address(kind),
        fusible=_address(fusible),
        input_offsets=_address(input_offsets),
        inputs=_address(inputs),
        storage_offsets=_address(storage_offsets),
        op_storages=_address(op_storages),
        storage_count=len(graph.storages),
        storage_bytes=_address(storage_bytes),
        external=_address(external),
        forward_output_count=len(forward_outputs),
        forward_outputs=_address(forward_outputs),
        backward_output_count=len(backward_outputs),
        backward_outputs=_address(backward_outputs),
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


def _address(values: array[int]) -> int:
    # Valid as long as the array is alive and not resized: every caller keeps it in a local until the core has returned.
    return values.buffer_info()[0]
