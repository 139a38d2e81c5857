"""Requests that no honest client sends: what is right, changed at random; and bytes that were never right.

Everything is drawn from one `random.Random`, so that a seed names a request.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from service.protos import classifier_pb2 as pb
from service.protos import inference_pb2 as oip_pb

HOST = "127.0.0.1"
CLASSIFY, UPLOAD, LABELS = "/v1/classify", "/v1/classify/upload", "/v1/labels"
INFER = "/v2/models/aisle-classifier/infer"
JSON_LENGTH = "Inference-Header-Content-Length"
PATHS = (CLASSIFY, UPLOAD, LABELS, INFER, "/livez", "/readyz", "/openapi.json", "/schema.json", "/v2")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW", "get")
LONG = 300_000  # characters of a long text
LARGEST = 2 * 2**20  # bytes of a body: what is larger is cut


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A request over HTTP as it travels. `kind` says what is wrong with it; `is_whole`, whether the server
    can see where it ends: then it must be answered."""

    path: str
    kind: str
    sent: bytes
    is_whole: bool = True


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call over gRPC: its messages as bytes, and when its client leaves, if it does."""

    kind: str
    method: str
    messages: Sequence[bytes]
    metadata: Sequence[tuple[str, str | bytes]] = ()
    leaves_after_s: float | None = None


def pictures() -> list[bytes]:
    """A small file of each format that is read."""
    made = []
    for name, mode in (("JPEG", "RGB"), ("PNG", "RGBA"), ("WEBP", "RGB"), ("GIF", "P")):
        file = io.BytesIO()
        Image.effect_noise((24, 24), 60).convert(mode).save(file, name)
        made.append(file.getvalue())
    return made


PICTURES = pictures()


def changed_bytes(chance: random.Random, data: bytes) -> bytes:
    """One to four of: cut, a bit turned, a piece twice, a piece gone, zeros, noise."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(changed))
        length = chance.randint(1, 40)
        how = chance.randrange(6)
        if how == 0:
            del changed[at:]
        elif how == 1 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif how == 2:
            changed[at:at] = changed[at : at + length]
        elif how == 3:
            del changed[at : at + length]
        elif how == 4:
            changed[at:at] = bytes(length)
        else:
            changed[at:at] = chance.randbytes(length)
    return bytes(changed)


def odd_value(chance: random.Random) -> Any:
    """A JSON value that is not expected where it stands."""
    return chance.choice(ODD_VALUES)(chance)


ODD_VALUES: Sequence[Callable[[random.Random], Any]] = (
    lambda _: None,
    lambda _: True,
    lambda _: [],
    lambda _: {},
    lambda _: "",
    lambda _: "\x00",
    lambda _: "\ud800",
    lambda _: "a\udfffb",
    lambda _: "﻿‮\u0301" * 40,
    lambda _: "<!--" * 900,
    lambda _: "é" * LONG,
    lambda _: "NaN",
    lambda _: float("nan"),
    lambda _: float("inf"),
    lambda _: -0.0,
    lambda _: 1e308,
    lambda _: 10**400,
    lambda _: -(2**63) - 1,
    lambda chance: chance.randint(-(2**70), 2**70),
    lambda chance: chance.random(),
    lambda chance: [chance.randint(0, 9)] * chance.randint(1, 400),
    lambda chance: {chance.choice(["title", "", "\ud800", "a" * 500, "constructor"]): {}},
    lambda chance: nested(chance.randint(2, 60)),
    lambda chance: base64.b64encode(changed_bytes(chance, chance.choice(PICTURES))).decode(),
    lambda chance: "".join(
        chr(chance.choice((chance.randrange(128), chance.randrange(0x110000)))) for _ in "1" * 20
    ),
)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def changed_json(chance: random.Random, value: Any) -> Any:
    """The value with one to three of its parts exchanged, taken away or repeated."""
    changed = [copy.deepcopy(value)]
    for _ in range(chance.randint(1, 3)):
        holder: Any = changed
        key: Any = 0
        while isinstance(holder[key], dict | list) and holder[key] and chance.random() < 0.8:
            holder = holder[key]
            key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        how = chance.randrange(4)
        if how == 0 and holder is not changed:
            del holder[key]
        elif how == 1 and isinstance(holder, list):
            holder.extend(copy.deepcopy([holder[key]] * chance.choice((1, 3, 300))))
        elif how == 2 and isinstance(holder, dict):
            holder[chance.choice(["", "price", "\ud800", "title ", "products"])] = odd_value(chance)
        else:
            holder[key] = odd_value(chance)
        if not changed:
            changed = [None]
    return changed[0]


def written_json(chance: random.Random, value: Any) -> bytes:
    """In one of the ways in which JSON is written, right or wrong."""
    how = chance.randrange(4)
    text = json.dumps(value, ensure_ascii=how != 1)  # NaN and Infinity are written as they are
    if how == 2:
        return text.encode("utf-16")
    return text.encode("utf-8", "surrogatepass")


def product(chance: random.Random) -> dict[str, Any]:
    """A right one."""
    parts = {
        "product_id": str(chance.randint(0, 150)),
        "title": "train bois rouge",
        "description": "<p>jeu &amp; manette</p>",
        "image": base64.b64encode(chance.choice(PICTURES)).decode(),
    }
    return {name: parts[name] for name in chance.sample(list(parts), chance.randint(1, 4))}


def right_classify(chance: random.Random) -> dict[str, Any]:
    return {"products": [product(chance) for _ in range(chance.randint(1, 3))], "top_k": chance.randint(1, 9)}


def right_labels(chance: random.Random) -> dict[str, Any]:
    subject = chance.choice([{"prediction_id": f"{chance.getrandbits(128):032x}"}, {"product_id": "3"}])
    return {"labels": [{**subject, "category": "10", "source": "review"}]}


def right_infer(chance: random.Random) -> dict[str, Any]:
    rows = chance.randint(1, 3)
    picture = base64.b64encode(PICTURES[0]).decode()
    data = {"title": "train bois", "product_id": "3", "image": picture}
    names = chance.sample(list(data), chance.randint(1, 3))
    inputs = [
        {"name": name, "shape": [rows], "datatype": "BYTES", "data": [data[name]] * rows} for name in names
    ]
    return {"id": "1", "inputs": inputs, "parameters": {"top_k": 2}, "outputs": [{"name": "label"}]}


def json_attempt(chance: random.Random, path: str, right: Callable[[random.Random], Any]) -> Attempt:
    """A JSON body with changed values, changed bytes, or neither: then something is odd around it."""
    how = chance.randrange(12)
    value = right(chance)
    if how == 0:
        depth = chance.choice((500, 5_000, 100_000))
        kind, body = "nested", b'{"products": ' + b"[" * depth + b"]" * chance.choice((0, depth)) + b"}"
    elif how < 8:
        kind, body = "values", written_json(chance, changed_json(chance, value))
    elif how < 10:
        kind, body = "bytes", changed_bytes(chance, json.dumps(value).encode())
    else:
        kind, body = "noise", chance.randbytes(chance.randint(0, 3_000))
    return framed(chance, path, "POST", kind, body[:LARGEST], {"Content-Type": "application/json"})


def classify_attempt(chance: random.Random) -> Attempt:
    return json_attempt(chance, CLASSIFY, right_classify)


def labels_attempt(chance: random.Random) -> Attempt:
    return json_attempt(chance, LABELS, right_labels)


def infer_attempt(chance: random.Random) -> Attempt:
    return binary_attempt(chance) if chance.random() < 0.5 else json_attempt(chance, INFER, right_infer)


def binary_attempt(chance: random.Random) -> Attempt:
    """The binary tensor extension: lengths that lie, tensors that are cut."""
    elements = [chance.choice([b"train", b"", b"\xff\xfe", chance.choice(PICTURES)]) for _ in range(2)]
    tensor = b"".join(struct.pack("<I", len(one)) + one for one in elements)
    if chance.random() < 0.7:
        tensor = changed_bytes(chance, tensor)
    size = len(tensor) + chance.choice((0, 0, 0, 1, -1, 10**9, -(10**9)))
    head = {
        "inputs": [
            {
                "name": chance.choice(["title", "image", "product_id"]),
                "shape": [2],
                "datatype": "BYTES",
                "parameters": {"binary_data_size": size},
            }
        ],
        "outputs": [{"name": "score", "parameters": {"binary_data": True}}],
    }
    if chance.random() < 0.3:
        head = changed_json(chance, head)
    written = written_json(chance, head)
    told = chance.choice([str(len(written))] * 6 + [str(len(written) + 7), "0", "-1", "1e3", "9" * 40, "²"])
    headers = {JSON_LENGTH: told, "Content-Type": "application/octet-stream"}
    return framed(chance, INFER, "POST", "binary", written + tensor, headers)


def upload_attempt(chance: random.Random) -> Attempt:
    """A form with odd parts, odd names, or a body that is none."""
    boundary = "frontier"
    parts = {
        "title": b"train",
        "product_id": b"3",
        "top_k": b"3",
        "description": b"x" * chance.choice((1, LONG)),
        "image": chance.choice(PICTURES),
    }
    body = b""
    for name in chance.choices(list(parts), k=chance.randint(1, 4)):
        content = parts[name] if chance.random() < 0.5 else changed_bytes(chance, parts[name])
        shown = (
            name if chance.random() < 0.8 else chance.choice(["", "é", "price", name * 60, 'a"b', "a\x00"])
        )
        disposition = f'Content-Disposition: form-data; name="{shown}"'
        if name == "image" or chance.random() < 0.1:
            disposition += chance.choice(['; filename="a.jpg"', "; filename*=utf-16''%ff", '; filename=""'])
        body += f"--{boundary}\r\n{disposition}\r\n\r\n".encode() + content + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    kind = "form"
    if chance.random() < 0.4:
        kind, body = "form bytes", changed_bytes(chance, body)
    told = chance.choice(
        [f"multipart/form-data; boundary={boundary}"] * 6
        + [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            f"multipart/form-data; boundary={boundary}; charset=utf-7",
            f"multipart/form-data; boundary={'b' * 9_000}",
            "multipart/form-data; boundary=\xff\xfe",
        ]
    )
    return framed(chance, UPLOAD, "POST", kind, body, {"Content-Type": told})


def edge_attempt(chance: random.Random) -> Attempt:
    """Odd paths, methods and headers."""
    path = chance.choice(PATHS)
    if chance.random() < 0.4:
        elsewhere = ["/%00", "/%ff%fe", "/../..", "//", "*", "/" + "a" * 20_000, "http://elsewhere/livez"]
        near = [f"{path}/", f"{path}?a=b&a=%00", f"{path}%2f", path.upper(), "/v2/models/%E2%82%AC/infer"]
        path = chance.choice(elsewhere + near)
    body = chance.choice([b"", b"{}", b"x" * 5_000])
    return framed(chance, path, chance.choice(METHODS), "edge", body, {"Content-Type": "application/json"})


ODD_HEADERS = (
    ("Content-Type", "text/plain"),
    ("Content-Type", "application/json; charset=utf-16"),
    ("Content-Type", ""),
    ("Content-Encoding", "gzip"),
    ("Aisle-Priority", "urgent"),
    ("Aisle-Priority", "bulk"),
    ("Aisle-Timeout-Ms", "0"),
    ("Aisle-Timeout-Ms", "-5"),
    ("Aisle-Timeout-Ms", "²"),
    ("Aisle-Timeout-Ms", "9" * 30),
    ("Expect", "100-continue"),
    ("Upgrade", "websocket"),
    ("Accept", "\xff" * 50),
    ("Cookie", "a" * 7_000),
    ("X-Forwarded-For", "999.1.1.1, ::g"),
    ("traceparent", "00-zz-zz-zz"),
    ("Range", "bytes=5-1"),
    ("Host", ""),
)


def framed(
    chance: random.Random, path: str, method: str, kind: str, body: bytes, headers: dict[str, str]
) -> Attempt:
    """As a request with its length, mostly; else in chunks, with a length that lies, or with a head that is
    changed. Every connection is for one request."""
    sent_headers = [("Host", HOST), ("Connection", "close"), *headers.items()]
    if chance.random() < 0.15:
        name, value = chance.choice(ODD_HEADERS)
        sent_headers = [one for one in sent_headers if one[0] != name] + [(name, value)]
        kind += ", odd header"
    how = chance.random()
    is_whole = True
    if how < 0.06:
        length, kind = ("Transfer-Encoding", "chunked"), f"{kind}, chunked"
        body = in_chunks(chance, body)
    elif how < 0.09:
        length, kind, is_whole = ("Content-Length", str(len(body) + chance.randint(1, 99))), "framing", False
    elif how < 0.12:
        told = chance.choice(["-1", "0x10", "1, 2", "", "9" * 30, str(max(0, len(body) - 1))])
        length, kind, is_whole = ("Content-Length", told), "framing", False
    else:
        length = ("Content-Length", str(len(body)))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in (*sent_headers, length))]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
    if chance.random() < 0.04:
        head, kind, is_whole = changed_bytes(chance, head), "framing", False
    return Attempt(path=path, kind=kind, sent=head + body, is_whole=is_whole)


def in_chunks(chance: random.Random, body: bytes) -> bytes:
    chunks, at = [], 0
    while at < len(body):
        size = chance.choice((1, 7, 100, 60_000))
        piece = body[at : at + size]
        chunks.append(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        at += size
    return b"".join(chunks) + b"0\r\n\r\n"


ATTEMPTS: dict[str, Callable[[random.Random], Attempt]] = {
    "classify": classify_attempt,
    "upload": upload_attempt,
    "labels": labels_attempt,
    "infer": infer_attempt,
    "edge": edge_attempt,
}


def right_message(chance: random.Random) -> bytes:
    request = pb.ClassifyRequest(top_k=chance.choice((0, 1, 100, 101, 2**32 - 1)))
    for _ in range(chance.randint(0, 3)):
        one = request.products.add(title=chance.choice(["", "train", "\x00", "<!--" * 900, "é" * LONG]))
        if chance.random() < 0.5:
            one.product_id = chance.choice(["3", "", "{x}", "\x00", "7" * 300])
        if chance.random() < 0.5:
            picture = chance.choice(PICTURES)
            one.image = picture if chance.random() < 0.3 else changed_bytes(chance, picture)
    return request.SerializeToString()


def right_tensors(chance: random.Random) -> bytes:
    request = oip_pb.ModelInferRequest(
        model_name=chance.choice(["aisle-classifier"] * 5 + ["", "resnet", "é" * 300]), id="1"
    )
    raw = chance.random() < 0.5
    for name in chance.choices(["title", "product_id", "image", "price"], weights=(5, 3, 3, 1), k=2):
        shape = chance.choice([[1]] * 5 + [[2], [1, 1], [0], [-1], [2**62], [], [1] * 400])
        tensor = request.inputs.add(
            name=name, datatype=chance.choice(["BYTES"] * 6 + ["FP32", ""]), shape=shape
        )
        element = chance.choice([b"train", b"3", b"", b"\xff", changed_bytes(chance, PICTURES[0])])
        if raw:
            told = len(element) + chance.choice((0, 0, 0, 1, 2**31))
            request.raw_input_contents.append(struct.pack("<I", told) + element)
        else:
            tensor.contents.bytes_contents.append(element)
    if chance.random() < 0.4:
        parameter = request.parameters["top_k"]
        name = chance.choice(["int64_param", "string_param", "double_param", "bool_param", "uint64_param"])
        values = {"string_param": "3", "double_param": float("nan"), "bool_param": True}
        setattr(parameter, name, values.get(name, chance.choice((0, 3, 101, 2**40))))
    return request.SerializeToString()


RIGHT_MESSAGES = {
    "Classify": ("/aisle.v1.Classifier/Classify", right_message),
    "ClassifyStream": ("/aisle.v1.Classifier/ClassifyStream", right_message),
    "ModelInfer": ("/inference.GRPCInferenceService/ModelInfer", right_tensors),
}
WRONG_METHODS = (
    "/aisle.v1.Classifier/Nothing",
    "/nobody.Nothing/Classify",
    "/",
    "/a/b/c",
    "/aisle.v1.Classifier/",
)
Metadata = tuple[tuple[str, str | bytes], ...]
METADATA: Sequence[Metadata] = (
    (("aisle-priority", "urgent"),),
    (("aisle-priority", "bulk"),),
    (("aisle-priority", ""),),
    (("x-long", "a" * 4_000),),
    (("x-bin", b"\x00\xff"), ("x-bin", b"")),
)


def grpc_call(chance: random.Random, door: str) -> Call:
    """Messages that are right but for their values, changed, or noise; a wrong method; odd metadata; a client
    that leaves halfway."""
    method, right = RIGHT_MESSAGES[door]
    kind = chance.choice(["values", "bytes", "noise"])
    messages = []
    for _ in range(chance.randint(1, 3) if door == "ClassifyStream" else 1):
        message = right(chance)
        if kind == "bytes":
            message = changed_bytes(chance, message)
        elif kind == "noise":
            message = chance.randbytes(chance.randint(0, 3_000))
        messages.append(message)
    metadata: Metadata = ()
    leaves_after_s = None
    if chance.random() < 0.05:
        kind, method = "method", chance.choice(WRONG_METHODS)
    if chance.random() < 0.1:
        metadata = chance.choice(METADATA)
    if chance.random() < 0.1:
        kind, leaves_after_s = f"{kind}, leaves", chance.uniform(0, 0.02)
    return Call(
        kind=kind,
        method=method,
        messages=messages,
        metadata=metadata,
        leaves_after_s=leaves_after_s,
    )
