"""Which calls the Triton kernels take, and on which machines. Imports no triton."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

import torch

from graphckpt.kernels.attention.meaning import Attention

WIDEST = 256
INTERPRETER = "interpreter"
# Shared memory of one program, in bytes: what an architecture grants a block (CUDA C++ Programming Guide, technical
# specifications). The lines of sm_80 serve 8.6, 8.9 and 12 too, which grant 99 KiB and not 163.
SHARED_BYTES = {"sm_80": 99 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024}


def why_not(call: Attention) -> str:
    """What of a call or of this machine the kernels do not take; "" if they take it."""
    widths = call.q.shape[3], call.v.shape[3]
    reasons = [architecture_of(call.q.device)[1]]
    if max(widths) > WIDEST:
        reasons.insert(0, f"a head of {max(widths)} is wider than {WIDEST}")
    if call.q.dtype == torch.float64:
        reasons.insert(0, "float64 is not one of float16, bfloat16, float32")
    return "; ".join(reason for reason in reasons if reason)


def architecture_of(device: torch.device) -> tuple[str, str]:
    """The architecture of the table for a device, and "", or "" and why there is none."""
    if not _is_installed():
        return "", "triton is not installed (pip install triton)"
    if device.type == "cpu":
        if is_interpreting():
            return INTERPRETER, ""
        return "", "tensors are on the CPU (for tests, set TRITON_INTERPRET=1 before the first call)"
    if device.type != "cuda" or torch.version.hip is not None:
        return "", f"tensors are on {device.type}{' of ROCm' * (torch.version.hip is not None)}"
    if not torch.cuda.is_available():
        return "", "torch sees no GPU"
    return of_capability(*torch.cuda.get_device_capability(device))


def of_capability(major: int, minor: int) -> tuple[str, str]:
    """The architecture of the table for a compute capability. Consumer GPUs (8.6, 8.9, 12) take the lines of 8.0."""
    if major < 8:
        return "", f"compute capability {major}.{minor} is below 8.0"
    found = {8: "sm_80", 9: "sm_90", 10: "sm_100", 12: "sm_80"}.get(major)
    return (found, "") if found else ("", f"compute capability {major}.{minor} has no table of tiles")


def is_interpreting() -> bool:
    """Whether Triton's kernels run in its interpreter, which is said before they are first imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _is_installed() -> bool:
    return find_spec("triton") is not None
