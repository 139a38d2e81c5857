"""How a request wants to be served: its priority, and how long its client waits. Headers over HTTP, metadata
and the deadline over gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from service.errors import RequestError

PRIORITY = "Aisle-Priority"
TIMEOUT = "Aisle-Timeout-Ms"
# Seconds in which an answer is promised: the latency objective of 1 s (monitoring/prometheus/rules.yml), less
# what a deadline over gRPC loses on its way.
PROMISED_S = 0.9
_MAX_DIGITS = 9


class Priority(StrEnum):
    """An interactive request is answered at once or refused at once; a bulk one waits for its turn."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """`timeout_s` is None where the client does not say how long it waits. Of a later message of a stream it
    is what is left, and `stream_s` what the client gave the whole."""

    priority: Priority = Priority.INTERACTIVE
    timeout_s: float | None = None
    stream_s: float | None = None

    @property
    def chosen_s(self) -> float | None:
        """The time that the client chose."""
        return self.timeout_s if self.stream_s is None else self.stream_s


DEFAULT = Terms()


def read_terms(headers: Mapping[str, str]) -> Terms:
    """Terms of a request over HTTP; `headers` finds names in any case. Raises RequestError (422)."""
    priority, timeout = headers.get(PRIORITY), headers.get(TIMEOUT)
    if priority is None and timeout is None:
        return DEFAULT
    return Terms(priority=read_priority(priority), timeout_s=_read_timeout(timeout))


def read_priority(text: str | None, default: Priority = Priority.INTERACTIVE) -> Priority:
    """Raises RequestError (422)."""
    if text is None:
        return default
    try:
        return Priority(text.lower())
    except ValueError as error:
        raise _wrong(PRIORITY, text, f"one of {', '.join(Priority)}") from error


def _read_timeout(text: str | None) -> float | None:
    if text is None:
        return None
    text = text.strip(" \t")  # which is no part of a header's value (RFC 9110)
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS and int(text) > 0):
        raise _wrong(TIMEOUT, text, f"milliseconds, a whole number of 1 to {_MAX_DIGITS} digits")
    return int(text) / 1000


def _wrong(name: str, text: str, wanted: str) -> RequestError:
    return RequestError(422, "value_wrong", field=name, found=repr(text[:60]), wanted=wanted)
