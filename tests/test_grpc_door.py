"""aisle.v1.Classifier, health and the Open Inference Protocol, on a real server."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status.rpc_status import from_call
from live_server import ROOT, LiveServer
from pictures import jpeg

from aisle.errors import ProductError
from aisle.prediction import Candidate, Prediction, PredictionSet, Source
from aisle.product import Product
from aisle.taxonomy import Category
from service.desk import Reply
from service.errors import RequestError, features_unavailable, overloaded
from service.grpc_calls import full_status, status_code
from service.grpc_door import response_of
from service.protos import classifier_pb2 as pb
from service.protos.classifier_pb2_grpc import ClassifierStub

IMAGE = jpeg("blue")


@pytest.fixture(scope="module")
def server(tiny_home: Path) -> Iterator[LiveServer]:
    server = LiveServer(tiny_home, AISLE_MAX_BATCH="8", AISLE_GRPC_REFLECTION="1")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def channel(server: LiveServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> ClassifierStub:
    return ClassifierStub(channel)


def test_an_answer_is_the_json_doors_answer(server: LiveServer, stub: ClassifierStub) -> None:
    over_json = server.classify(
        [{"title": "train bois", "image": base64.b64encode(IMAGE).decode()}], top_k=2
    ).json()
    answer = stub.Classify(
        pb.ClassifyRequest(products=[pb.Product(title="train bois", image=IMAGE)], top_k=2), timeout=30
    )
    [one], [other] = over_json["results"], answer.results
    found = other.prediction
    assert answer.model == over_json["model"]
    assert (found.category.code, found.accepted) == (one["category"]["code"], one["accepted"])
    assert found.confidence == pytest.approx(one["confidence"], abs=1e-4)
    assert [c.category.code for c in found.top] == [c["code"] for c in one["top"]]
    assert found.text_only.category.code == one["text_only"]["code"]
    assert (found.text_vector, found.image_vector) == (
        pb.VECTOR_SOURCE_COMPUTED,
        pb.VECTOR_SOURCE_COMPUTED,
    )


def test_an_explanation_is_the_json_doors(server: LiveServer, stub: ClassifierStub) -> None:
    given = [{"title": "train bois", "image": base64.b64encode(IMAGE).decode()}]
    [one] = server.classify(given, explain=True).json()["results"]
    products = [pb.Product(title="train bois", image=IMAGE)]
    [result] = stub.Classify(pb.ClassifyRequest(products=products, explain=True), timeout=30).results
    found, why = result.prediction, one["explanation"]
    assert found.explanation.text_bits == pytest.approx(why["text_bits"], abs=1e-3)
    assert found.explanation.image_bits == pytest.approx(why["image_bits"], abs=1e-3)
    assert [near.product_id for near in found.explanation.neighbours] == [
        near["product_id"] for near in why["neighbours"]
    ]
    assert len(why["neighbours"]) == 5


def test_a_prediction_set_goes_with_the_answer() -> None:
    category = Category(code="50", name="toys")
    prediction = Prediction(
        category=category,
        confidence=0.75,
        accepted=True,
        top=(Candidate(category=category, probability=0.75),),
        text_only=None,
        image_only=None,
        text_source=Source.STORED,
        image_source=Source.ABSENT,
        prediction_set=PredictionSet(codes=("50", "40"), coverage=0.95),
    )
    reply = Reply(model="aisle-classifier:1", outcomes=[prediction], prediction_ids=["a"])
    [result] = response_of([Product(title="train")], reply).results
    assert list(result.prediction.prediction_set.codes) == ["50", "40"]
    assert result.prediction.prediction_set.coverage == 0.95


def test_who_does_not_ask_is_not_explained_to(stub: ClassifierStub) -> None:
    [result] = stub.Classify(pb.ClassifyRequest(products=[pb.Product(title="train")]), timeout=30).results
    assert not result.prediction.HasField("explanation")


def test_a_bad_product_is_a_fault_in_its_own_place(stub: ClassifierStub) -> None:
    products = [pb.Product(title="train"), pb.Product(image=b"no image"), pb.Product(title="livre")]
    results = stub.Classify(pb.ClassifyRequest(products=products), timeout=30).results
    assert [result.WhichOneof("outcome") for result in results] == ["prediction", "error", "prediction"]
    assert (results[1].error.reason, results[1].error.field) == ("image_format", "image")


def test_where_nothing_is_answered_the_call_fails_and_its_details_say_why(stub: ClassifierStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(pb.ClassifyRequest(products=[pb.Product(product_id="a{b}")]), timeout=30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "product_id: found 'a{b}', wanted an id without { and }"
    info, answer = ErrorInfo(), pb.ClassifyResponse()
    for detail in from_call(caught.value).details:
        for message in (info, answer):
            detail.Unpack(message)
    assert (info.reason, info.metadata["field"]) == ("product_id_brace", "product_id")
    assert answer.results[0].error.reason == "product_id_brace"


def test_what_is_wrong_with_256_products_does_not_hide_the_status(stub: ClassifierStub) -> None:
    """A status travels in metadata, which gRPC bounds."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(pb.ClassifyRequest(products=[pb.Product(product_id="a{b}")] * 256), timeout=30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    [detail] = from_call(caught.value).details
    info = ErrorInfo()
    assert detail.Unpack(info)
    assert info.reason == "product_id_brace"


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (pb.ClassifyRequest(), "products: found 0 products, wanted a list of 1 to 256 products"),
        (
            pb.ClassifyRequest(products=[pb.Product(title="a")] * 257),
            "products: found 257 products, wanted a list of 1 to 256 products",
        ),
        (
            pb.ClassifyRequest(products=[pb.Product(title="a")], top_k=101),
            "top_k: found a number (101), wanted a whole number from 1 to 100, or 0 for 5",
        ),
    ],
)
def test_a_request_that_is_wrong_as_a_whole_is_refused(
    stub: ClassifierStub, request_: pb.ClassifyRequest, said: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(request_, timeout=30)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, said)


def test_a_stream_is_answered_in_order_and_one_bad_request_ends_nothing(stub: ClassifierStub) -> None:
    requests = [
        pb.ClassifyRequest(products=[pb.Product(title=f"train {i}")] * (i % 3 + 1)) for i in range(12)
    ]
    requests[5] = pb.ClassifyRequest()
    answers = list(stub.ClassifyStream(iter(requests), timeout=60))
    assert [len(answer.results) for answer in answers] == [1 if i == 5 else i % 3 + 1 for i in range(12)]
    assert answers[5].results[0].error.reason == "product_count"


def test_a_stream_that_waits_for_each_answer_gets_it(stub: ClassifierStub) -> None:
    answers = []

    def one_by_one() -> Iterator[pb.ClassifyRequest]:
        for i in range(3):
            yield pb.ClassifyRequest(products=[pb.Product(title=f"train {i}")])
            deadline = time.monotonic() + 20
            while len(answers) <= i and time.monotonic() < deadline:
                time.sleep(0.01)

    started = time.monotonic()
    for answer in stub.ClassifyStream(one_by_one(), timeout=60):
        answers.append(answer)
    assert len(answers) == 3
    assert time.monotonic() - started < 20


def test_a_deadline_that_is_over_is_told_as_such(stub: ClassifierStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(pb.ClassifyRequest(products=[pb.Product(title="train " * 50)] * 256), timeout=0.02)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_every_call_is_counted_on_the_page_that_prometheus_reads(
    server: LiveServer, channel: grpc.Channel, stub: ClassifierStub
) -> None:
    before = server.metrics()
    request = pb.ClassifyRequest(products=[pb.Product(title="train")])
    stub.Classify(request, timeout=30)
    with pytest.raises(grpc.RpcError):
        stub.Classify(pb.ClassifyRequest(), timeout=30)
    assert len(list(stub.ClassifyStream(iter([request] * 3), timeout=30))) == 3
    with pytest.raises(grpc.RpcError):
        channel.unary_unary("/aisle.v1.Classifier/Guess")(b"", timeout=30)
    leaving = stub.Classify.future(pb.ClassifyRequest(products=[pb.Product(title="train " * 50)] * 256))
    time.sleep(0.2)  # it is under way by now, and takes longer
    leaving.cancel()

    def rises() -> dict[str, float]:
        after = server.metrics()
        name = "aisle_grpc_requests_total"
        changes = {metric: value - before.get(metric, 0) for metric, value in after.items()}
        return {metric: change for metric, change in changes.items() if metric.startswith(name) and change}

    wanted = {
        ("/aisle.v1.Classifier/Classify", "OK"),
        ("/aisle.v1.Classifier/Classify", "INVALID_ARGUMENT"),
        ("/aisle.v1.Classifier/Classify", "CANCELLED"),
        ("/aisle.v1.Classifier/ClassifyStream", "OK"),
        ("unknown", "UNIMPLEMENTED"),
    }
    deadline = time.monotonic() + 10
    while sum(rises().values()) < len(wanted) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert rises() == {
        f'aisle_grpc_requests_total{{code="{code}",method="{method}"}}': 1 for method, code in wanted
    }


def test_health_says_serving(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "aisle.v1.Classifier", "inference.GRPCInferenceService"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (ProductError("x", field="a", found="b", wanted="c"), grpc.StatusCode.INVALID_ARGUMENT),
        (overloaded("queue_full", found="b", wanted="c"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (overloaded("latency", found="b", wanted="c"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (features_unavailable(), grpc.StatusCode.UNAVAILABLE),
        (RequestError(504, "timeout", field="a", found="b", wanted="c"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (RequestError(500, "internal", field="a", found="b", wanted="c"), grpc.StatusCode.INTERNAL),
        (RequestError(404, "model_unknown", field="a", found="b", wanted="c"), grpc.StatusCode.NOT_FOUND),
    ],
)
def test_each_fault_has_its_status(fault: ProductError | RequestError, code: grpc.StatusCode) -> None:
    assert status_code(fault) is code


# In a process of its own: both sides define the protocol's messages, and a process holds one definition.
TRITON = """
import json, sys
import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

client = triton.InferenceServerClient(sys.argv[1])
image = open(sys.argv[2], "rb").read()
def tensor(name, values, datatype="BYTES"):
    made = triton.InferInput(name, [len(values)], datatype)
    made.set_data_from_numpy(np.array(values, dtype=object if datatype == "BYTES" else np.float32))
    return made
def refused(*inputs, **options):
    try:
        client.infer(options.pop("model", "aisle-classifier"), list(inputs), **options)
    except InferenceServerException as error:
        return [error.status(), error.message()]
metadata = client.get_model_metadata("aisle-classifier")
answer = client.infer(
    "aisle-classifier",
    [tensor("title", [b"train bois", b"", b"livre"]), tensor("image", [image, b"no image", b""])],
    request_id="7", parameters={"top_k": 2},
)
print(json.dumps({
    "live": client.is_server_live(),
    "ready": client.is_model_ready("aisle-classifier"),
    "inputs": [one.name for one in metadata.inputs],
    "outputs": [one.name for one in metadata.outputs],
    "version": answer.get_response().model_version,
    "versions": list(metadata.versions),
    "label": answer.as_numpy("label").astype(str).tolist(),
    "score": answer.as_numpy("score").tolist(),
    "accepted": answer.as_numpy("accepted").tolist(),
    "error": answer.as_numpy("error").astype(str).tolist(),
    "only": [one.name for one in client.infer(
        "aisle-classifier", [tensor("title", [b"a"])], outputs=[triton.InferRequestedOutput("score")]
    ).get_response().outputs],
    "refused": {
        "model": refused(tensor("title", [b"a"]), model="resnet"),
        "input": refused(tensor("price", [b"a"])),
        "datatype": refused(tensor("title", [1.0], "FP32")),
        "lengths": refused(tensor("title", [b"a"]), tensor("description", [b"a", b"b"])),
        "top_k": refused(tensor("title", [b"a"]), parameters={"top_k": 0}),
        "product": refused(tensor("title", [b"\\xff"])),
    },
}))
"""


def test_nvidias_client_speaks_to_it_unmodified(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(IMAGE)
    done = subprocess.run(
        [sys.executable, "-c", TRITON, f"127.0.0.1:{server.grpc_port}", str(tmp_path / "photo.jpg")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    over_json = server.classify(
        [{"title": "train bois", "image": base64.b64encode(IMAGE).decode()}, {"title": "livre"}], top_k=2
    ).json()
    assert (said["live"], said["ready"]) == (True, True)
    assert said["inputs"] == ["product_id", "title", "description", "image"]
    assert said["outputs"] == ["label", "score", "accepted", "prediction_id", "error"]
    assert [f"aisle-classifier:{said['version']}"] == [over_json["model"]]
    assert said["versions"] == [said["version"]]
    for row, result in ((0, over_json["results"][0]), (2, over_json["results"][1])):
        assert said["label"][row] == [candidate["code"] for candidate in result["top"]]
        assert said["score"][row] == pytest.approx([c["probability"] for c in result["top"]], abs=1e-4)
        assert said["accepted"][row] == result["accepted"]
    assert (said["label"][1], said["score"][1]) == (["", ""], [0.0, 0.0])
    assert [error.partition(":")[0] for error in said["error"]] == ["", "image", ""]
    assert said["only"] == ["score"]
    statuses = {name: status for name, (status, _) in said["refused"].items()}
    assert statuses == {
        "model": "StatusCode.NOT_FOUND",
        "input": "StatusCode.INVALID_ARGUMENT",
        "datatype": "StatusCode.INVALID_ARGUMENT",
        "lengths": "StatusCode.INVALID_ARGUMENT",
        "top_k": "StatusCode.INVALID_ARGUMENT",
        "product": "StatusCode.INVALID_ARGUMENT",
    }
    assert said["refused"]["lengths"][1].startswith("inputs: found title of 1, description of 2, wanted")


TRITON_HTTP = """
import json, sys
import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

client = triton.InferenceServerClient(sys.argv[1])
image = open(sys.argv[2], "rb").read()
def tensor(name, values):
    made = triton.InferInput(name, [len(values)], "BYTES")
    made.set_data_from_numpy(np.array(values, dtype=object))
    return made
answer = client.infer("aisle-classifier", [tensor("title", [b"train bois"]), tensor("image", [image])])
try:
    client.infer("aisle-classifier", [tensor("price", [b"1"])])
except InferenceServerException as error:
    refused = error.message()
print(json.dumps({
    "ready": [client.is_server_live(), client.is_server_ready(), client.is_model_ready("aisle-classifier")],
    "inputs": [one["name"] for one in client.get_model_metadata("aisle-classifier")["inputs"]],
    "label": answer.as_numpy("label").astype(str).tolist(),
    "score": answer.as_numpy("score").tolist(),
    "refused": refused,
}))
"""


def test_nvidias_http_client_speaks_to_it_unmodified(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(IMAGE)
    done = subprocess.run(
        [sys.executable, "-c", TRITON_HTTP, f"127.0.0.1:{server.port}", str(tmp_path / "photo.jpg")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    picture = base64.b64encode(IMAGE).decode()
    [result] = server.classify([{"title": "train bois", "image": picture}]).json()["results"]
    assert said["ready"] == [True, True, True]
    assert said["inputs"] == ["product_id", "title", "description", "image"]
    assert said["label"] == [[candidate["code"] for candidate in result["top"]]]
    assert said["score"][0] == pytest.approx([c["probability"] for c in result["top"]], abs=1e-4)
    assert said["refused"].startswith("inputs: found 'price', wanted one of product_id")


def test_the_stubs_are_what_the_protos_say(tmp_path: Path) -> None:
    protos = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "service" / "protos").glob("*.proto"))
    out = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I.", *out, *protos], cwd=ROOT, check=True)
    made = {file.name: file.read_text() for file in (tmp_path / "service" / "protos").iterdir()}
    kept = {file.name: file.read_text() for file in (ROOT / "service" / "protos").glob("*_pb2*")}
    assert made == kept, "run `make stubs`"


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        (overloaded("queue_full", found="b", wanted="c"), 1),
        (features_unavailable(), 1),
        (ProductError("x", field="a", found="b", wanted="c"), None),
    ],
)
def test_a_retry_is_advised_where_it_helps(fault: ProductError | RequestError, seconds: int | None) -> None:
    found = None
    for detail in full_status(fault).details:
        retry = RetryInfo()
        if detail.Unpack(retry):
            found = retry.retry_delay.seconds
    assert found == seconds
