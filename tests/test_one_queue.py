"""All doors of a real server share one adaptive-batching queue; BentoML's own client asks at one of them.

What was in one batch is read from the ledger: the predictions of a batch are recorded at one instant.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from live_server import LiveServer
from pictures import jpeg

from aisle.ledger import Ledger, ledger_url
from service.oip import split_bytes
from service.protos import classifier_pb2 as aisle_pb
from service.protos import inference_pb2 as oip_pb
from service.protos.classifier_pb2_grpc import ClassifierStub
from service.protos.inference_pb2_grpc import GRPCInferenceServiceStub

TITLE = "train bois"
IMAGE = jpeg("blue")
IMAGE_TEXT = base64.b64encode(IMAGE).decode()
BATCH = 256  # the most products in a batch, and in a request
BUSY_REQUESTS = 8  # each fills a batch: together about a second of work
TRIES = 5
TIMEOUT_S = 30
# Of a request, at every door: single products are asked first, and the pace they leave refuses batches to
# whoever waits for less.
PATIENCE_S = 300


class Filed(NamedTuple):
    code: str
    prediction_id: str


class Door(NamedTuple):
    name: str
    ask: Callable[[], Filed]


@pytest.fixture(scope="module")
def server(tiny_home: Path) -> Iterator[LiveServer]:
    server = LiveServer(
        tiny_home,
        AISLE_MAX_BATCH=str(BATCH),
        AISLE_BATCH_LATENCY_S="60",
        AISLE_REQUEST_TIMEOUT_S=str(PATIENCE_S),
        AISLE_MAX_QUEUE=str(2 * BUSY_REQUESTS * BATCH),
        AISLE_MODEL_THREADS="1",
    )
    yield server
    server.stop()


@pytest.fixture(scope="module")
def channel(server: LiveServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield channel


@pytest.fixture(scope="module")
def ledger(tiny_home: Path, server: LiveServer) -> Iterator[Ledger]:
    ledger = Ledger.open(ledger_url(tiny_home, ""))
    yield ledger
    ledger.close()


@pytest.fixture(scope="module")
def doors(server: LiveServer, channel: grpc.Channel) -> list[Door]:
    """Each asks for the same product."""
    return [
        Door("JSON", lambda: ask_json(server)),
        Door("upload", lambda: ask_upload(server)),
        Door("OIP over HTTP", lambda: ask_oip(server)),
        Door("gRPC", lambda: ask_grpc(channel)),
        Door("OIP over gRPC", lambda: ask_grpc_oip(channel)),
    ]


def ask_json(server: LiveServer) -> Filed:
    products = [{"title": TITLE, "image": IMAGE_TEXT}]
    return filed_by(server.client.post("/v1/classify", json={"products": products}).json())


def ask_upload(server: LiveServer) -> Filed:
    files = {"image": ("photo.jpg", IMAGE)}
    return filed_by(server.client.post("/v1/classify/upload", data={"title": TITLE}, files=files).json())


def filed_by(answer: Mapping[str, Any]) -> Filed:
    [result] = answer["results"]
    return Filed(result["category"]["code"], result["prediction_id"])


def ask_oip(server: LiveServer) -> Filed:
    given = {"title": TITLE, "image": IMAGE_TEXT}
    tensors = [
        {"name": name, "shape": [1], "datatype": "BYTES", "data": [value]} for name, value in given.items()
    ]
    answer = server.client.post("/v2/models/aisle-classifier/infer", json={"inputs": tensors}).json()
    values = {output["name"]: output["data"] for output in answer["outputs"]}
    return Filed(values["label"][0], values["prediction_id"][0])


def ask_grpc(channel: grpc.Channel) -> Filed:
    request = aisle_pb.ClassifyRequest(products=[aisle_pb.Product(title=TITLE, image=IMAGE)])
    [result] = ClassifierStub(channel).Classify(request, timeout=PATIENCE_S).results
    return Filed(result.prediction.category.code, result.prediction.prediction_id)


def ask_grpc_oip(channel: grpc.Channel) -> Filed:
    request = oip_pb.ModelInferRequest(model_name="aisle-classifier")
    for name, value in {"title": TITLE.encode(), "image": IMAGE}.items():
        tensor = request.inputs.add(name=name, datatype="BYTES", shape=[1])
        tensor.contents.bytes_contents.append(value)
    request.parameters["top_k"].int64_param = 1
    wanted = ("label", "prediction_id")
    for name in wanted:
        request.outputs.add(name=name)
    answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=PATIENCE_S)
    tensors = zip(answer.raw_output_contents, wanted, strict=True)
    code, prediction_id = (split_bytes(raw, name, 1)[0].decode() for raw, name in tensors)
    return Filed(code, prediction_id)


def ask_while_busy(server: LiveServer, doors: Sequence[Door]) -> list[Filed]:
    """Ask at all doors at once, when batches that others fill are queued before."""
    prepared = 'aisle_stage_seconds_count{stage="prepare"}'
    body = json.dumps({"products": [{"title": TITLE, "description": "train en bois clair " * 40}] * BATCH})
    headers = {"Content-Type": "application/json"}
    before = server.metrics()[prepared]
    with ThreadPoolExecutor(BUSY_REQUESTS + len(doors)) as pool:
        busy = [
            pool.submit(server.client.post, "/v1/classify", content=body, headers=headers)
            for _ in range(BUSY_REQUESTS)
        ]
        deadline = time.monotonic() + TIMEOUT_S
        while server.metrics()[prepared] < before + BUSY_REQUESTS:
            assert time.monotonic() < deadline, "the requests that fill batches were never queued"
        asked = [pool.submit(door.ask) for door in doors]
        assert [request.result().status_code for request in busy] == [200] * BUSY_REQUESTS
        return [request.result() for request in asked]


def batches_of(ledger: Ledger, filed: Sequence[Filed]) -> list[set[str]]:
    """The prediction ids of each batch that holds one of `filed`, once all of these are written."""
    ids = {one.prediction_id for one in filed}
    deadline = time.monotonic() + TIMEOUT_S
    while ledger.has_prediction(list(ids)) != ids:
        assert time.monotonic() < deadline, "the predictions were never written"
        time.sleep(0.05)
    batches: dict[float, set[str]] = {}
    for record in ledger.last_predictions((BUSY_REQUESTS + 1) * BATCH):
        batches.setdefault(record.at_s, set()).add(record.prediction_id)
    return [batch for batch in batches.values() if batch & ids]


def test_products_that_come_one_after_another_are_batches_of_their_own(
    server: LiveServer, doors: list[Door], ledger: Ledger
) -> None:
    before = server.metrics()["aisle_batch_products_count"]
    filed = [door.ask() for door in doors]
    assert batches_of(ledger, filed) == [{one.prediction_id} for one in filed]
    assert server.metrics()["aisle_batch_products_count"] == before + len(doors)


def test_products_that_come_through_all_doors_while_the_engine_is_busy_are_one_batch(
    server: LiveServer, doors: list[Door], ledger: Ledger
) -> None:
    tries = []
    for _ in range(TRIES):
        before = server.metrics()
        filed = ask_while_busy(server, doors)
        after = server.metrics()
        codes = {door.name: one.code for door, one in zip(doors, filed, strict=True)}
        assert len(set(codes.values())) == 1, codes
        batches = batches_of(ledger, filed)
        if batches == [{one.prediction_id for one in filed}]:
            break
        tries.append([len(batch) for batch in batches])
    else:
        pytest.fail(f"the products of {len(doors)} doors were always in several batches: {tries}")
    grown = {name: after[name] - before[name] for name in after if name.startswith("aisle_batch_products_")}
    assert grown["aisle_batch_products_count"] == BUSY_REQUESTS + 1
    assert grown["aisle_batch_products_sum"] == BUSY_REQUESTS * BATCH + len(doors)


# In a process of its own: BentoML reads BENTOML_HOME when it is imported.
BENTOML_CLIENT = """
import json, sys
import bentoml

with bentoml.SyncHTTPClient(sys.argv[1]) as client:
    answer = client.request("POST", "/v1/classify", json=json.loads(sys.argv[2]))
    print(json.dumps([answer.request.headers["user-agent"], answer.status_code, answer.json()]))
"""


def test_bentomls_own_client_gets_the_answer_that_any_http_client_gets(server: LiveServer) -> None:
    products = [{"title": TITLE, "image": IMAGE_TEXT}, {}]
    body = json.dumps({"products": products, "top_k": 2})
    done = subprocess.run(
        [sys.executable, "-c", BENTOML_CLIENT, server.url, body], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    agent, status, answer = json.loads(done.stdout)
    plain = server.classify(products, top_k=2).json()
    assert (agent.partition("/")[0], status) == ("BentoML HTTP Client", 200)
    assert answer["model"] == plain["model"]
    [one, fault], [other, same_fault] = answer["results"], plain["results"]
    assert fault == same_fault
    assert (one["category"], one["accepted"]) == (other["category"], other["accepted"])
    assert [c["code"] for c in one["top"]] == [c["code"] for c in other["top"]]
    assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-4)
