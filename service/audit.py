"""Who was refused, and who used an admin key: a JSON object a line, on the logger `aisle.audit`."""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

_REFUSALS_A_SECOND = 5.0  # that are written; about 130 MB a day, whatever an attacker does
_BURST = 50.0
_GRPC_PEER = re.compile(r"ipv[46]:(.+):\d+")  # ipv4:127.0.0.1:50051, ipv6:%5B::1%5D:50051

audit = logging.getLogger("aisle.audit")


def to_stderr() -> None:
    """Lines as they are, with no other log's words around them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    audit.handlers = [handler]
    audit.setLevel(logging.INFO)
    audit.propagate = False


class Audit:
    """Each admitted call is written. Refusals cost a caller nothing, so only so many of them are: the next
    line says how many were not. The metric counts them all."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._room, self._filled = _BURST, clock()
        self._unwritten = 0

    def refused(self, **facts: str | None) -> None:
        now = self._clock()
        self._room = min(_BURST, self._room + (now - self._filled) * _REFUSALS_A_SECOND)
        self._filled = now
        if self._room < 1:
            self._unwritten += 1
            return
        self._room -= 1
        self._write(facts)

    def admitted(self, **facts: str | None) -> None:
        self._write(facts)

    def _write(self, facts: dict[str, str | None]) -> None:
        """What a client chose stands in a JSON string, in ASCII: no value can end a line or begin a field."""
        line: dict[str, str | int | None] = {"at": datetime.now(UTC).isoformat(timespec="milliseconds")}
        line |= {name: value if value is None else value[:128] for name, value in facts.items()}
        if self._unwritten:
            line["refusals_unwritten"], self._unwritten = self._unwritten, 0
        audit.info("%s", json.dumps(line))


def address_of(client: str) -> str:
    """The address of a client as HTTP or gRPC names it; `unknown` for what is none, such as a forged
    X-Forwarded-For."""
    if match := _GRPC_PEER.fullmatch(client):
        client = match[1].removeprefix("%5B").removesuffix("%5D")
    try:
        return str(ipaddress.ip_address(client))
    except ValueError:
        return "unknown"
