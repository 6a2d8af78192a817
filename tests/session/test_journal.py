"""Records as they come in: kept, logged, and put into torch's structured trace."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from graphckpt.report.render import full_text, summary_line, to_json
from graphckpt.session.journal import Journal
from tests.report.records import SMALL


def test_a_record_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal()
    with caplog.at_level(logging.INFO, "graphckpt"):
        journal.add(SMALL)
    assert journal.records == [SMALL]
    assert caplog.record_tuples == [("graphckpt", logging.INFO, summary_line(SMALL))]


def test_the_whole_report_is_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "graphckpt"):
        Journal().add(SMALL)
    ours = [entry for entry in caplog.record_tuples if entry[0] == "graphckpt"]
    assert ours[1:] == [("graphckpt", logging.DEBUG, full_text(SMALL))]


def test_percent_signs_are_text(caplog: pytest.LogCaptureFixture) -> None:
    """The summary says "keep 60 % / recompute 40 %"."""
    with caplog.at_level(logging.INFO, "graphckpt"):
        Journal().add(SMALL)
    assert "% / recompute" in caplog.text


def test_the_trace_gets_the_plan_and_the_report(heard_in_trace: list[logging.LogRecord]) -> None:
    Journal().add(SMALL)
    names = [vars(record)["metadata"]["artifact"]["name"] for record in heard_in_trace]
    assert names == ["graphckpt_plan", "graphckpt_report"]
    plan, report = (vars(record)["payload"] for record in heard_in_trace)
    assert plan == to_json(SMALL)
    assert json.loads(plan)["record"]["plan"] == "every_2:first_3"
    assert report == full_text(SMALL)


def test_numbers_and_records_from_many_threads() -> None:
    journal = Journal()
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda _: journal.number(), range(200)))
        list(pool.map(lambda _: journal.add(SMALL), range(20)))
    assert sorted(numbers) == list(range(200))
    assert len(journal.records) == 20
