"""Records on disk, so that a hit in a compile cache, which never plans, can still say what was planned.

One JSON file a key and graph, written whole or not at all, by any number of processes. A directory that cannot be used costs one
warning and never an exception: a report is no reason to stop a training run.
Not guaranteed: that what was saved is there later; the directory is a cache and may be emptied at any time.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from graphckpt.report.record import Record
from graphckpt.report.render import ReportError, from_json, to_json

_LOGGER = logging.getLogger(__name__)
# A longer name than this with a graph's number may not fit into a directory entry.
_KEY = re.compile(r"[0-9a-fA-F]{1,200}")


@dataclass(frozen=True, slots=True)
class ReportStore:
    """The records under one directory, which is made when the first one is saved."""

    directory: Path

    def save(self, key: str, record: Record) -> None:
        """Keep ``record`` under ``key``; one of the same key and graph is replaced.

        Raises:
            ValueError: the key is not a hex string of 200 digits at most.
        """
        path = self.directory / f"{_checked(key)}.{record.graph_id}.json"
        text = to_json(record)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            _write_whole(path, text)
        except OSError as error:
            _warn_once(self.directory, "written to", error.strerror or str(error))

    def load(self, key: str) -> tuple[Record, ...]:
        """The records under ``key`` by graph number; none if none was saved. A file that cannot be read counts as absent.

        Raises:
            ValueError: the key is not a hex string of 200 digits at most.
        """
        name = re.compile(rf"{_checked(key)}\.(\d+)\.json", re.ASCII)
        try:
            matches = [match for found in os.listdir(self.directory) if (match := name.fullmatch(found))]
        except FileNotFoundError:
            return ()
        except OSError as error:
            _warn_once(self.directory, "read", error.strerror or str(error))
            return ()
        numbered = sorted((int(match[1]), match[0]) for match in matches)
        records = (_read(self.directory / file_name, number) for number, file_name in numbered)
        return tuple(record for record in records if record is not None)


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError(f"wanted a key of 1 to 200 hex digits, came {key!r:.80}. Hash what it stands for.")
    return key.lower()


def _write_whole(path: Path, text: str) -> None:
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished)
        raise


def _read(path: Path, graph_id: int) -> Record | None:
    """The record in one file, or None and a warning."""
    try:
        record = from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        # Emptied by another process since the directory was listed.
        return None
    except (OSError, UnicodeDecodeError, ReportError) as error:
        _LOGGER.warning("the stored report %s cannot be read and is passed over: %s", path, error)
        return None
    if record.graph_id != graph_id:
        _LOGGER.warning("the stored report %s is of graph %d and is passed over", path, record.graph_id)
        return None
    return record


@functools.cache
def _warn_once(directory: Path, deed: str, why: str) -> None:
    _LOGGER.warning(
        "reports in %s cannot be %s (%s); training goes on, but a hit in the compile cache will come without its report",
        directory,
        deed,
        why,
    )
