"""The loader of the C++ core: what it says where there is none, and where there is a wrong one."""

from pathlib import Path

import pytest

from graphckpt import core
from graphckpt.errors import CompilerMissing


def test_a_missing_core_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "EXTENSION_SUFFIXES", [".nowhere.so"])
    with pytest.raises(CompilerMissing, match=r"_core\.nowhere\.so.*pip install -e \."):
        core.load_library.__wrapped__()


def test_a_core_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "_ABI_VERSION", 0)
    with pytest.raises(CompilerMissing, match=r"wanted version 0 .*, came 6\. Build it"):
        core.load_library.__wrapped__()


def test_a_core_that_is_no_library_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "_core.so").write_text("not a library")
    monkeypatch.setattr(core, "EXTENSION_SUFFIXES", [".so"])
    monkeypatch.setattr(core, "__file__", str(tmp_path / "core.py"))
    with pytest.raises(CompilerMissing, match="cannot be loaded"):
        core.load_library.__wrapped__()
