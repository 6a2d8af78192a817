"""The loader of the C++ core: what it says where there is none, and where there is a wrong one."""

from pathlib import Path

import pytest

from graphckpt.errors import CompilerMissing
from graphckpt.solve import library


def test_a_missing_core_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "EXTENSION_SUFFIXES", [".nowhere.so"])
    with pytest.raises(CompilerMissing, match=r"_core\.nowhere\.so.*pip install -e \."):
        library.load_library.__wrapped__()


def test_a_core_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_ABI_VERSION", 0)
    with pytest.raises(CompilerMissing, match=r"wanted version 0 .*, came 5\. Build it"):
        library.load_library.__wrapped__()


def test_a_core_that_is_no_library_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "_core.so").write_text("not a library")
    (tmp_path / "solve").mkdir()
    monkeypatch.setattr(library, "EXTENSION_SUFFIXES", [".so"])
    monkeypatch.setattr(library, "__file__", str(tmp_path / "solve" / "library.py"))
    with pytest.raises(CompilerMissing, match="cannot be loaded"):
        library.load_library.__wrapped__()
