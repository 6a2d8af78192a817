"""The C++ core, through ctypes: found, checked for its version, and given its signatures. What it computes is said by its users.

The structures and numbers here are those of ``csrc/graphckpt_core.h``; a core of another version is refused.
"""

from __future__ import annotations

import ctypes
import functools
from array import array
from enum import IntEnum
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from graphckpt.errors import CompilerMissing

_ABI_VERSION = 6
_BUILD = "Build it with `pip install -e .` in the checkout (a C++17 compiler such as g++ is needed)."


class Status(IntEnum):
    """What a function of the core returns."""

    OK = 0
    BAD_STEP = 1
    NOT_FUSIBLE = 2
    OUT_OF_MEMORY = 3
    RUNS_ONCE = 4


class GraphArrays(ctypes.Structure):
    """A graph as compressed rows."""

    _fields_ = (
        ("op_count", ctypes.c_int32),
        ("kind", ctypes.c_void_p),
        ("fusible", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_void_p),
        ("input_offsets", ctypes.c_void_p),
        ("inputs", ctypes.c_void_p),
        ("storage_offsets", ctypes.c_void_p),
        ("op_storages", ctypes.c_void_p),
        ("storage_count", ctypes.c_int32),
        ("storage_bytes", ctypes.c_void_p),
        ("external", ctypes.c_void_p),
        ("shared", ctypes.c_void_p),
        ("forward_output_count", ctypes.c_int64),
        ("forward_outputs", ctypes.c_void_p),
        ("backward_output_count", ctypes.c_int64),
        ("backward_outputs", ctypes.c_void_p),
    )


class Peak(ctypes.Structure):
    """The figures of a timeline; ``culprit`` where it could not be made."""

    _fields_ = (
        ("peak_bytes", ctypes.c_int64),
        ("peak_step", ctypes.c_int64),
        ("forward_peak_bytes", ctypes.c_int64),
        ("backward_peak_bytes", ctypes.c_int64),
        ("culprit", ctypes.c_int64),
    )


class DropoutPart(ctypes.Structure):
    """A part of a stack of matrices, and how dropout draws for it."""

    _fields_ = (
        ("seed", ctypes.c_uint32),
        ("probability", ctypes.c_double),
        ("blocks", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("first_row", ctypes.c_int64),
        ("last_row", ctypes.c_int64),
        ("first_column", ctypes.c_int64),
        ("last_column", ctypes.c_int64),
    )


@functools.cache
def load_library() -> ctypes.CDLL:
    """The core, with its signatures set. Raises `CompilerMissing` if it is not built, or built from another header."""
    package = Path(__file__).parent
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
    library.graphckpt_graph_new.argtypes = [ctypes.POINTER(GraphArrays)]
    library.graphckpt_graph_new.restype = ctypes.c_void_p
    library.graphckpt_graph_free.argtypes = [ctypes.c_void_p]
    library.graphckpt_graph_free.restype = None
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.graphckpt_timeline.argtypes = [
        pointer, pointer, pointer, count, pointer, count, pointer, pointer, ctypes.POINTER(Peak)
    ]  # fmt: skip
    library.graphckpt_timeline.restype = ctypes.c_int32
    library.graphckpt_demand.argtypes = [
        pointer, pointer, pointer, pointer, pointer, ctypes.c_int32, pointer, count, pointer, count, ctypes.POINTER(count)
    ]  # fmt: skip
    library.graphckpt_demand.restype = ctypes.c_int32
    library.graphckpt_min_cut.argtypes = [
        ctypes.c_int32, count, pointer, pointer, pointer, ctypes.c_int32, ctypes.c_int32, pointer, pointer
    ]  # fmt: skip
    library.graphckpt_min_cut.restype = ctypes.c_int32
    library.graphckpt_remat_search.argtypes = [pointer, pointer, pointer, count, pointer]
    library.graphckpt_remat_search.restype = ctypes.c_int32
    library.graphckpt_remat_prove.argtypes = [pointer, pointer, count, pointer, count, pointer]
    library.graphckpt_remat_prove.restype = ctypes.c_int32
    library.graphckpt_dropout_kept.argtypes = [ctypes.POINTER(DropoutPart), pointer]
    library.graphckpt_dropout_kept.restype = None
    return library


def address_of(values: array[int]) -> int:
    """Where an array starts: valid while it is alive and not resized, so keep it in a local until the core has returned."""
    return values.buffer_info()[0]
