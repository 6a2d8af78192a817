"""The command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import graphckpt
from graphckpt.__main__ import main
from graphckpt.config import render_table
from graphckpt.report.render import full_text, to_json
from tests.report.records import SMALL

ROOT = Path(graphckpt.__file__).parents[1]


@pytest.fixture
def report(tmp_path: Path) -> str:
    """A stored report."""
    path = tmp_path / "report.json"
    path.write_text(to_json(SMALL))
    return str(path)


def test_options_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["options"]) == 0
    assert capsys.readouterr() == (render_table(), "")


def test_report_prints_the_full_text(capsys: pytest.CaptureFixture[str], report: str) -> None:
    assert main(["report", report]) == 0
    assert capsys.readouterr() == (full_text(SMALL), "")


def test_version_names_what_a_bug_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    lines = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == ["graphckpt", "torch", "triton", "python"]
    assert lines["graphckpt"] == graphckpt.__version__
    assert lines["torch"].startswith("2.")


def test_what_is_not_installed_is_said_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # No distribution is found on an empty path.
    monkeypatch.setattr(sys, "path", [])
    assert main(["version"]) == 0
    assert "triton is not installed\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["optoins"], "'optoins'"),
        (["report"], "FILE.json"),
        (["options", "extra"], "extra"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    _one_error_line(capsys, stop.value.code, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file or directory"),
        (b"\xff", "utf-8"),
        (b"{\n\n", "not JSON"),
        (b'{"version": 9}', "version 9"),
        (b'{"version": 1, "record": {}}', "fields of Record"),
    ],
)
def test_wrong_files_are_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_bytes(content)
    _one_error_line(capsys, main(["report", str(path)]), words)


def _one_error_line(capsys: pytest.CaptureFixture[str], status: object, words: str) -> None:
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("graphckpt: ")
    assert err.count("\n") == 1
    assert words in err


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, check=False
    )


def test_the_module_runs(report: str) -> None:
    done = _run("-m", "graphckpt", "report", report, PYTHONIOENCODING="utf-8")
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, full_text(SMALL), b"")
    assert _run("-m", "graphckpt", "report").returncode == 2


def test_a_poor_terminal_gets_question_marks(report: str) -> None:
    done = _run("-m", "graphckpt", "report", report, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"graphckpt: graph 0 ? activation budget 64.0 MiB (options) ? ")


def test_a_reader_that_leaves_early_sees_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "graphckpt", "options"]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_no_command_loads_torch(report: str) -> None:
    code = (
        "import sys; from graphckpt.__main__ import main; "
        f"[main(a) for a in (['options'], ['version'], ['report', {report!r}])]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert _run("-c", code, PYTHONIOENCODING="utf-8").returncode == 0
