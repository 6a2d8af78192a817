"""NVIDIA's compute-sanitizer over every kernel on small shapes: no access out of bounds, no race in shared memory."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.gpu import sanitized


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
@pytest.mark.parametrize("case", [*sorted(sanitized.CASES), sanitized.DESCRIBED])
def test_nothing_is_found(tool: str, case: str) -> None:
    command = shutil.which("compute-sanitizer")
    if command is None:
        pytest.skip("compute-sanitizer of the CUDA toolkit is not on the PATH")
    run = [command, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "tests.gpu.sanitized", case]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_it_would_find_something() -> None:
    """A read far beyond its tensor, by the same way."""
    command = shutil.which("compute-sanitizer")
    if command is None:
        pytest.skip("compute-sanitizer of the CUDA toolkit is not on the PATH")
    run = [
        command,
        "--tool",
        "memcheck",
        "--error-exitcode",
        "9",
        sys.executable,
        "-m",
        "tests.gpu.sanitized",
        sanitized.BROKEN,
    ]
    assert subprocess.run(run, capture_output=True, check=False).returncode == 9
