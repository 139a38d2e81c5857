"""The one JSON shape of everything that goes wrong: {"error": {reason, field, found, wanted, message}}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from aisle.errors import AisleError, ProductError

RETRY_AFTER_S = 1  # a batch or a few: a client that comes back then meets another queue
OVERLOADED_STATUS, LATE_STATUS = 429, 504
OIP_PATH = "/v2"
CHALLENGER_FAILED = "challenger_failed"
DEADLINE_SHORT = "deadline_short"  # the client chose less time than is promised: no fault of ours


class RequestError(AisleError):
    """A request that is not answered. `status` is HTTP's; `reason` is a short constant for metrics."""

    def __init__(
        self,
        status: int,
        reason: str,
        *,
        field: str,
        found: str,
        wanted: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{field}: found {found}, wanted {wanted}")
        self.status = status
        self.reason = reason
        self.field = field
        self.found = found
        self.wanted = wanted
        self.headers = dict(headers or {})


def overloaded(reason: str, *, found: str, wanted: str, retry_after_s: int = RETRY_AFTER_S) -> RequestError:
    """Products that were shed; the same request may be answered a little later."""
    headers = {"Retry-After": str(retry_after_s)}
    return RequestError(
        OVERLOADED_STATUS, reason, field="request", found=found, wanted=wanted, headers=headers
    )


def features_unavailable() -> RequestError:
    """An id alone, while the feature store cannot be read: it may be known, so this is not its fault."""
    found = "an id alone while the feature store cannot be read"
    wanted = "a title, a description or an image with it, or a retry"
    return _unavailable("features_unavailable", field="product_id", found=found, wanted=wanted)


def challenger_failed() -> RequestError:
    """A canary that could not answer: the champion is asked instead, so that no client sees this."""
    return RequestError(
        500, CHALLENGER_FAILED, field="product", found="a failure of the challenger", wanted="an answer"
    )


def ledger_unavailable(field: str, wanted: str) -> RequestError:
    """What needs the database, while it does not answer."""
    found = "a ledger that does not answer"
    return _unavailable("ledger_unavailable", field=field, found=found, wanted=wanted)


def stopping(field: str, wanted: str) -> RequestError:
    """What a server cannot answer any more before it ends."""
    return _unavailable("stopping", field=field, found="a server that stops", wanted=wanted)


def _unavailable(reason: str, *, field: str, found: str, wanted: str) -> RequestError:
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return RequestError(503, reason, field=field, found=found, wanted=wanted, headers=headers)


def ledger_refused(field: str) -> RequestError:
    """What the database will never take; a retry would end likewise."""
    found = "a value that the ledger cannot hold"
    return RequestError(
        422, "ledger_refused", field=field, found=found, wanted="others, nothing was recorded"
    )


def error_object(fault: RequestError | ProductError) -> dict[str, str]:
    return {
        "reason": fault.reason,
        "field": sendable(fault.field),
        "found": sendable(fault.found),
        "wanted": fault.wanted,
        "message": sendable(str(fault)),
    }


def sendable(text: str) -> str:
    """Text that may quote a client, with a question mark for each half of a surrogate pair: no JSON that is
    read strictly can hold one."""
    return text.encode(errors="replace").decode()


def shortened(text: str, most: int = 60) -> str:
    """Text that quotes a client, or its beginning."""
    return text if len(text) <= most else text[: most - 3] + "..."


def error_response(error: RequestError) -> Response:
    return json_response({"error": error_object(error)}, error.status, error.headers)


def sentence_response(error: RequestError) -> Response:
    """As the Open Inference Protocol has it: `error` is a sentence."""
    return json_response({"error": sendable(str(error))}, error.status, error.headers)


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(content), status, headers, media_type="application/json")
