"""The remat functions of the C++ core: structures, and a problem handed over as flat arrays.

Nodes are numbered in a topological order there; `Handed` renumbers on the way in and back on the way out.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from array import array
from collections.abc import Callable, Sequence

from graphckpt.core import address_of, load_library
from graphckpt.solve.remat.instance import Instance, Kernels, relabelled

Progress = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_void_p, ctypes.c_double, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64
)


class InstanceArrays(ctypes.Structure):
    """A problem."""

    _fields_ = (
        ("node_count", ctypes.c_int32),
        ("cost", ctypes.c_void_p),
        ("size_bytes", ctypes.c_void_p),
        ("once", ctypes.c_void_p),
        ("input_offsets", ctypes.c_void_p),
        ("inputs", ctypes.c_void_p),
        ("scratch_bytes", ctypes.c_void_p),
        ("writes_over", ctypes.c_void_p),
        ("shared", ctypes.c_void_p),
    )


class Options(ctypes.Structure):
    """What is looked for, and for how long."""

    _fields_ = (
        ("goal", ctypes.c_int32),
        ("fixed_order", ctypes.c_int32),
        ("budget_bytes", ctypes.c_int64),
        ("seed", ctypes.c_uint64),
        ("iterations", ctypes.c_int64),
        ("seconds", ctypes.c_double),
        ("cost_floor", ctypes.c_int64),
        ("start", ctypes.c_void_p),
        ("start_count", ctypes.c_int64),
        ("progress", Progress),
        ("context", ctypes.c_void_p),
    )


class SearchResult(ctypes.Structure):
    """How a search ended."""

    _fields_ = (
        ("found", ctypes.c_int32),
        ("count", ctypes.c_int64),
        ("iterations", ctypes.c_int64),
        ("seconds", ctypes.c_double),
    )


class ProofResult(ctypes.Structure):
    """How a proof ended."""

    _fields_ = (
        ("outcome", ctypes.c_int32),
        ("extra_cost", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("states", ctypes.c_int64),
        ("seconds", ctypes.c_double),
    )


class Handed:
    """A problem as the core takes it. Alive as long as the core works on it."""

    def __init__(self, instance: Instance) -> None:
        self.library = load_library()
        self.order = tuple(range(instance.count)) if instance.is_in_order else instance.topological_order
        self._place = {node: at for at, node in enumerate(self.order)}
        inside = relabelled(instance, self.order)
        kernels = inside.kernels or Kernels((0,) * inside.count, frozenset(), frozenset())
        offsets, inputs = array("q", [0]), array("i")
        for sources in inside.inputs:
            inputs.extend(sources)
            offsets.append(len(inputs))
        self._arrays = (
            array("q", inside.cost),
            array("q", inside.size_bytes),
            array("B", [node in inside.once for node in range(inside.count)]),
            offsets,
            inputs,
            array("q", kernels.scratch_bytes),
            array("B", [node in kernels.writers for node in range(inside.count)]),
            array("B", [node in kernels.shared for node in range(inside.count)]),
        )
        self.arrays = InstanceArrays(inside.count, *(address_of(values) for values in self._arrays))
        self.steps = array("i", bytes(4 * instance.capacity))

    def into(self, schedule: Sequence[int]) -> array[int]:
        """A schedule in the core's numbers."""
        return array("i", [self._place[node] for node in schedule])

    def out(self, count: int) -> tuple[int, ...]:
        """The first steps that the core wrote, in ours."""
        return tuple(self.order[node] for node in self.steps[:count])


class Watch:
    """Calls a function of ours from the core, ten times a second. What it raises ends the work in the core and is kept, and so does
    Ctrl-C while the watch is open, in the main thread and where nobody else has taken the signal."""

    def __init__(self, report: Callable[[float, int, int, int], bool]) -> None:
        self.raised: BaseException | None = None
        self.interrupted = False
        self._report = report
        self.callback = Progress(self._call)

    def __enter__(self) -> Watch:
        self._ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._ours:
            # An exception that the signal raises as a callback is entered would be lost in the core: a flag is not.
            signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if isinstance(self.raised, KeyboardInterrupt):
            self.interrupted = True
        elif self.raised is not None:
            raise self.raised

    def _interrupt(self, _number: int, _frame: object) -> None:
        self.interrupted = True

    def _call(self, _context: object, seconds: float, iterations: int, cost: int, peak_bytes: int) -> int:
        try:
            self.interrupted = self._report(seconds, iterations, cost, peak_bytes) or self.interrupted
        except BaseException as error:  # An exception cannot pass through the core.
            self.raised = error
            return 1
        return self.interrupted
