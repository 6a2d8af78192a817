"""Which calls and machines the kernels take, and what is said where they do not."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from graphckpt.errors import AttentionError
from graphckpt.kernels.attention.api import attend, fastest, run
from graphckpt.kernels.attention.meaning import Attention
from graphckpt.kernels.attention.triton.choice import of_capability, why_not
from tests.kernels.attention.cases import call_of


@pytest.mark.parametrize(
    ("capability", "architecture"),
    [
        ((8, 0), "sm_80"),
        ((8, 6), "sm_80"),
        ((8, 9), "sm_80"),
        ((9, 0), "sm_90"),
        ((10, 0), "sm_100"),
        ((12, 0), "sm_80"),
    ],
)
def test_a_capability_has_a_table(capability: tuple[int, int], architecture: str) -> None:
    assert of_capability(*capability) == (architecture, "")


def test_others_are_refused_by_name() -> None:
    assert of_capability(7, 5) == ("", "compute capability 7.5 is below 8.0")
    assert of_capability(11, 0) == ("", "compute capability 11.0 has no table of tiles")
    wide = torch.zeros(1, 1, 2, 300, dtype=torch.float64)
    assert "a head of 300 is wider than 256" in why_not(Attention(wide, wide, wide, 1.0))
    assert "float64 is not one of" in why_not(Attention(wide, wide, wide, 1.0))


def test_tensors_on_the_cpu_are_refused_and_not_taken_elsewhere() -> None:
    with pytest.raises(AttentionError, match=r"triton: tensors are on the CPU .* TRITON_INTERPRET=1"):
        run(call_of((), torch.float32), "triton")
    with pytest.raises(AttentionError, match="triton: float64"):
        run(call_of(()), "triton")


def test_the_fastest_on_a_gpu_is_triton_where_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTensorMode():
        # Before there seems to be a GPU: torch 2.11 starts it when a fake tensor of it is made.
        brain, half = (torch.empty(1, 2, 8, 64, device="cuda", dtype=dtype) for dtype in (torch.bfloat16, torch.float16))
        wide = brain.double()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert fastest(Attention(brain, brain, brain, 1.0, softcap=3.0)) == "triton"
    assert fastest(Attention(wide, wide, wide, 1.0)) == "blocked"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    assert fastest(Attention(half, half, half, 1.0)) == "blocked"
    assert "below 8.0" in why_not(Attention(half, half, half, 1.0))


def test_on_a_cpu_nothing_changes() -> None:
    q = torch.randn(1, 2, 8, 16, requires_grad=True)
    out, lse = attend(q, q, q)
    (out.sum() + lse.sum()).backward()
    assert q.grad is not None


WITHOUT = """
import sys
sys.modules["triton"] = None
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else real(name, *rest)
import torch
from graphckpt.kernels.attention.api import attend
q = torch.randn(1, 1, 4, 16)
attend(q, q, q)
try:
    attend(q, q, q, implementation="triton")
except Exception as error:
    print(type(error).__name__, error)
"""


def test_without_triton_all_else_works_and_this_says_so() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "AttentionError attention, implementation" in done.stdout
    assert "triton is not installed (pip install triton)" in done.stdout


def test_operators_import_no_triton() -> None:
    code = (
        "import sys, graphckpt.kernels.attention.ops; print('graphckpt.kernels.attention.triton.launch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
