"""Artifacts in torch's structured trace."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphckpt.compat.trace_log import emit_artifact

TRACE = logging.getLogger("torch.__trace")


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record)


@pytest.fixture
def listener() -> Iterator[_Listener]:
    """The only listener of the trace."""
    others, only = list(TRACE.handlers), _Listener()
    TRACE.handlers[:] = [only]
    yield only
    TRACE.handlers[:] = others


def test_an_artifact_is_heard_with_its_name_encoding_and_text(listener: _Listener) -> None:
    emit_artifact("graphckpt_plan", "json", lambda: '{\n"a": 1\n}')
    emit_artifact("graphckpt_report", "string", lambda: "text")
    first, second = (vars(record) for record in listener.heard)
    assert first["metadata"]["artifact"] == {"name": "graphckpt_plan", "encoding": "json"}
    assert first["payload"] == '{\n"a": 1\n}'
    assert second["metadata"]["artifact"] == {"name": "graphckpt_report", "encoding": "string"}
    assert second["payload"] == "text"
    assert "stack" not in first["metadata"]


def test_nobody_listens_so_no_text_is_made(listener: _Listener) -> None:
    TRACE.handlers.clear()
    emit_artifact("graphckpt_plan", "json", lambda: pytest.fail("made for nobody"))
    assert listener.heard == []


def test_torch_writes_it_into_its_trace_directory(tmp_path: Path) -> None:
    code = (
        "from graphckpt.compat.trace_log import emit_artifact; emit_artifact('graphckpt_plan', 'json', lambda: '[17]')"
    )
    environment = {"TORCH_TRACE": str(tmp_path), "PATH": "", "HOME": str(tmp_path)}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, check=True, timeout=300)
    (log,) = tmp_path.glob("*.log")
    lines = log.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if "graphckpt_plan" in line)
    assert json.loads(lines[at][lines[at].index("{") :])["artifact"] == {"name": "graphckpt_plan", "encoding": "json"}
    assert lines[at + 1].strip() == "[17]"
