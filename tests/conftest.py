"""What tests of several rooms share."""

import logging
from collections.abc import Iterator

import pytest

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
