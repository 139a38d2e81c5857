"""What stands before every door over gRPC: it counts how each call ends, refuses some unread, and reads the
message of those that have one."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from service.errors import DEADLINE_SHORT, LATE_STATUS, RequestError, overloaded
from service.grpc_calls import Metadata, abort
from service.metrics import METHODS
from service.porter import GRPC, OPEN, Porter
from service.protobuf_fields import MOST_FIELDS, has_more_fields
from service.telemetry import Telemetry

MAX_PROBES = 64  # health checks and watches under way in a worker
A_MOMENT_S = 0.05  # in which gRPC tells that a client has left
A_STREAMS_MOMENT_S = 0.005  # the same at a stream's end, for which clients wait that are still there
UNKNOWN_METHOD = "unknown"  # whatever is not served: clients make names up, and each would be a series

Context = grpc.aio.ServicerContext
Details = grpc.HandlerCallDetails
Handler = grpc.RpcMethodHandler


@dataclass(frozen=True, slots=True)
class _Broken:
    """What was found instead of a message that can be read. gRPC would end the call with UNKNOWN, which says
    that the server failed."""

    found: str
    wanted: str

    def refusal(self) -> RequestError:
        return RequestError(400, "message_broken", field="message", found=self.found, wanted=self.wanted)


class _Call:
    """A call whose message is here: when its handler began, and how long its client waits from then on."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.began = time.perf_counter()
        self.timeout_s: float | None = context.time_remaining()

    def status(self, error: BaseException | None) -> str:
        """The name of the status that it ends with, where its handler raised `error`."""
        if (code := self.context.code()) is not None:
            name: str = code.name
            return name
        if error is None:
            return "OK"
        if not isinstance(error, asyncio.CancelledError | GeneratorExit):
            return "UNKNOWN"
        left_s = self.context.time_remaining()
        # Deadlines travel with two or three digits, rounded up: the client's own is up to 1 % sooner. And its
        # clock began before ours, by as much as the call took to be here.
        is_over = left_s is not None and left_s <= 0.01 + 0.01 * (time.perf_counter() - self.began)
        return "DEADLINE_EXCEEDED" if is_over else "CANCELLED"


class _Room:
    """Calls under way, from their headers to their end."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.under_way = 0

    def enter(self) -> None:
        """The call is this task, to its end: it waits for the message, answers it, and sends the answer."""
        task = asyncio.current_task()
        assert task is not None
        self.under_way += 1
        task.add_done_callback(self._leave)

    def _leave(self, _: asyncio.Task[Any]) -> None:
        self.under_way -= 1


class GrpcEdge(grpc.aio.ServerInterceptor):
    """At most `max_calls` are under way; those that ask for no key have a room of their own, so that nobody
    without one can fill the others'. More are refused, and so is what `porter` (None where no key is asked
    for) and `admission` refuse by method and metadata: their messages are never read.

    The message of a method that takes one must be here whole `message_timeout_s` after the call has begun.
    gRPC would wait for it as long as the client likes, and keep what has come; so all methods are streams to
    gRPC, and that one message is read here. Of a method that takes a stream no message is timed: one that has
    begun cannot be told from one that has not, and a stream may be idle.

    A call counts once, when it ends. One that is gone before its message is here whole does not count, as
    over HTTP. `is_short` says whether a client that waits so long has chosen less time than is promised. All
    handlers are asynchronous.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        *,
        max_calls: int,
        message_timeout_s: float,
        admission: Callable[[str, Metadata], RequestError | None],
        is_short: Callable[[float | None], bool],
        porter: Porter | None = None,
    ) -> None:
        self.telemetry = telemetry
        self.calls, self.probes = _Room(max_calls), _Room(MAX_PROBES)
        self.message_timeout_s = message_timeout_s
        self.admission = admission
        self.is_short = is_short
        self.porter = porter
        self._counted: dict[str, Handler] = {}
        self._cuts: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Handler]], call: Details
    ) -> Handler:
        handler = await continuation(call)
        if handler is None:  # its stubs do not know that
            self.telemetry.called(UNKNOWN_METHOD, grpc.StatusCode.UNIMPLEMENTED.name)
            return handler
        if (refusal := self._refusal(call)) is not None:
            self.telemetry.error(refusal.reason)
            return self._count(call.method, _refusing(refusal))
        self._room(call.method).enter()
        counted = self._counted.get(call.method)
        if counted is None:
            counted = self._counted[call.method] = self._count(call.method, handler)
        return counted

    def _refusal(self, call: Details) -> RequestError | None:
        if self.porter is not None:
            refusal = self.porter.judge(call.method, call.invocation_metadata)
            if refusal is not None:
                return refusal
        room = self._room(call.method)
        if room.under_way < room.limit:
            return self.admission(call.method, call.invocation_metadata)
        if room is self.calls:
            self.telemetry.shed("calls_full")
        found, wanted = f"{room.under_way:,} calls under way", f"at most {room.limit:,}, or a retry"
        return overloaded("calls_full" if room is self.calls else "probes_full", found=found, wanted=wanted)

    def _room(self, method: str) -> _Room:
        return self.probes if GRPC.get(method) == OPEN else self.calls

    def _count(self, method: str, handler: Handler) -> Handler:
        has_one = not handler.request_streaming
        asked = "unary" if has_one else "stream"
        answered = "stream" if handler.response_streaming else "unary"
        answer = getattr(handler, f"{asked}_{answered}")
        if inspect.isasyncgenfunction(answer):
            counted: Callable[..., Any] = self._count_generator(method, answer, has_one=has_one)
        else:
            is_timed = has_one and not handler.response_streaming
            counted = self._count_coroutine(method, answer, has_one=has_one, is_timed=is_timed)
        make = getattr(grpc, f"stream_{answered}_rpc_method_handler")
        made: Handler = make(counted, _reader(handler.request_deserializer), handler.response_serializer)
        return made

    def _ended(
        self, method: str, call: _Call, error: BaseException | None = None, *, is_timed: bool = False
    ) -> None:
        status = call.status(error)
        seconds = time.perf_counter() - call.began if is_timed and status == "OK" else None
        self.telemetry.called(method, status, seconds)
        if status == "DEADLINE_EXCEEDED" and method in METHODS:
            is_short = self.is_short(call.timeout_s)
            if is_short:
                self.telemetry.ran_short()
            if isinstance(error, asyncio.CancelledError):  # the desk, which tells of the others, was too late
                self.telemetry.error(DEADLINE_SHORT if is_short else "timeout")

    async def _refuse(self, refusal: RequestError, context: Context) -> NoReturn:
        self.telemetry.error(refusal.reason)
        await abort(context, refusal)

    async def _read_one(self, context: Context) -> Any:
        """The one message of a call, whole. The call ends where it is not here in time.

        It is ended from beside the read: a read that is cancelled would lose a message that comes meanwhile,
        and never free it.
        """

        def cut() -> None:
            task = asyncio.ensure_future(self._end_late(context, late))
            self._cuts.add(task)
            task.add_done_callback(self._cuts.discard)

        late = asyncio.get_running_loop().call_later(self.message_timeout_s, cut)
        try:
            # What comes after it is not read: to wait for its end costs an eighth of the calls a second.
            request = await context.read()
        finally:
            late.cancel()
        if request is grpc.aio.EOF:  # type: ignore[attr-defined]  # its stubs are older
            await asyncio.sleep(A_MOMENT_S)  # a client that has left looks the same at first
            return _Broken("no message", "one message")
        return request

    async def _end_late(self, context: Context, late: asyncio.TimerHandle) -> None:
        if late.cancelled():  # it came at the last moment, or its client left
            return
        refusal = RequestError(
            LATE_STATUS,
            "message_too_slow",
            field="message",
            found=f"no whole message after {self.message_timeout_s:g} s",
            wanted=f"the whole message within {self.message_timeout_s:g} s",
        )
        with contextlib.suppress(grpc.aio.AbortError):  # for the call's own task
            await self._refuse(refusal, context)

    def _count_coroutine(
        self,
        method: str,
        answer: Callable[[Any, Context], Awaitable[Any]],
        *,
        has_one: bool,
        is_timed: bool,
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        porter = self.porter

        async def counted(request: Any, context: Context) -> Any:
            if porter is not None:
                porter.meet(context)
            if has_one:
                request = await self._read_one(context)
            call = _Call(context)
            try:
                if isinstance(request, _Broken):
                    await self._refuse(request.refusal(), context)
                answered = await answer(request, context)
            except BaseException as error:
                self._ended(method, call, error)
                raise
            self._ended(method, call, is_timed=is_timed)
            return answered

        return counted

    def _count_generator(
        self, method: str, answer: Callable[[Any, Context], AsyncIterator[Any]], *, has_one: bool
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        porter = self.porter

        async def answers_of(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                if isinstance(request, _Broken):
                    raise request.refusal()
                given = request if has_one else _whole(request)
                async with contextlib.aclosing(answer(given, context)) as answers:  # type: ignore[type-var]
                    async for answered in answers:
                        yield answered
            except RequestError as refusal:
                await self._refuse(refusal, context)

        async def counted(request: Any, context: Context) -> AsyncIterator[Any]:
            if porter is not None:
                porter.meet(context)
            if has_one:
                request = await self._read_one(context)
            call = _Call(context)
            try:
                async with contextlib.aclosing(answers_of(request, context)) as answers:  # type: ignore[type-var]
                    async for answered in answers:
                        yield answered
            except BaseException as error:
                self._ended(method, call, error)
                raise
            self._ended(method, call)

        return counted


def _reader(read: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if read is None:  # a refusal reads nothing
        return None

    def read_or_tell(message: bytes) -> Any:
        if has_more_fields(message):
            return _Broken(f"more than {MOST_FIELDS:,} fields", f"at most {MOST_FIELDS:,}")
        try:
            return read(message)
        except DecodeError:
            return _Broken(f"{len(message):,} bytes that cannot be read", "a message of this method's type")

    return read_or_tell


async def _whole(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The messages of a stream. Raises RequestError at one that cannot be read."""
    async for request in requests:
        if isinstance(request, _Broken):
            raise request.refusal()
        yield request
    await asyncio.sleep(A_STREAMS_MOMENT_S)  # a client that has left looks the same at first


def _refusing(refusal: RequestError) -> Handler:
    """A stream to gRPC, whatever the client has called: a stream's messages are read by its handler."""

    async def refuse(_: Any, context: Context) -> NoReturn:
        await abort(context, refusal)

    return grpc.stream_stream_rpc_method_handler(refuse)
