"""The journal of the process: the records of the graphs compiled so far, and whoever wants to hear of a new one.

Compilation may run in several threads. They share the journal, which has a lock, and what `compat.takeover` replaces in Inductor
for a while, which has another.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

from graphckpt.compat.trace_log import emit_artifact
from graphckpt.report.record import Record
from graphckpt.report.render import full_text, summary_line, to_json


@dataclass(slots=True)
class Journal:
    """Records in the order of compilation."""

    records: list[Record] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    next_graph: int = 0

    def number(self) -> int:
        """A number for the next graph."""
        with self.lock:
            self.next_graph += 1
            return self.next_graph - 1

    def add(self, record: Record) -> None:
        """Keep a record, log its summary line, and put it into torch's structured trace."""
        with self.lock:
            self.records.append(record)
        logger = logging.getLogger("graphckpt")
        logger.info(summary_line(record))
        logger.debug("%s", full_text(record))
        emit_artifact("graphckpt_plan", "json", lambda: to_json(record))
        emit_artifact("graphckpt_report", "string", lambda: full_text(record))
