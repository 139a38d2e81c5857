"""The Open Inference Protocol over HTTP, with its binary tensor extension: /v2/..."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from aisle.errors import ProductError
from service import oip
from service.desk import PRODUCT_FAULT_STATUS, Desk, Given, Reply, worst_fault
from service.errors import OIP_PATH, RequestError, json_response, sendable, sentence_response
from service.json_door import broken_text, describe, encodable_json, field_of, parse_json
from service.terms import read_terms
from service.wire import Ask

MODEL_PATH = f"{OIP_PATH}/models/{oip.MODEL}"
INFER = f"{MODEL_PATH}/infer"
METHODS: Mapping[str, Sequence[str]] = {
    OIP_PATH: ("GET", "HEAD"),
    f"{OIP_PATH}/health/live": ("GET", "HEAD"),
    f"{OIP_PATH}/health/ready": ("GET", "HEAD"),
    MODEL_PATH: ("GET", "HEAD"),
    f"{MODEL_PATH}/ready": ("GET", "HEAD"),
    INFER: ("POST",),
}
Door = Callable[[Request], Awaitable[Response]]
JSON_LENGTH = "Inference-Header-Content-Length"  # bytes of JSON before the binary tensors


# Of a request. Without a bound pydantic makes errors of each of a million wrong ones: seconds, and gigabytes.
MAX_TENSORS = 16
MAX_DIMENSIONS = 8


class _Lenient(BaseModel):
    """Clients may say more than we know; what we know has the right type."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class InputIn(_Lenient):
    name: str
    datatype: str
    shape: Annotated[list[int], Field(max_length=MAX_DIMENSIONS)]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class OutputIn(_Lenient):
    name: str
    parameters: dict[str, Any] = {}


class InferIn(_Lenient):
    id: str = ""
    parameters: dict[str, Any] = {}
    inputs: Annotated[list[InputIn], Field(max_length=MAX_TENSORS)]
    outputs: Annotated[list[OutputIn], Field(max_length=MAX_TENSORS)] = []


@dataclass(frozen=True, kw_only=True)
class Query:
    """A request as it was read; `outputs` says of each whether it is wanted in binary form."""

    id: str
    given: list[Given]
    top_k: int
    outputs: Mapping[str, bool]


class OipDoor:
    """`desk` gives the worker's; it is asked at each request, since the app is older."""

    def __init__(self, desk: Callable[[], Desk]) -> None:
        self.desk = desk

    def doors(self) -> Mapping[str, Door]:
        return {
            OIP_PATH: self.server,
            f"{OIP_PATH}/health/live": self.well,
            f"{OIP_PATH}/health/ready": self.well,
            MODEL_PATH: self.model,
            f"{MODEL_PATH}/ready": self.well,
            INFER: self.infer,
        }

    async def server(self, request: Request) -> Response:
        facts = {"name": oip.PLATFORM, "version": self._version(), "extensions": ["binary_tensor_data"]}
        return json_response(facts)

    async def well(self, request: Request) -> Response:
        self._version()  # a worker that is not ready has no model
        return Response()

    async def model(self, request: Request) -> Response:
        return json_response(
            {
                "name": oip.MODEL,
                "versions": [self._version()],
                "platform": oip.PLATFORM,
                "inputs": [tensor.to_json() for tensor in oip.INPUTS],
                "outputs": [tensor.to_json() for tensor in oip.OUTPUTS],
            }
        )

    async def infer(self, request: Request) -> Response:
        desk = self.desk()
        body = await request.body()
        try:
            with desk.telemetry.stage("parse"):
                terms = read_terms(request.headers)
                query = read_query(request.headers, body)
            reply = await desk.classify(query.given, Ask(top_k=query.top_k), terms)
        except RequestError as error:
            desk.telemetry.refused(error)
            return _refusal(error)
        desk.telemetry.faults(reply.outcomes)
        worst = worst_fault(reply.outcomes)
        return _refusal(worst) if worst is not None else _response(query, reply)

    def _version(self) -> str:
        return self.desk().champion().classifier.version.partition(":")[2]


def read_query(headers: Mapping[str, str], body: bytes) -> Query:
    """Raises RequestError for a fault of the request as a whole."""
    head, tail = _split(headers.get(JSON_LENGTH), body)
    data = parse_json(head)
    try:
        request = InferIn.model_validate(data)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        field = field_of(detail, "body")
        found = "nothing" if detail["type"] == "missing" else describe(detail["input"])
        wanted = "inputs with name, shape, datatype and data"
        if detail["type"] == "too_long":
            found, wanted = f"{len(detail['input']):,} of them", f"at most {detail['ctx']['max_length']}"
        raise RequestError(422, "value_wrong", field=field, found=found, wanted=wanted) from error
    if encodable_json(request.id) is None:  # it is given back
        field, found = broken_text(data, "id")
        raise RequestError(422, "text_broken", field=field, found=found, wanted="Unicode text")
    all_binary = request.parameters.get("binary_data_output") is True
    oip.check_outputs([output.name for output in request.outputs])
    asked = {output.name: output.parameters.get("binary_data", all_binary) for output in request.outputs}
    return Query(
        id=request.id,
        given=oip.read_products(_tensors(request.inputs, tail)),
        top_k=oip.read_top_k(request.parameters.get("top_k")),
        outputs=asked or {tensor.name: all_binary for tensor in oip.OUTPUTS},
    )


def _split(length: str | None, body: bytes) -> tuple[bytes, bytes]:
    if length is None:
        return body, b""
    if not (length.isascii() and length.isdecimal() and len(length) < 12 and int(length) <= len(body)):
        wanted = f"the bytes of JSON, at most the body's {len(body):,}"
        raise RequestError(422, "value_wrong", field=JSON_LENGTH, found=repr(length[:30]), wanted=wanted)
    return body[: int(length)], body[int(length) :]


def _tensors(inputs: Sequence[InputIn], binary: bytes) -> dict[str, list[bytes]]:
    tensors: dict[str, list[bytes]] = {}
    at = 0
    for tensor in inputs:
        count = oip.check_tensor(tensor.name, tensor.datatype, tensor.shape)
        if tensor.name in tensors:
            raise RequestError(422, "field_twice", field=tensor.name, found="two of this name", wanted="one")
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            tensors[tensor.name] = oip.check_count(_elements(tensor), tensor.name, count)
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(binary) - at:
            found, wanted = (
                f"binary_data_size {str(size)[:30]}",
                f"at most the {len(binary) - at:,} bytes left",
            )
            raise RequestError(422, "value_wrong", field=tensor.name, found=found, wanted=wanted)
        tensors[tensor.name] = oip.split_bytes(binary[at : at + size], tensor.name, count)
        at += size
    if at < len(binary):
        found = f"{len(binary) - at:,} bytes behind the last input's"
        raise RequestError(422, "value_wrong", field="body", found=found, wanted="none")
    return tensors


def _elements(tensor: InputIn) -> list[bytes]:
    """Elements out of JSON: text as it is, pictures in base64, rows of a second dimension flattened."""
    elements: list[bytes] = []
    for row in tensor.data or []:
        for element in row if isinstance(row, list) else [row]:
            if not isinstance(element, str):
                wanted = "strings; pictures in base64"
                raise RequestError(
                    422, "value_wrong", field=tensor.name, found=describe(element), wanted=wanted
                )
            elements.append(_bytes_of(element, tensor.name))
    return elements


def _bytes_of(element: str, name: str) -> bytes:
    try:
        return base64.b64decode(element, validate=True) if name == "image" else element.encode()
    except (binascii.Error, UnicodeEncodeError, ValueError) as error:
        found = f"a string of {len(element):,} characters ({type(error).__name__})"
        wanted = "base64 without line breaks" if name == "image" else "Unicode text"
        raise RequestError(422, "value_wrong", field=name, found=found, wanted=wanted) from error


def _response(query: Query, reply: Reply) -> Response:
    k, values = oip.answer_values(reply)
    datatypes = {tensor.name: tensor.datatype for tensor in oip.OUTPUTS}
    outputs, binary = [], b""
    for name, in_binary in query.outputs.items():
        shape = oip.shape_of(name, len(reply.outcomes), k)
        output: dict[str, Any] = {"name": name, "datatype": datatypes[name], "shape": shape}
        if in_binary:
            raw = oip.raw_tensor(datatypes[name], values[name])
            output["parameters"] = {"binary_data_size": len(raw)}
            binary += raw
        else:
            output["data"] = values[name]
        outputs.append(output)
    head = to_json(
        {
            "model_name": oip.MODEL,
            "model_version": reply.model.partition(":")[2],
            "id": query.id,
            "outputs": outputs,
        }
    )
    if not binary:
        return Response(head, media_type="application/json")
    headers = {JSON_LENGTH: str(len(head))}
    return Response(head + binary, headers=headers, media_type="application/octet-stream")


def _refusal(fault: RequestError | ProductError) -> Response:
    if isinstance(fault, RequestError):
        return sentence_response(fault)
    return json_response({"error": sendable(str(fault))}, PRODUCT_FAULT_STATUS)
