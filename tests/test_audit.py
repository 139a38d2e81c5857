from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from service.audit import Audit, address_of, audit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """What the logger was given."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    audit.addHandler(handler)
    audit.setLevel(logging.INFO)
    yield records
    audit.removeHandler(handler)


def test_a_line_is_one_json_object(lines: list[logging.LogRecord]) -> None:
    Audit().admitted(outcome="allowed", key="0" * 12, name=None)
    line = json.loads(lines[0].getMessage())
    assert line.pop("at").endswith("+00:00")
    assert line == {"outcome": "allowed", "key": "0" * 12, "name": None}


@pytest.mark.parametrize("text", ['a"}\n{"outcome": "allowed', "\r\n", "\x1b[2J", "\u2028", "é" * 500])
def test_no_value_ends_a_line_or_reaches_a_terminal(lines: list[logging.LogRecord], text: str) -> None:
    Audit().refused(path=text)
    message = lines[0].getMessage()
    assert message.isascii()
    assert message.isprintable()
    assert json.loads(message)["path"] == text[:128]


def test_a_flood_of_refusals_writes_few_lines_and_says_so(lines: list[logging.LogRecord]) -> None:
    clock = Clock()
    book = Audit(clock)
    for _ in range(10_000):
        book.refused(outcome="key_wrong")
        clock.now += 0.001
    assert len(lines) == 50 + 49  # the burst, and five a second for ten seconds
    clock.now += 1
    book.refused(outcome="key_wrong")
    assert sum(json.loads(one.getMessage()).get("refusals_unwritten", 0) for one in lines) == 10_000 - 99


def test_what_an_admin_does_is_written_in_a_flood_too(lines: list[logging.LogRecord]) -> None:
    book = Audit(Clock())
    for _ in range(1_000):
        book.refused(outcome="key_wrong")
    book.admitted(outcome="allowed")
    last = json.loads(lines[-1].getMessage())
    assert (last["outcome"], last["refusals_unwritten"]) == ("allowed", 950)


@pytest.mark.parametrize(
    ("client", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("ipv4:10.0.0.7:50051", "10.0.0.7"),
        ("ipv6:%5B::1%5D:50051", "::1"),
        ("", "unknown"),
        ("unix:/tmp/socket", "unknown"),
        ('1.2.3.4", "outcome": "allowed', "unknown"),
    ],
)
def test_a_client_is_an_address_or_unknown(client: str, address: str) -> None:
    assert address_of(client) == address
