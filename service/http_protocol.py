"""uvicorn's HTTP with a few changes below what the guard sees.

What comes before a request's body, its address and headers, is bounded in size and in time: with httptools
uvicorn bounds neither, and the guard hears of a request only when its headers are here whole. An answer's
head and body leave together: uvicorn writes them apart, each a system call, a packet, and a turn of the
client's. A client that does not take its answers is cut off. And nobody changes to another protocol: nothing
here speaks one.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import RequestError, error_response

MOST_BYTES = 32 * 2**10  # of address, names and values; proxies take 8 to 64 KiB
LINE_BYTES = 32  # what each header counts beside its letters, as in HTTP/2
READ_BYTES = 2**18  # most that one read brings
# Until a request's head is here whole, from the connection's beginning or the answer before it. Balancers let
# go of a silent connection after 60 s: where the server ends it first, a request that is on its way is reset.
# uvicorn's 5 s are what httpx keeps its connections for, and end with a head's first byte.
HEAD_TIMEOUT_S = 75


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP, which answers 431 and ends the connection where a request begins with more than
    MOST_BYTES, or where more than a read brings nothing that the parser could hand on (a header without
    end)."""

    def __init__(
        self, *args: Any, answer_timeout_s: float, on_unread: Callable[[], None], **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self.timeout_keep_alive = HEAD_TIMEOUT_S
        self._answer_timeout_s = answer_timeout_s
        self._on_unread = on_unread
        self._head_bytes = 0
        self._silent_bytes = 0
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._outgoing = _Outgoing(
            transport, self.loop, timeout_s=self._answer_timeout_s, on_unread=self._on_unread
        )
        super().connection_made(self._outgoing)  # type: ignore[arg-type]
        self.timeout_keep_alive_task = self.loop.call_later(HEAD_TIMEOUT_S, self.timeout_keep_alive_handler)

    def eof_received(self) -> None:
        self._outgoing.flush()  # the connection closes now, and what was answered is to be sent

    def connection_lost(self, exc: Exception | None) -> None:
        self._outgoing.end()
        super()._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._silent_bytes += len(data)
        super().data_received(data)
        if self._silent_bytes > READ_BYTES and not self._refused:
            self.send_400_response("")

    def on_message_begin(self) -> None:
        self._silent_bytes = self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + LINE_BYTES)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super()._unset_keepalive_if_required()
        super().on_headers_complete()

    def _unset_keepalive_if_required(self) -> None:
        """uvicorn calls it with a request's first byte, which says nothing of the rest."""

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._silent_bytes = 0
        super().on_message_complete()

    def _should_upgrade(self) -> bool:
        return False

    def _unsupported_upgrade_warning(self) -> None:
        """A wish to speak another protocol may be ignored, but with it the parser passes over the body."""
        headers = dict(self.headers)
        if headers.get(b"content-length", b"0").strip(b"0") or b"transfer-encoding" in headers:
            self.cycle.disconnected = True  # the app is not to answer half a request
            self._refuse(
                RequestError(
                    400,
                    "upgrade_unsupported",
                    field="Upgrade",
                    found="a request with a body that would change to another protocol",
                    wanted="HTTP/1.1 without Upgrade",
                )
            )

    def _count(self, size: int) -> None:
        """Raises ValueError, which ends the parser's work and makes uvicorn call `send_400_response`."""
        self._silent_bytes = 0
        self._head_bytes += size
        if self._head_bytes > MOST_BYTES:
            raise ValueError(f"found {self._head_bytes:,} bytes of headers, wanted {MOST_BYTES:,}")

    def send_400_response(self, msg: str) -> None:
        """In the house's shape; 431 where it is the length."""
        if self._refused:
            return
        if max(self._head_bytes - MOST_BYTES, self._silent_bytes - READ_BYTES) <= 0:
            self._refuse(
                RequestError(
                    400,
                    "http_broken",
                    field="request",
                    found="what is no HTTP/1.1",
                    wanted="a request line and headers",
                )
            )
            return
        self._refuse(
            RequestError(
                431,
                "headers_too_long",
                field="headers",
                found=f"more than {MOST_BYTES:,} bytes of address and headers",
                wanted=f"at most {MOST_BYTES:,}",
            )
        )

    def _refuse(self, refusal: RequestError) -> None:
        self._refused = True
        response = error_response(refusal)
        response.headers["Connection"] = "close"
        lines = [b"%s: %s\r\n" % line for line in response.raw_headers]
        self.transport.write(b"".join([STATUS_LINE[refusal.status], *lines, b"\r\n", response.body]))
        self.transport.close()


class _Outgoing:
    """A transport that sends what is written within one turn of the event loop at its end, in one piece, and
    ends its connection where the client has not taken within `timeout_s` what waited for it."""

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        *,
        timeout_s: float,
        on_unread: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._timeout_s = timeout_s
        self._on_unread = on_unread
        self._waiting: list[bytes] = []
        self._written_bytes = 0
        self._look: asyncio.TimerHandle | None = None  # one at a time: timers cost as much as sending

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not data:
            return
        if not self._waiting:
            self._loop.call_soon(self.flush)
        self._waiting.append(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        if self._waiting and not self._transport.is_closing():
            data = b"".join(self._waiting)
            self._written_bytes += len(data)
            self._transport.write(data)
            self._watch()
        self._waiting.clear()

    def end(self) -> None:
        """The connection is gone."""
        if self._look is not None:
            self._look.cancel()

    def _watch(self) -> None:
        if self._look is None and self._transport.get_write_buffer_size():
            self._look = self._loop.call_later(self._timeout_s, self._see, self._written_bytes)

    def _see(self, wanted_bytes: int) -> None:
        """Whether so much has been taken."""
        self._look = None
        if self._written_bytes - self._transport.get_write_buffer_size() < wanted_bytes:
            self._on_unread()
            self._transport.abort()
        else:
            self._watch()


def use_bounded_http(*, answer_timeout_s: float, on_unread: Callable[[], None]) -> None:
    """Make it the HTTP of every uvicorn of this process: BentoML, which starts it, lets nobody choose.
    `on_unread` hears of each client that is cut off for want of reading."""
    auto.AutoHTTPProtocol = functools.partial(  # type: ignore[assignment]
        BoundedHttp, answer_timeout_s=answer_timeout_s, on_unread=on_unread
    )
