"""What all calls over gRPC have in common: their terms, what they hold, and faults as a status with HTTP's
message and details for programs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status.rpc_status import to_status

from aisle.errors import ProductError
from service.desk import Desk, Given, size_bytes
from service.errors import LATE_STATUS, OVERLOADED_STATUS, RequestError
from service.guard import HeldBytes
from service.metrics import UNARY_METHODS
from service.terms import PRIORITY, Priority, Terms, read_priority

Metadata = Iterable[tuple[str, str | bytes]]

_PRIORITY = PRIORITY.lower()

_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    OVERLOADED_STATUS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    LATE_STATUS: grpc.StatusCode.DEADLINE_EXCEEDED,
}


def terms_of(context: grpc.aio.ServicerContext, default: Priority = Priority.INTERACTIVE) -> Terms:
    """The call's deadline, and the priority in its metadata. Raises RequestError (INVALID_ARGUMENT)."""
    priority = _priority(context.invocation_metadata() or (), default)
    return Terms(priority=priority, timeout_s=context.time_remaining())


def early_refusal(desk: Desk, method: str, metadata: Metadata) -> RequestError | None:
    """Why a call's message is not even read; None where it may go on. Its deadline is not known yet."""
    if method not in UNARY_METHODS:
        return None
    try:
        priority = _priority(metadata, Priority.INTERACTIVE)
    except RequestError:
        return None  # the door says what is wrong with it
    return desk.refusal(Terms(priority=priority))


def _priority(metadata: Metadata, default: Priority) -> Priority:
    for name, value in metadata:
        if name == _PRIORITY:
            return read_priority(str(value))
    return default


@contextlib.contextmanager
def holding(held: HeldBytes, given: Sequence[Given], desk: Desk) -> Iterator[None]:
    """Room for a message's products, until it is answered. Raises RequestError (429)."""
    held_bytes = size_bytes(given)
    try:
        held.take(held_bytes, "messages_full")
    except RequestError as error:
        desk.telemetry.shed(error.reason, len(given))
        raise
    try:
        yield
    finally:
        held.give_back(held_bytes)


def status_code(fault: RequestError | ProductError) -> grpc.StatusCode:
    if isinstance(fault, ProductError):
        return grpc.StatusCode.INVALID_ARGUMENT
    return _CODES.get(fault.status, grpc.StatusCode.INVALID_ARGUMENT)


# A status travels in metadata, of which a client takes 8 KiB by default, and else sees RESOURCE_EXHAUSTED.
_MOST_ANSWER_BYTES = 4_096


def full_status(fault: RequestError | ProductError, answer: Message | None = None) -> Status:
    """Code and message; the details are an ErrorInfo (reason, field, found, wanted), a RetryInfo where a
    retry helps, and `answer`, which says what is wrong product by product, where it is short enough."""
    code = status_code(fault)
    status = Status(code=code.value[0], message=str(fault))
    facts = {"field": fault.field, "found": fault.found, "wanted": fault.wanted}
    details: list[Message] = [ErrorInfo(reason=fault.reason, domain="aisle", metadata=facts)]
    if isinstance(fault, RequestError) and "Retry-After" in fault.headers:
        details.append(RetryInfo(retry_delay=Duration(seconds=int(fault.headers["Retry-After"]))))
    if answer is not None and answer.ByteSize() <= _MOST_ANSWER_BYTES:
        details.append(answer)
    for detail in details:
        status.details.add().Pack(detail)
    return status


async def abort(
    context: grpc.aio.ServicerContext, fault: RequestError | ProductError, answer: Message | None = None
) -> NoReturn:
    """End the call with `full_status`."""
    whole = to_status(full_status(fault, answer))
    await context.abort(whole.code, whole.details, whole.trailing_metadata)
    raise AssertionError("abort raises")
