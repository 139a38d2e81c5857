"""Faults as gRPC tells them: a status, the same message as HTTP's, and details for programs."""

from __future__ import annotations

from typing import NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status.rpc_status import to_status

from aisle.errors import ProductError
from service.errors import RETRY_AFTER_S, RequestError

_CODES = {
    404: grpc.StatusCode.NOT_FOUND,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_SHED = ("queue_full", "latency", "bodies_full")  # reasons that another moment, or fewer products, would mend


def status_code(fault: RequestError | ProductError) -> grpc.StatusCode:
    if isinstance(fault, ProductError):
        return grpc.StatusCode.INVALID_ARGUMENT
    if fault.reason in _SHED:
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    return _CODES.get(fault.status, grpc.StatusCode.INVALID_ARGUMENT)


def full_status(fault: RequestError | ProductError, answer: Message | None = None) -> Status:
    """Code and message; the details are an ErrorInfo (reason, field, found, wanted), a RetryInfo where a
    retry helps, and `answer`, which says what is wrong product by product."""
    code = status_code(fault)
    status = Status(code=code.value[0], message=str(fault))
    facts = {"field": fault.field, "found": fault.found, "wanted": fault.wanted}
    details: list[Message] = [ErrorInfo(reason=fault.reason, domain="aisle", metadata=facts)]
    if code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE):
        details.append(RetryInfo(retry_delay=Duration(seconds=RETRY_AFTER_S)))
    if answer is not None:
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
