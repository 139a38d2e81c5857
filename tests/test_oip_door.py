"""The Open Inference Protocol over HTTP: JSON and binary tensors, and what is wrong with them."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import numpy as np
import pytest
from pictures import jpeg
from tiny_service import MODEL, TinyService, tiny_classifier

from aisle.image import ImageEncoder
from aisle.text import TextEncoder
from service.oip import join_bytes

PATH = "/v2/models/aisle-classifier"
IMAGE = jpeg("red")


@pytest.fixture(scope="module")
def service(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder) -> TinyService:
    return TinyService(tiny_classifier(tiny_text_encoder, tiny_image_encoder))


def tensor(name: str, *data: Any, **changes: Any) -> dict[str, Any]:
    return {"name": name, "shape": [len(data)], "datatype": "BYTES", "data": list(data), **changes}


def infer(service: TinyService, *inputs: dict[str, Any], **envelope: Any) -> Any:
    return service.client.post(f"{PATH}/infer", json={"inputs": list(inputs), **envelope})


def infer_binary(service: TinyService, head: dict[str, Any], tail: bytes, length: str | None = None) -> Any:
    written = json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": length or str(len(written))}
    return service.client.post(f"{PATH}/infer", content=written + tail, headers=headers)


def outputs_of(answer: Any) -> dict[str, list[Any]]:
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", f"{PATH}/ready"])
def test_probes_answer(service: TinyService, path: str) -> None:
    assert service.client.get(path).status_code == 200


def test_metadata_names_inputs_outputs_and_the_extension(service: TinyService) -> None:
    server, model = service.client.get("/v2").json(), service.client.get(PATH).json()
    assert server == {"name": "aisle", "version": "tiny", "extensions": ["binary_tensor_data"]}
    assert model["versions"] == ["tiny"]
    assert model["inputs"][1] == {"name": "title", "datatype": "BYTES", "shape": [-1]}
    assert [output["name"] for output in model["outputs"]] == [
        "label",
        "score",
        "accepted",
        "prediction_id",
        "error",
    ]


def test_an_answer_is_the_json_doors_answer(service: TinyService) -> None:
    picture = base64.b64encode(IMAGE).decode()
    expected = service.classify([{"title": "blue notebook", "image": picture}, {"title": "train"}], top_k=2)
    answer = infer(
        service,
        tensor("title", "blue notebook", "train"),
        tensor("image", picture, ""),
        parameters={"top_k": 2},
        id="seven",
    )
    assert answer.status_code == 200
    body, outputs = answer.json(), outputs_of(answer)
    assert (body["model_name"], f"aisle-classifier:{body['model_version']}", body["id"]) == (
        "aisle-classifier",
        MODEL,
        "seven",
    )
    results = expected.json()["results"]
    assert outputs["label"] == [c["code"] for result in results for c in result["top"]]
    assert outputs["score"] == pytest.approx([c["probability"] for r in results for c in r["top"]], abs=1e-5)
    assert outputs["accepted"] == [result["accepted"] for result in results]
    assert outputs["error"] == ["", ""]


def test_binary_tensors_go_in_and_come_out(service: TinyService) -> None:
    title, image = join_bytes(["train", "livre"]), struct.pack("<I", len(IMAGE)) + IMAGE + bytes(4)
    head = {
        "inputs": [
            {"name": "title", "shape": [2, 1], "datatype": "BYTES"},
            {"name": "image", "shape": [2], "datatype": "BYTES"},
        ],
        "outputs": [{"name": "score", "parameters": {"binary_data": True}}, {"name": "label"}],
        "parameters": {"top_k": 3},
    }
    head["inputs"][0]["parameters"] = {"binary_data_size": len(title)}  # type: ignore[index]
    head["inputs"][1]["parameters"] = {"binary_data_size": len(image)}  # type: ignore[index]
    answer = infer_binary(service, head, title + image)
    assert answer.status_code == 200, answer.text
    size = int(answer.headers["Inference-Header-Content-Length"])
    body = json.loads(answer.content[:size])
    score = np.frombuffer(answer.content[size:], dtype="<f4").reshape(body["outputs"][0]["shape"])
    assert score.shape == (2, 3)
    assert score.sum(axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert len(body["outputs"][1]["data"]) == 6


def test_a_bad_product_has_its_error_in_its_row(service: TinyService) -> None:
    outputs = outputs_of(infer(service, tensor("title", "train", "<br>"), parameters={"top_k": 1}))
    assert outputs["label"][1] == ""
    assert outputs["error"][1].startswith("product: found text of which cleaning leaves nothing")
    assert (outputs["error"][0], outputs["label"][0] != "") == ("", True)


BINARY = {"name": "title", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 9}}


@pytest.mark.parametrize(
    ("inputs", "envelope", "said"),
    [
        ([], {}, "inputs: found nothing, wanted one or more of product_id"),
        ([tensor("price", "a")], {}, "inputs: found 'price', wanted one of product_id"),
        ([tensor("title", "a"), tensor("title", "b")], {}, "title: found two of this name, wanted one"),
        ([tensor("title", 1)], {}, "title: found a number (1), wanted strings; pictures in base64"),
        ([tensor("image", "@")], {}, "image: found a string of 1 characters (Error), wanted base64"),
        ([tensor("title", "a", shape=[2])], {}, "title: found 1 elements, wanted 2, as its shape says"),
        ([tensor("title", "a", shape=[257])], {}, "title: found shape 257, wanted N or N x 1"),
        ([tensor("title", "a", shape=[1, 2])], {}, "title: found shape 1x2, wanted N or N x 1"),
        ([tensor("title", "a", datatype="FP32")], {}, "title: found datatype 'FP32', wanted BYTES"),
        (
            [tensor("title", "a"), tensor("description", "a", "b")],
            {},
            "inputs: found title of 1, description of 2, wanted one or more of",
        ),
        ([tensor("title", "a")], {"parameters": {"top_k": "5"}}, "top_k: found '5', wanted a whole number"),
        ([tensor("title", "a")], {"outputs": [{"name": "logits"}]}, "outputs: found 'logits', wanted one of"),
        ([{"name": "title"}], {}, "inputs.0.datatype: found nothing, wanted inputs with name"),
        ([BINARY], {}, "title: found binary_data_size 9, wanted at most the 0 bytes left"),
    ],
)
def test_a_request_that_is_wrong_is_told_in_a_sentence(
    service: TinyService, inputs: list[dict[str, Any]], envelope: dict[str, Any], said: str
) -> None:
    answer = infer(service, *inputs, **envelope)
    assert (answer.status_code, answer.json()["error"][: len(said)]) == (422, said)


@pytest.mark.parametrize(
    ("tail", "length", "said"),
    [
        (b"\x05\x00\x00\x00trai", None, "title: found binary_data_size 9, wanted at most the 8 bytes left"),
        (b"\x09\x00\x00\x00train", None, "title: found an element of 9 bytes with 5 left"),
        (b"\x05\x00\x00\x00train" * 2, None, "body: found 9 bytes behind the last input's, wanted none"),
        (b"", "99999", "Inference-Header-Content-Length: found '99999', wanted the bytes of JSON"),
        (b"", "-1", "Inference-Header-Content-Length: found '-1', wanted the bytes of JSON"),
    ],
)
def test_binary_tensors_that_do_not_fit_are_refused(
    service: TinyService, tail: bytes, length: str | None, said: str
) -> None:
    answer = infer_binary(service, {"inputs": [BINARY]}, tail, length)
    assert (answer.status_code, answer.json()["error"][: len(said)]) == (422, said)


@pytest.mark.parametrize("name", ["inputs", "outputs"])
def test_a_million_tensors_are_one_fault(service: TinyService, name: str) -> None:
    body = {"inputs": [tensor("title", "a")], name: [{}] * 1_000_000}
    answer = service.client.post(f"{PATH}/infer", json=body)
    assert answer.status_code == 422
    assert answer.json() == {"error": f"{name}: found 1,000,000 of them, wanted at most 16"}


def test_a_million_dimensions_are_one_fault(service: TinyService) -> None:
    answer = infer(service, tensor("title", "a", shape=[""] * 1_000_000))
    assert answer.status_code == 422
    assert answer.json() == {"error": "inputs.0.shape: found 1,000,000 of them, wanted at most 8"}


def test_another_model_is_not_there(service: TinyService) -> None:
    assert service.client.post("/v2/models/resnet/infer", json={}).status_code == 404


def test_half_of_a_surrogate_pair_in_a_size_is_told_and_not_repeated(service: TinyService) -> None:
    one = {"name": "title", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": "\ud800"}}
    answer = infer_binary(service, {"inputs": [one]}, b"")
    assert answer.status_code == 422
    assert answer.json() == {"error": "title: found binary_data_size ?, wanted at most the 0 bytes left"}


def test_an_id_that_could_not_be_given_back_is_refused(service: TinyService) -> None:
    answer = infer_binary(service, {"id": "a\udfffb", "inputs": [tensor("title", "train")]}, b"")
    assert answer.status_code == 422
    assert answer.json() == {"error": "id: found half of a surrogate pair, wanted Unicode text"}
