"""The Open Inference Protocol (v2) of Aisle's model: products as tensors of bytes, answers as tensors.

Whatever carries it (gRPC, HTTP) decodes tensors to lists of bytes and gets lists of values back.

Shapes: N products, K candidates.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aisle.errors import ProductError
from aisle.prediction import DEFAULT_TOP_K, Prediction
from aisle.product import Product
from service.desk import Given, Reply
from service.errors import RequestError
from service.wire import MAX_PRODUCTS, MAX_TOP_K

MODEL = "aisle-classifier"
PLATFORM = "aisle"


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """`shape` with -1 where it differs from request to request."""

    name: str
    datatype: str
    shape: Sequence[int]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


_INPUT_NAMES = ("product_id", "title", "description", "image")
INPUTS = tuple(Tensor(name=name, datatype="BYTES", shape=(-1,)) for name in _INPUT_NAMES)
OUTPUTS = (
    Tensor(name="label", datatype="BYTES", shape=(-1, -1)),
    Tensor(name="score", datatype="FP32", shape=(-1, -1)),
    Tensor(name="accepted", datatype="BOOL", shape=(-1,)),
    Tensor(name="prediction_id", datatype="BYTES", shape=(-1,)),
    Tensor(name="error", datatype="BYTES", shape=(-1,)),
)
_OUTPUT_NAMES = tuple(tensor.name for tensor in OUTPUTS)


def check_model(name: str, version: str, served: str) -> None:
    """Raises RequestError (404) unless this is the model in service; an empty version means that one."""
    if name != MODEL:
        raise _fault(404, "model_unknown", "model_name", repr(name[:60]), MODEL)
    if version not in ("", served):
        raise _fault(404, "model_unknown", "model_version", repr(version[:60]), f"{served}, or nothing")


def check_tensor(name: str, datatype: str, shape: Sequence[int]) -> int:
    """How many products a tensor is of. Raises RequestError."""
    if name not in _INPUT_NAMES:
        raise _fault(422, "field_unknown", "inputs", repr(name[:60]), f"one of {', '.join(_INPUT_NAMES)}")
    if datatype != "BYTES":
        raise _fault(422, "value_wrong", name, f"datatype {datatype[:20]!r}", "BYTES")
    if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)) or not 1 <= shape[0] <= MAX_PRODUCTS:
        found = "x".join(str(side) for side in shape[:8]) or "nothing"
        wanted = f"N or N x 1, with N from 1 to {MAX_PRODUCTS}"
        raise _fault(422, "product_count", name, f"shape {found}", wanted)
    return shape[0]


def split_bytes(raw: bytes, name: str, count: int) -> list[bytes]:
    """The elements of a BYTES tensor in its binary form: each behind its length (4 bytes, little-endian).
    Raises RequestError where it does not hold `count` of them."""
    elements: list[bytes] = []
    at = 0
    while at < len(raw) and len(elements) <= count:
        if at + 4 > len(raw):
            raise _fault(422, "value_wrong", name, "a length that is cut off", "4 bytes before each element")
        (length,) = struct.unpack_from("<I", raw, at)
        at += 4
        if at + length > len(raw):
            found = f"an element of {length:,} bytes with {len(raw) - at:,} left"
            raise _fault(422, "value_wrong", name, found, "whole elements")
        elements.append(raw[at : at + length])
        at += length
    return check_count(elements, name, count)


def check_count(elements: list[bytes], name: str, count: int) -> list[bytes]:
    """The elements; raises RequestError unless there are `count`."""
    if len(elements) != count:
        more = "more than " if len(elements) > count else ""
        found = f"{more}{min(len(elements), count):,} elements"
        raise _fault(422, "product_count", name, found, f"{count:,}, as its shape says")
    return elements


def join_bytes(elements: Sequence[str]) -> bytes:
    """The binary form of a BYTES tensor."""
    encoded = [element.encode() for element in elements]
    return b"".join(struct.pack("<I", len(one)) + one for one in encoded)


def raw_tensor(datatype: str, values: Sequence[Any]) -> bytes:
    """Values of BYTES (as text), FP32 or BOOL in their binary form."""
    if datatype == "BYTES":
        return join_bytes([str(value) for value in values])
    return struct.pack(f"<{len(values)}{'f' if datatype == 'FP32' else '?'}", *values)


def read_products(tensors: Mapping[str, list[bytes]]) -> list[Given]:
    """One product a row; an empty element is a part that is not given. Raises RequestError where the
    tensors are of different lengths, or there is none."""
    counts = {name: len(elements) for name, elements in tensors.items()}
    if len(set(counts.values())) != 1:
        found = ", ".join(f"{name} of {count:,}" for name, count in counts.items()) or "nothing"
        wanted = f"one or more of {', '.join(_INPUT_NAMES)}, all of one length"
        raise _fault(422, "product_count", "inputs", found, wanted)
    rows = zip(*tensors.values(), strict=True)
    return [_read_product(dict(zip(tensors, row, strict=True))) for row in rows]


def read_top_k(value: Any) -> int:
    """The parameter top_k; None means the default. Raises RequestError."""
    if value is None:
        return DEFAULT_TOP_K
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_TOP_K:
        raise _fault(422, "value_wrong", "top_k", repr(value)[:60], f"a whole number from 1 to {MAX_TOP_K}")
    return value


def check_outputs(names: Sequence[str]) -> Sequence[str]:
    """The outputs that are asked for; all where none is named. Raises RequestError."""
    for name in names:
        if name not in _OUTPUT_NAMES:
            wanted = f"one of {', '.join(_OUTPUT_NAMES)}"
            raise _fault(422, "field_unknown", "outputs", repr(name[:60]), wanted)
    return names or _OUTPUT_NAMES


def answer_values(reply: Reply) -> tuple[int, dict[str, list[Any]]]:
    """(K, values of every output, row by row). A product without an answer has empty labels, scores of 0 and
    its error."""
    predictions = [outcome for outcome in reply.outcomes if isinstance(outcome, Prediction)]
    k = max((len(prediction.top) for prediction in predictions), default=1)
    values: dict[str, list[Any]] = {name: [] for name in _OUTPUT_NAMES}
    for outcome, prediction_id in zip(reply.outcomes, reply.prediction_ids, strict=True):
        values["prediction_id"].append(prediction_id)
        if isinstance(outcome, Prediction):
            values["label"] += [candidate.category.code for candidate in outcome.top]
            values["score"] += [candidate.probability for candidate in outcome.top]
            values["accepted"].append(outcome.accepted)
            values["error"].append("")
        else:
            values["label"] += [""] * k
            values["score"] += [0.0] * k
            values["accepted"].append(False)
            values["error"].append(str(outcome))
    return k, values


def shape_of(name: str, rows: int, k: int) -> list[int]:
    return [rows, k] if name in ("label", "score") else [rows]


def _read_product(given: Mapping[str, bytes]) -> Given:
    try:
        texts = {name: _text(given, name) for name in ("product_id", "title", "description")}
        return Product(
            product_id=texts["product_id"] or None,
            title=texts["title"],
            description=texts["description"],
            image=given.get("image") or None,
        )
    except ProductError as error:
        return error


def _text(given: Mapping[str, bytes], name: str) -> str:
    try:
        return given.get(name, b"").decode()
    except UnicodeDecodeError as error:
        found = f"a byte at {error.start:,} that is no UTF-8"
        raise ProductError("text_broken", field=name, found=found, wanted="UTF-8 text") from error


def _fault(status: int, reason: str, field: str, found: str, wanted: str) -> RequestError:
    return RequestError(status, reason, field=field, found=found, wanted=wanted)
