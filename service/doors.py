"""The HTTP application of our own: the JSON door, the upload door and their OpenAPI page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aisle.prediction import Prediction
from aisle.product import Product
from service.desk import Desk, Given, Reply
from service.errors import RETRY_AFTER_S, RequestError, error_object, error_response, json_response
from service.json_door import read_json
from service.openapi import CLASSIFY, OPENAPI, UPLOAD, specification
from service.upload_door import read_upload
from service.wire import result_object

# What EdgeGuard lets in: our doors, and what BentoML answers.
METHODS: Mapping[str, Sequence[str]] = {
    CLASSIFY: ("POST",),
    UPLOAD: ("POST",),
    OPENAPI: ("GET", "HEAD"),
    "/livez": ("GET", "HEAD"),
    "/readyz": ("GET", "HEAD"),
    "/metrics": ("GET", "HEAD"),
}

logger = logging.getLogger("aisle.service")


class Doors:
    """`desk` gives the worker's desk; it is asked at each request, since the app is older than it."""

    def __init__(self, desk: Callable[[], Desk]) -> None:
        self.desk = desk

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route(CLASSIFY, self.classify, methods=["POST"]),
                Route(UPLOAD, self.upload, methods=["POST"]),
                Route(OPENAPI, self.openapi, methods=["GET"]),
            ],
            exception_handlers={RequestError: self.refuse, Exception: self.fail},
        )

    async def classify(self, request: Request) -> Response:
        desk = self.desk()
        body = await request.body()
        with desk.telemetry.stage("parse"):
            given, top_k = read_json(request.headers.get("content-type", ""), body)
        return self._respond(given, await desk.classify(given, top_k))

    async def upload(self, request: Request) -> Response:
        desk = self.desk()
        body = await request.body()
        with desk.telemetry.stage("parse"):
            given, top_k = await read_upload(request.headers, body)
        return self._respond([given], await desk.classify([given], top_k))

    async def openapi(self, request: Request) -> Response:
        return json_response(specification())

    def _respond(self, given: Sequence[Given], reply: Reply) -> Response:
        """200 where one product or more has an answer; else the error of the first, beside all."""
        telemetry = self.desk().telemetry
        results = [
            result_object(product.product_id if isinstance(product, Product) else None, outcome)
            for product, outcome in zip(given, reply.outcomes, strict=True)
        ]
        faults = [outcome for outcome in reply.outcomes if not isinstance(outcome, Prediction)]
        for fault in faults:
            telemetry.error(fault.reason)
        if len(faults) < len(results):
            return json_response({"model": reply.model, "results": results})
        statuses = [fault.status for fault in faults if isinstance(fault, RequestError)]
        status = max(statuses, default=422)
        headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
        return json_response({"error": error_object(faults[0]), "results": results}, status, headers)

    async def refuse(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        self.desk().telemetry.error(error.reason)
        return error_response(error)

    async def fail(self, request: Request, error: Exception) -> Response:
        """A defect of ours. Its traceback is in the log; the client learns its name."""
        refusal = RequestError(
            500, "internal", field="server", found=f"a failure ({type(error).__name__})", wanted="an answer"
        )
        self.desk().telemetry.error(refusal.reason)
        return error_response(refusal)
