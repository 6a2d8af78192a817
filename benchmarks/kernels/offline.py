"""Compile a kernel for an architecture without a GPU, and read what it takes from the machine code.

Enters: a `Start` as `graphckpt.kernels.attention.triton.launch` makes it, and an architecture. Leaves: its registers, bytes of
stack, which are those that spilled, shared memory and matrix instructions. What Triton specialises on (strides, alignment) is as
in a real call, because it is one, of tensors on the CPU, up to where it would be started.
Not guaranteed: anything about speed, races or the start itself, which only a GPU shows.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import triton
from triton.backends.compiler import GPUTarget

from graphckpt.kernels.attention.triton.launch import Start

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# Instructions that multiply matrices, by architecture. A tile of less than 64 rows takes the older one everywhere.
MATRIX = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA"}
OLDER = "HMMA"
# Instructions that read a tile by its descriptor, and that give the registers of some warps to others.
BULK, GIVES = "UTMALDG", "USETMAXREG"
THREADS = 32


class Resources(NamedTuple):
    """What one compiled kernel takes. ``spilled_bytes``: stack of a thread; ``matrix``: how often ``instruction`` multiplies
    matrices, which is the architecture's own, or the older one where there is none of that, or "" where there is neither: Triton
    then compiled a trap in place of the kernel. ``bulk``: how often a tile is read by its descriptor; ``gives``: how often warps
    that do different things are given registers."""

    registers: int
    spilled_bytes: int
    shared_bytes: int
    matrix: int
    instruction: str
    bulk: int = 0
    gives: int = 0

    @property
    def is_specialized(self) -> bool:
        """Whether some warps do nothing but read by descriptors."""
        return self.bulk > 0 and self.gives > 0


class _Driver:
    """As much of a driver as compiling asks for."""

    def __init__(self, architecture: str) -> None:
        self._target = GPUTarget("cuda", int(architecture.removeprefix("sm_")), THREADS)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        # Kernels are cached by device: one each.
        return self._target.arch

    def get_current_stream(self, device: int) -> int:
        del device
        return 0

    def set_current_device(self, device: int) -> None:
        del device


def compile_for(architecture: str, it: Start, count_matrix: bool = True) -> Resources:
    """Compile one start. Without ``count_matrix`` the code is not disassembled, and there is no instruction.

    Raises:
        whatever Triton or ptxas raises on a kernel that they cannot compile.
    """
    triton.runtime.driver.set_active(_Driver(architecture))
    compiled = it.kernel.warmup(**it.arguments, grid=(it.programs,), num_warps=it.warps, num_stages=it.stages)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        usage = _run("cuobjdump", "--dump-resource-usage", str(path))
        code = _run("nvdisasm", "-c", str(path)) if count_matrix else ""
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump: wanted REG and STACK of one kernel, came {usage!r}")
    counts = {name: len(re.findall(rf"\b{name}\b", code)) for name in (MATRIX[architecture], OLDER, BULK, GIVES)}
    instruction = next((name for name in (MATRIX[architecture], OLDER) if counts[name]), "")
    matrix = counts.get(instruction, 0)
    taken = int(found[1]), int(found[2]), compiled.metadata.shared
    return Resources(*taken, matrix, instruction, counts[BULK], counts[GIVES])


def cache_in(folder: Path) -> None:
    """Keep what is compiled in this folder, unless the environment names another."""
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder))


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([str(TOOLS / tool), *arguments], capture_output=True, text=True, check=True).stdout
