"""The HTTP application of our own: the JSON door, the upload door, labels, the Open Inference Protocol."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from aisle.product import Product
from service import oip_door
from service.desk import PRODUCT_FAULT_STATUS, Desk, Given, Reply, worst_fault
from service.errors import RequestError, error_object, error_response, json_response
from service.json_door import read_json
from service.labels import LabelBook, read_labels
from service.ledger_reader import LedgerReader
from service.monitor_door import read_monitor
from service.oip_door import Door, OipDoor
from service.openapi import CLASSIFY, LABELS, MONITOR, OPENAPI, PREDICTIONS, PRODUCTS, UPLOAD, specification
from service.predictions_door import read_page
from service.product_door import read_product
from service.telemetry import Telemetry
from service.terms import read_terms
from service.upload_door import read_upload
from service.wire import result_object

# What EdgeGuard lets in: our doors, and what BentoML answers.
METHODS: Mapping[str, Sequence[str]] = {
    CLASSIFY: ("POST",),
    UPLOAD: ("POST",),
    LABELS: ("POST",),
    PREDICTIONS: ("GET",),
    PRODUCTS: ("GET",),
    MONITOR: ("GET",),
    OPENAPI: ("GET", "HEAD"),
    **oip_door.METHODS,
    "/livez": ("GET", "HEAD"),
    "/readyz": ("GET", "HEAD"),
    "/metrics": ("GET", "HEAD"),
    "/schema.json": ("GET", "HEAD"),  # bentoml.SyncHTTPClient reads it when it is made
}

CLASSIFYING = (CLASSIFY, UPLOAD, oip_door.INFER)

logger = logging.getLogger("aisle.service")


def early_refusal(desk: Desk, path: str, headers: Mapping[str, str]) -> RequestError | None:
    """Why a request is not even parsed; None where it may go on."""
    if path not in CLASSIFYING:
        return None
    try:
        terms = read_terms(headers)
    except RequestError:
        return None  # the door says what is wrong with them
    return desk.refusal(terms)


class Doors:
    """ASGI: each path's door, and for what is none of ours `beside`, BentoML's app, whose middlewares our
    requests do not pass. EdgeGuard, which stands before it, has looked at path and method.

    `desk`, `labels` and `reader` give the worker's; they are asked at each request, since the app is older.
    """

    def __init__(
        self,
        desk: Callable[[], Desk],
        labels: Callable[[], LabelBook],
        reader: Callable[[], LedgerReader],
        *,
        telemetry: Telemetry,
        beside: ASGIApp,
    ) -> None:
        self.desk = desk
        self.labels = labels
        self.reader = reader
        self.telemetry = telemetry
        self.beside = beside
        self.doors: Mapping[str, Door] = {
            CLASSIFY: self.classify,
            UPLOAD: self.upload,
            LABELS: self.label,
            PREDICTIONS: self.predictions,
            PRODUCTS: self.product,
            MONITOR: self.monitor,
            OPENAPI: self.openapi,
            **OipDoor(desk).doors(),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        door = self.doors.get(scope["path"]) if scope["type"] == "http" else None
        if door is None:
            await self.beside(scope, receive, send)
            return
        with self.telemetry.request(scope["path"]) as answered:
            response = await self._response(door, Request(scope, receive))
            await response(scope, receive, send)
            answered(response.status_code)

    async def _response(self, door: Door, request: Request) -> Response:
        try:
            return await door(request)
        except RequestError as error:
            self.telemetry.refused(error)
            return error_response(error)
        except Exception as error:
            return self._fail(error)

    async def classify(self, request: Request) -> Response:
        desk = self.desk()
        body = await request.body()
        with self.telemetry.stage("parse"):
            terms = read_terms(request.headers)
            given, ask = read_json(request.headers.get("content-type", ""), body)
        return self._respond(given, await desk.classify(given, ask, terms))

    async def upload(self, request: Request) -> Response:
        desk = self.desk()
        body = await request.body()
        with self.telemetry.stage("parse"):
            terms = read_terms(request.headers)
            given, ask = await read_upload(request.headers, body)
        return self._respond([given], await desk.classify([given], ask, terms))

    async def label(self, request: Request) -> Response:
        given = read_labels(request.headers.get("content-type", ""), await request.body())
        results = await self.labels().record(given)
        faults = [result["error"] for result in results if "error" in result]
        for fault in faults:
            self.telemetry.error(fault["reason"])
        self.telemetry.labelled(len(results) - len(faults))
        if len(faults) < len(results):
            return json_response({"results": results})
        return json_response({"error": faults[0], "results": results}, PRODUCT_FAULT_STATUS)

    async def predictions(self, request: Request) -> Response:
        taxonomy = self.desk().champion().classifier.taxonomy
        return json_response(await read_page(request.query_params, self.reader(), taxonomy))

    async def product(self, request: Request) -> Response:
        taxonomy = self.desk().champion().classifier.taxonomy
        return json_response(await read_product(request.query_params, self.reader(), taxonomy))

    async def monitor(self, request: Request) -> Response:
        model = self.desk().champion().classifier.version
        return json_response(await read_monitor(model, self.reader(), self.telemetry))

    async def openapi(self, request: Request) -> Response:
        return json_response(specification())

    def _respond(self, given: Sequence[Given], reply: Reply) -> Response:
        """200 where one product or more has an answer; else the error of the first, beside all."""
        self.telemetry.faults(reply.outcomes)
        ids = [product.product_id if isinstance(product, Product) else None for product in given]
        results = [result_object(*row) for row in zip(ids, reply.prediction_ids, reply.outcomes, strict=True)]
        worst = worst_fault(reply.outcomes)
        if worst is None:
            return json_response({"model": reply.model, "results": results})
        status, headers = PRODUCT_FAULT_STATUS, None
        if isinstance(worst, RequestError):
            status, headers = worst.status, worst.headers
        return json_response({"error": error_object(worst), "results": results}, status, headers)

    def _fail(self, error: Exception) -> Response:
        """A defect of ours. Its traceback is in the log; the client learns its name."""
        logger.exception("a request failed")
        refusal = RequestError(
            500, "internal", field="server", found=f"a failure ({type(error).__name__})", wanted="an answer"
        )
        self.telemetry.error(refusal.reason)
        return error_response(refusal)
