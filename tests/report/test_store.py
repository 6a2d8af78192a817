"""Records on disk."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from graphckpt.report.store import ReportStore
from tests.report.records import SMALL


def test_what_is_saved_is_loaded_by_graph_number(tmp_path: Path) -> None:
    store = ReportStore(tmp_path / "made" / "when needed")
    records = {number: replace(SMALL, graph_id=number) for number in (10, 2, 0)}
    for record in records.values():
        store.save("ab12", record)
    assert ReportStore(store.directory).load("ab12") == (records[0], records[2], records[10])


def test_keys_keep_apart(tmp_path: Path) -> None:
    store = ReportStore(tmp_path)
    store.save("ab", SMALL)
    store.save("abc", replace(SMALL, plan="other"))
    assert store.load("ab") == (SMALL,)
    assert store.load("b") == ()
    assert store.load("AB") == (SMALL,)


def test_the_last_of_a_graph_wins(tmp_path: Path) -> None:
    store = ReportStore(tmp_path)
    store.save("ab", SMALL)
    store.save("ab", replace(SMALL, plan="later"))
    assert [record.plan for record in store.load("ab")] == ["later"]
    assert len(list(tmp_path.iterdir())) == 1


def test_what_was_never_saved_is_absent_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert ReportStore(tmp_path / "nowhere").load("ab") == ()
    assert ReportStore(tmp_path).load("ab") == ()
    assert not caplog.records


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 99}', b"\xff\xfe\x00", b"null"])
def test_a_corrupt_file_is_absent_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    store = ReportStore(tmp_path)
    store.save("ab", SMALL)
    (tmp_path / "ab.7.json").write_bytes(content)
    assert store.load("ab") == (SMALL,)
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert str(tmp_path / "ab.7.json") in warning.getMessage()


def test_a_file_of_another_graph_is_absent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ReportStore(tmp_path)
    store.save("ab", SMALL)
    (tmp_path / "ab.0.json").rename(tmp_path / "ab.1.json")
    assert store.load("ab") == ()
    assert "is of graph 0" in caplog.text


def test_a_file_that_cannot_be_read_is_absent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "ab.0.json").mkdir()
    assert ReportStore(tmp_path).load("ab") == ()
    assert "ab.0.json" in caplog.text


def test_a_broken_directory_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    directory = tmp_path / "file" / "store"
    for _ in range(3):
        ReportStore(directory).save("ab", SMALL)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(directory) in caplog.text
    assert "cannot be written to (Not a directory)" in caplog.text
    caplog.clear()
    assert [ReportStore(directory).load("ab") for _ in range(3)] == [(), (), ()]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be read (Not a directory)" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o500)
    ReportStore(tmp_path).save("ab", SMALL)
    ReportStore(tmp_path).save("cd", SMALL)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Permission denied" in caplog.text


def test_a_write_that_fails_leaves_the_old_record_and_no_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ReportStore(tmp_path)
    store.save("ab", SMALL)

    def full(source: str, target: Path) -> None:
        # What is to be moved into place is complete by then.
        assert Path(source).read_text() != Path(target).read_text()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        store.save("ab", replace(SMALL, plan="later"))
    assert "No space left on device" in caplog.text
    assert store.load("ab") == (SMALL,)
    assert [path.name for path in tmp_path.iterdir()] == ["ab.0.json"]


@pytest.mark.parametrize("key", ["", "xyz", "../ab", "a/b", "ab\n", "a" * 201, "ab.0"])
def test_other_keys_are_refused(tmp_path: Path, key: str) -> None:
    store = ReportStore(tmp_path)
    with pytest.raises(ValueError, match="hex digits"):
        store.save(key, SMALL)
    with pytest.raises(ValueError, match="hex digits"):
        store.load(key)


def test_the_longest_key_fits_into_a_file_name(tmp_path: Path) -> None:
    store = ReportStore(tmp_path)
    record = replace(SMALL, graph_id=10**6)
    store.save("f" * 200, record)
    assert store.load("f" * 200) == (record,)
