"""Artifacts in torch's structured trace."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from graphckpt.compat.trace_log import emit_artifact


def test_an_artifact_is_heard_with_its_name_encoding_and_text(heard_in_trace: list[logging.LogRecord]) -> None:
    emit_artifact("graphckpt_plan", "json", lambda: '{\n"a": 1\n}')
    emit_artifact("graphckpt_report", "string", lambda: "text")
    first, second = (vars(record) for record in heard_in_trace)
    assert first["metadata"]["artifact"] == {"name": "graphckpt_plan", "encoding": "json"}
    assert first["payload"] == '{\n"a": 1\n}'
    assert second["metadata"]["artifact"] == {"name": "graphckpt_report", "encoding": "string"}
    assert second["payload"] == "text"
    assert "stack" not in first["metadata"]


def test_nobody_listens_so_no_text_is_made(heard_in_trace: list[logging.LogRecord]) -> None:
    logging.getLogger("torch.__trace").handlers.clear()
    emit_artifact("graphckpt_plan", "json", lambda: pytest.fail("made for nobody"))
    assert heard_in_trace == []


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
