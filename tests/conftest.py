"""What tests of several rooms share."""

import logging
import os
from collections.abc import Iterator

# Kernels at -O0: the same kernels and plans, compiled several times faster. Before torch is imported, which reads it once.
os.environ.setdefault("AOT_INDUCTOR_DEBUG_COMPILE", "1")

import hypothesis
import pytest
import torch
from torch._functorch import config as functorch_config
from torch._inductor import config as inductor_config

# How long an example takes is no property of the code on a machine that does other things as well.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")
TRACE = logging.getLogger("torch.__trace")


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record)


@pytest.fixture
def heard_in_trace() -> Iterator[list[logging.LogRecord]]:
    """What torch's structured trace is told; its other listeners are away meanwhile."""
    others, only = list(TRACE.handlers), _Listener()
    TRACE.handlers[:] = [only]
    yield only.heard
    TRACE.handlers[:] = others


@pytest.fixture
def compiled_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No budget from outside, and graphs compiled anew in every test."""
    for name in [name for name in os.environ if name.startswith("GRAPHCKPT_")]:
        monkeypatch.delenv(name)
    with inductor_config.patch(fx_graph_cache=False), functorch_config.patch(enable_autograd_cache=False):
        torch.compiler.reset()
        yield
        torch.compiler.reset()
