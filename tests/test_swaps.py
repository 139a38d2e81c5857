"""Twenty swaps under constant load of three doors: no request fails, no answer mixes models, and memory comes
back to its level. AISLE_TEST_SWAPS sets another number."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
import psutil
import pytest
from clients import Clients
from live_server import ROOT, LiveServer
from swap_models import KEPT, PRODUCTS

from aisle.ledger import Ledger, ledger_url
from aisle.product import Product
from service.protos import classifier_pb2 as pb
from service.protos.classifier_pb2_grpc import ClassifierStub

SWAPS = int(os.environ.get("AISLE_TEST_SWAPS", "20"))
MODELS = 4
WORKERS = 2
SETTLE_S = 3.0
FOLLOWED_WITHIN_S = 10.0  # half of that on a machine that does nothing else
TIMEOUT_S = 30

Filed = Sequence[tuple[str, float]]  # category and confidence of each of PRODUCTS


class Seen(NamedTuple):
    door: str
    model: str
    filed: Filed


@pytest.fixture(scope="module")
def offline(own_tiny_home: Path) -> dict[str, Filed]:
    """What each model answers, by its tag; computed without a server."""
    home = own_tiny_home
    places = {"AISLE_HOME": str(home), "BENTOML_HOME": str(home / "bentoml"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "swap_models.py"), str(home / "scratch-swaps"), str(MODELS)],
        cwd=ROOT,
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    found: dict[str, Filed] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def server(own_tiny_home: Path, offline: dict[str, Filed]) -> Iterator[LiveServer]:
    server = LiveServer(own_tiny_home, workers=WORKERS, AISLE_MAX_BATCH="16")
    yield server
    server.stop()


def in_json(product: Product) -> dict[str, str | None]:
    return {
        "product_id": product.product_id,
        "title": product.title,
        "description": product.description,
        "image": base64.b64encode(product.image).decode() if product.image else None,
    }


def keep(server: LiveServer) -> None:
    """Let the service compute the vectors of KEPT and store them."""
    deadline = time.monotonic() + TIMEOUT_S
    server.classify([in_json(KEPT)])
    while server.classify([{"product_id": KEPT.product_id}]).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ask_json(server: LiveServer) -> tuple[str, Filed]:
    response = server.classify([in_json(product) for product in PRODUCTS])
    assert response.status_code == 200, response.text
    answer = response.json()
    return answer["model"], [(one["category"]["code"], one["confidence"]) for one in answer["results"]]


def ask_grpc(server: LiveServer) -> tuple[str, Filed]:
    """By a connection of its own, so that any worker may get it."""
    request = pb.ClassifyRequest(
        products=[
            pb.Product(
                product_id=product.product_id,
                title=product.title,
                description=product.description,
                image=product.image,
            )
            for product in PRODUCTS
        ]
    )
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
        answer = ClassifierStub(channel).Classify(request, timeout=TIMEOUT_S)
    assert not [one.error for one in answer.results if one.HasField("error")]
    found = [one.prediction for one in answer.results]
    return answer.model, [(one.category.code, one.confidence) for one in found]


def ask_oip(server: LiveServer) -> tuple[str, Filed]:
    columns = {
        "product_id": [product.product_id or "" for product in PRODUCTS],
        "title": [product.title for product in PRODUCTS],
        "description": [product.description for product in PRODUCTS],
        "image": [base64.b64encode(product.image or b"").decode() for product in PRODUCTS],
    }
    inputs = [
        {"name": name, "shape": [len(PRODUCTS)], "datatype": "BYTES", "data": data}
        for name, data in columns.items()
    ]
    response = httpx.post(
        f"{server.url}/v2/models/aisle-classifier/infer",
        json={"inputs": inputs, "parameters": {"top_k": 1}},
        timeout=TIMEOUT_S,
    )
    assert response.status_code == 200, response.text
    answer = response.json()
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    filed = list(zip(outputs["label"], outputs["score"], strict=True))
    return f"aisle-classifier:{answer['model_version']}", filed


DOORS: dict[str, Callable[[LiveServer], tuple[str, Filed]]] = {
    "json": ask_json,
    "grpc": ask_grpc,
    "oip": ask_oip,
}


def see(server: LiveServer, door: str) -> Seen:
    try:
        return Seen(door, *DOORS[door](server))
    except Exception as error:
        error.add_note(door)
        raise


def memory_bytes(server: LiveServer) -> int:
    """Resident memory of the workers and their supervisor together."""
    processes = [psutil.Process(server.process.pid)]
    processes += processes[0].children(recursive=True)
    return sum(process.memory_info().rss for process in processes if "redis" not in process.name())


def followed(server: LiveServer) -> float:
    return server.metrics()['aisle_model_swaps_total{outcome="done"}']


def swap(server: LiveServer, ledger: Ledger, model: str) -> float:
    """Promote; seconds until every worker followed."""
    before, started = followed(server), time.monotonic()
    ledger.deploy(model, "a test")
    while followed(server) < before + WORKERS:
        assert time.monotonic() - started < FOLLOWED_WITHIN_S, f"{model} is not followed by every worker"
        time.sleep(0.05)
    return time.monotonic() - started


def test_swaps_under_load_fail_nothing_mix_nothing_and_leave_no_memory_behind(
    own_tiny_home: Path, server: LiveServer, offline: dict[str, Filed]
) -> None:
    ledger = Ledger.open(ledger_url(own_tiny_home, ""))
    tags = list(offline)
    keep(server)
    with Clients([partial(see, server, door) for door in DOORS]) as load:
        for number in range(2):
            swap(server, ledger, tags[number % MODELS])
        time.sleep(SETTLE_S)
        level = memory_bytes(server)
        seconds = [swap(server, ledger, tags[number % MODELS]) for number in range(2, 2 + SWAPS)]
        time.sleep(SETTLE_S)
        after = memory_bytes(server)
    print(
        f"{SWAPS} swaps, each followed within {max(seconds):.1f} s; {len(load.seen):,} requests; "
        f"{level / 2**20:,.0f} MB before, {after / 2**20:,.0f} MB after"
    )
    assert load.failures == []
    assert ledger.events("deploy.refused") == []
    for door in DOORS:
        assert {seen.model for seen in load.seen if seen.door == door} >= set(tags), door
    for seen in load.seen:
        if seen.model in offline:  # else it is the model of before the first swap
            wanted = offline[seen.model]
            assert [code for code, _ in seen.filed] == [code for code, _ in wanted], seen
            assert [p for _, p in seen.filed] == pytest.approx([p for _, p in wanted], abs=1e-5), seen
    assert after < 1.05 * level
