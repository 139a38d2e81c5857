"""uvicorn's HTTP with two changes below what the guard sees.

What comes before a request's body, its address and headers, is bounded: with httptools uvicorn bounds
nothing, and the guard hears of a request only when its headers are here whole. And an answer's head and body
leave together: uvicorn writes them apart, each a system call, a packet, and a turn of the client's.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import RequestError, error_response

MOST_BYTES = 32 * 2**10  # of address, names and values; proxies take 8 to 64 KiB
LINE_BYTES = 32  # what each header counts beside its letters, as in HTTP/2
READ_BYTES = 2**18  # most that one read brings


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP, which answers 431 and ends the connection where a request begins with more than
    MOST_BYTES, or where more than a read brings nothing that the parser could hand on (a header without
    end)."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._head_bytes = 0
        self._silent_bytes = 0
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Together(transport, self.loop))  # type: ignore[arg-type]

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

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._silent_bytes = 0
        super().on_message_complete()

    def _count(self, size: int) -> None:
        """Raises ValueError, which ends the parser's work and makes uvicorn call `send_400_response`."""
        self._silent_bytes = 0
        self._head_bytes += size
        if self._head_bytes > MOST_BYTES:
            raise ValueError(f"found {self._head_bytes:,} bytes of headers, wanted {MOST_BYTES:,}")

    def send_400_response(self, msg: str) -> None:
        """As uvicorn does, or 431 in the house's shape."""
        if self._refused:
            return
        self._refused = True
        if max(self._head_bytes - MOST_BYTES, self._silent_bytes - READ_BYTES) <= 0:
            super().send_400_response(msg)
            return
        refusal = RequestError(
            431,
            "headers_too_long",
            field="headers",
            found=f"more than {MOST_BYTES:,} bytes of address and headers",
            wanted=f"at most {MOST_BYTES:,}",
        )
        response = error_response(refusal)
        response.headers["Connection"] = "close"
        lines = [b"%s: %s\r\n" % line for line in response.raw_headers]
        self.transport.write(b"".join([STATUS_LINE[431], *lines, b"\r\n", response.body]))
        self.transport.close()


class _Together:
    """A transport that sends what is written within one turn of the event loop at its end, in one piece."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not data:
            return
        if not self._waiting:
            self._loop.call_soon(self._send)
        self._waiting.append(data)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._waiting and not self._transport.is_closing():
            self._transport.write(b"".join(self._waiting))
        self._waiting.clear()


def use_bounded_http() -> None:
    """Make it the HTTP of every uvicorn of this process: BentoML, which starts it, lets nobody choose."""
    auto.AutoHTTPProtocol = BoundedHttp
