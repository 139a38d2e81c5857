"""EdgeGuard: what the world may ask of the server, decided before anything else sees the request.

What is behind it, our doors and BentoML's middlewares, makes a metric series of every path that it sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.balance import Balance
from service.errors import (
    OIP_PATH,
    RequestError,
    error_response,
    overloaded,
    sentence_response,
    shortened,
    stopping,
)

_DIGITS = 18  # of a length that is read as a number
_LINGER_S = 2.0  # how long a refused body is read on, so that its sender sees the answer and no reset
_STRANGER_BYTES = 2**20  # and how much of it, from who has no key


class HeldBytes:
    """What all requests of a worker hold together, over HTTP and gRPC: at most `most` bytes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.now = 0

    def take(self, size_bytes: int, reason: str) -> None:
        """Raises RequestError (429, `reason`) where there is no room."""
        if self.now + size_bytes > self.most:
            raise overloaded(
                reason,
                found=f"{self.now:,} bytes of requests held already",
                wanted=f"at most {self.most:,} at once, or a retry",
            )
        self.now += size_bytes

    def give_back(self, size_bytes: int) -> None:
        self.now -= size_bytes


class EdgeGuard:
    """ASGI: unknown paths answer 404, other methods 405, bodies over the limit 413, slow ones 408.

    `methods` maps each allowed path to its methods. A body is read here, whole: what is behind the
    guard never waits for a client. All bodies that are held at once, arriving or being answered, are `held`
    together: more is answered 429. `on_refusal` is told the reason of each refusal.
    `admission` may refuse a request by its path and headers, once its body is here and before it is read:
    refusing must stay cheap when there is most of it.
    `admit` lets a request in by its headers, before any of its body is read; None where no key is asked for.
    `balance` knows of all requests, and ends the connections that another worker should have. Once
    `is_ending`, every answer ends its connection.
    A client that does not read its answers is cut off below (service/http_protocol.py).
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        methods: Mapping[str, Sequence[str]],
        max_body_bytes: int,
        body_timeout_s: float,
        held: HeldBytes,
        on_refusal: Callable[[str], None],
        balance: Balance,
        admission: Callable[[str, Headers], RequestError | None],
        admit: Callable[[Scope], None] | None = None,
        is_ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self.app = app
        self.methods = methods
        self.max_body_bytes = max_body_bytes
        self.body_timeout_s = body_timeout_s
        self.held = held
        self.on_refusal = on_refusal
        self.balance = balance
        self.admission = admission
        self.admit = admit
        self.is_ending = is_ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        incoming = _Incoming(receive)
        is_known = self.admit is None
        self.balance.enter()
        try:
            try:
                self._check_door(scope)
                if self.admit is not None:
                    self.admit(scope)
                    is_known = True
                self._check_body(scope)
                body = await self._read_body(incoming)
            except RequestError as error:
                self._release(incoming)
                self.on_refusal(error.reason)
                most_bytes = math.inf if is_known else _STRANGER_BYTES
                await _refuse(_response(error, scope), incoming, send, most_bytes)
                return
            if body is None:
                return
            refusal = self.admission(scope["path"], Headers(scope=scope))
            if refusal is None:
                await self._answer(scope, body, receive, send)
            else:
                self.on_refusal(refusal.reason)
                response = _response(refusal, scope)
                if self.is_ending():
                    response.headers["Connection"] = "close"
                await response(scope, receive, send)
        finally:
            self._release(incoming)
            self.balance.leave()

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Let the app answer, for as long as the client is there."""
        task = asyncio.current_task()
        assert task is not None
        has_left = has_begun = False

        def leave(_: asyncio.Future[Message]) -> None:
            nonlocal has_left
            has_left = task.cancel()

        async def send_on(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                gone.remove_done_callback(leave)  # what the connection says from now on is the next request's
            elif message["type"] == "http.response.start" and self._is_last_answer():
                message = _ending_connection(message)
            await send(message)

        gone = asyncio.ensure_future(receive())  # after a whole body, only the end of the connection comes
        gone.add_done_callback(leave)
        try:
            await self.app(scope, _replay(body, gone), send_on)
        except asyncio.CancelledError:
            if has_left:
                task.uncancel()
                self.on_refusal("client_gone")
            elif self.is_ending() and not has_begun:
                task.uncancel()
                gone.remove_done_callback(leave)
                await self._give_up(scope, receive, send)
            else:
                raise
        finally:
            gone.remove_done_callback(leave)
            gone.cancel()

    async def _give_up(self, scope: Scope, receive: Receive, send: Send) -> None:
        """uvicorn waits for nobody any longer, and would answer 500."""
        refusal = stopping("request", "a retry, which another answers")
        self.on_refusal(refusal.reason)
        response = _response(refusal, scope)
        response.headers["Connection"] = "close"
        await response(scope, receive, send)

    def _is_last_answer(self) -> bool:
        """Whether the connection is to end with the answer that begins now."""
        return self.balance.should_move() or self.is_ending()

    def _hold(self, incoming: _Incoming, size_bytes: int) -> None:
        self.held.take(size_bytes, "bodies_full")
        incoming.held_bytes += size_bytes

    def _release(self, incoming: _Incoming) -> None:
        self.held.give_back(incoming.held_bytes)
        incoming.held_bytes = 0

    def _check_door(self, scope: Scope) -> None:
        path, method = scope["path"], scope["method"]
        allowed = self.methods.get(path)
        if allowed is None:
            known = ", ".join(self.methods)
            raise RequestError(
                404, "path_unknown", field="path", found=repr(shortened(path, 80)), wanted=f"one of {known}"
            )
        if method not in allowed:
            verbs = ", ".join(allowed)
            raise RequestError(
                405,
                "method_not_allowed",
                field="method",
                found=repr(shortened(method, 80)),
                wanted=f"{verbs} for {path}",
                headers={"Allow": verbs},
            )

    def _check_body(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        encoding = headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise RequestError(
                415,
                "content_encoding",
                field="Content-Encoding",
                found=repr(shortened(encoding, 80)),
                wanted="an uncompressed body",
            )
        declared = headers.get("content-length", "").lstrip("0")
        if declared.isdecimal() and (len(declared) > _DIGITS or int(declared) > self.max_body_bytes):
            size = f"{int(declared):,}" if len(declared) <= _DIGITS else f"about 10^{len(declared) - 1:,}"
            raise self._too_large(f"a body of {size} bytes")

    async def _read_body(self, incoming: _Incoming) -> bytes | None:
        """The whole body; None when the client went away before it was complete."""
        chunks: list[bytes] = []
        size_bytes = 0
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self.body_timeout_s):
                while not incoming.ended:
                    chunks.append(await incoming.read())
                    self._hold(incoming, len(chunks[-1]))
                    size_bytes += len(chunks[-1])
                    if size_bytes > self.max_body_bytes:
                        raise self._too_large(f"a body of more than {self.max_body_bytes:,} bytes")
            return None if incoming.disconnected else b"".join(chunks)
        except TimeoutError:
            most_s = self.body_timeout_s
        except asyncio.CancelledError:
            if not self.is_ending():
                raise
            # uvicorn waits for nobody any longer; a client that is left without a word takes it for a defect.
            _forget_cancelling()
            most_s = loop.time() - began
        raise RequestError(
            408,
            "body_too_slow",
            field="body",
            found=f"{size_bytes:,} bytes after {round(most_s, 2):g} s",
            wanted=f"the whole body within {round(most_s, 2):g} s",
        )

    def _too_large(self, found: str) -> RequestError:
        wanted = f"at most {self.max_body_bytes:,} bytes"
        return RequestError(413, "body_too_large", field="body", found=found, wanted=wanted)


def _forget_cancelling() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()


class _Incoming:
    """The body as it arrives."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False
        self.disconnected = False
        self.held_bytes = 0

    async def read(self) -> bytes:
        message = await self._receive()
        self.disconnected = message["type"] == "http.disconnect"
        self.ended = self.disconnected or not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk


def _replay(body: bytes, gone: asyncio.Future[Message]) -> Receive:
    """A `receive` that gives the body once, then what the connection says: its end."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await asyncio.shield(gone)

    return replay


def _ending_connection(start: Message) -> Message:
    """The start of an answer after which the connection ends."""
    return {**start, "headers": [*start["headers"], (b"connection", b"close")]}


def _response(error: RequestError, scope: Scope) -> Response:
    """An error as the path's protocol tells it."""
    respond = sentence_response if scope["path"].startswith(OIP_PATH) else error_response
    return respond(error)


async def _refuse(response: Response, incoming: _Incoming, send: Send, most_bytes: float) -> None:
    """Answer, then read on for a moment, and keep nothing: closing on unread bytes would reset the
    connection, and the client would see that instead of the answer."""
    response.headers["Connection"] = "close"
    start = {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    await send(start)
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while not incoming.ended and most_bytes >= 0:
                most_bytes -= len(await incoming.read())
    await send({"type": "http.response.body", "body": b""})
