"""bf16 in Triton's interpreter, which multiplies and adds its bit patterns as if they were integers (triton-lang/triton#11584).

A patch of the interpreter's own methods, for tests alone and for the versions it was written against: bf16 is widened to fp32
before arithmetic and rounded to nearest even after it. Guarded: another version of Triton skips what needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import triton
import triton.language as tl
from triton.runtime import interpreter

VERSIONS = ("3.6.0", "3.7.1")


def widened(bits: np.ndarray) -> np.ndarray:
    """fp32 of the same value."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(values: np.ndarray) -> np.ndarray:
    """The nearest bf16, ties to even, as bits."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), nearest)


def patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make bf16 right in this process, as long as ``monkeypatch`` lives; skips in a version it does not know."""
    if triton.__version__ not in VERSIONS:
        pytest.skip(
            f"the interpreter of Triton {triton.__version__} is not one of those patched: {', '.join(VERSIONS)}"
        )
    builder = interpreter.InterpreterBuilder
    cast, dot, binary, fp_to_fp = builder.cast_impl, builder.create_dot, builder.binary_op, builder.create_fp_to_fp

    def wide(handle: Any) -> Any:
        is_narrow = handle.dtype.scalar == tl.bfloat16
        return interpreter.TensorHandle(widened(handle.data), tl.float32) if is_narrow else handle

    def narrow(handle: Any) -> Any:
        return interpreter.TensorHandle(rounded(handle.data), tl.bfloat16)

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        if tl.bfloat16 not in (src.dtype.scalar, dst_type.scalar):
            return cast(self, src, dst_type)
        if dst_type.scalar == tl.bfloat16:
            return narrow(cast(self, wide(src), tl.float32))
        return cast(self, wide(src), dst_type) if dst_type.scalar != tl.float32 else wide(src)

    def create_fp_to_fp(self: Any, src: Any, dst_type: Any, rounding_mode: Any) -> Any:
        narrows = tl.bfloat16 in (src.dtype.scalar, dst_type.scalar)
        return cast_impl(self, src, dst_type) if narrows else fp_to_fp(self, src, dst_type, rounding_mode)

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        return dot(self, wide(a), wide(b), d, *rest)

    def binary_op(self: Any, lhs: Any, rhs: Any, op: Callable[..., Any]) -> Any:
        if lhs.dtype.scalar != tl.bfloat16:
            return binary(self, lhs, rhs, op)
        found = binary(self, wide(lhs), wide(rhs), op)
        return found if found.data.dtype == np.bool_ else narrow(found)

    for name, method in (
        ("cast_impl", cast_impl),
        ("create_fp_to_fp", create_fp_to_fp),
        ("create_dot", create_dot),
        ("binary_op", binary_op),
    ):
        monkeypatch.setattr(builder, name, method)
    for name in (
        "create_si_to_fp",
        "create_ui_to_fp",
        "create_fp_to_si",
        "create_fp_to_ui",
        "create_fp_ext",
        "create_fp_trunc",
    ):
        monkeypatch.setattr(builder, name, cast_impl)
    monkeypatch.setattr(
        builder,
        "get_bf16",
        lambda _, value: interpreter.TensorHandle(rounded(np.array([value])), tl.bfloat16),
        raising=False,
    )
