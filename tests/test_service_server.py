"""A real `bentoml serve` with two workers, on a small real classifier and its published features."""

from __future__ import annotations

import asyncio
import base64
import csv
import functools
import io
import json
import os
import signal
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from live_server import LiveServer
from pictures import jpeg
from PIL import Image
from redis_processes import process_ids

from aisle.bundle import Bundle
from aisle.classifier import Classifier
from aisle.image import ImageEncoder
from aisle.product import Product
from aisle.text import TextEncoder
from service.bentoml_bridge import HOLD_LOOK_S
from service.wire import ClassifyOut, RefusedOut

IMAGE = base64.b64encode(jpeg("blue")).decode()


@pytest.fixture(scope="module")
def server(tiny_home: Path) -> Iterator[LiveServer]:
    # No fewer threads that read than cores, whatever machine this is: so batches of pictures wait for more.
    cores = str(min(64, len(os.sched_getaffinity(0))))
    server = LiveServer(tiny_home, workers=2, AISLE_MAX_BATCH="8", AISLE_DECODE_THREADS=cores)
    yield server
    server.stop()


def test_probes_answer(server: LiveServer) -> None:
    assert server.client.get("/livez").status_code == 200
    assert server.client.get("/readyz").status_code == 200
    assert server.client.get("/openapi.json").json()["openapi"] == "3.1.0"


def test_products_are_classified(server: LiveServer) -> None:
    answer = server.classify([{"title": "blue notebook"}, {"title": "wooden train", "image": IMAGE}, {}])
    assert answer.status_code == 200
    ClassifyOut.model_validate(answer.json())
    text_alone, both, bad = answer.json()["results"]
    assert text_alone["vectors"] == {"text": "computed", "image": "absent"}
    assert both["vectors"] == {"text": "computed", "image": "computed"}
    assert bad["error"]["reason"] == "product_empty"


def test_a_pool_of_connections_is_spread_over_the_workers(server: LiveServer) -> None:
    """The worker that was idle when they were opened may have taken them all."""

    async def ask_again_and_again(client: httpx.AsyncClient) -> None:
        while not done.is_set():
            answer = await client.post("/v1/classify", json={"products": [{"title": "a train"}] * 32})
            assert answer.status_code == 200

    async def connections() -> dict[int, int]:
        limits = httpx.Limits(max_connections=16, max_keepalive_connections=16)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
            clients = [asyncio.create_task(ask_again_and_again(client)) for _ in range(16)]
            await asyncio.sleep(4)
            counts = server.connections()
            done.set()
            await asyncio.gather(*clients)
            return counts

    done = asyncio.Event()
    counts = asyncio.run(connections())
    assert len(counts) == 2
    assert min(counts.values()) >= 4, counts


@pytest.fixture(scope="module")
def offline(tiny_home: Path) -> Classifier:
    """The served classifier, loaded from its folders."""
    models = tiny_home / "bentoml" / "models"
    bundle, text, image = (
        next(path for path in (models / name).iterdir() if path.is_dir())
        for name in ("aisle-classifier", "aisle-text-encoder", "aisle-image-encoder")
    )
    return Classifier(Bundle.load(bundle), TextEncoder.load(text), ImageEncoder.load(image))


def catalogue(tiny_home: Path) -> list[dict[str, str]]:
    with (tiny_home / "catalogue" / "products.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def product_of(tiny_home: Path, row: dict[str, str]) -> Product:
    image = (tiny_home / "catalogue" / row["image"]).read_bytes() if row["image"] else None
    return Product(title=row["title"], description=row["description"], image=image)


def as_json(product: Product) -> dict[str, str | None]:
    image = base64.b64encode(product.image).decode() if product.image else None
    return {"title": product.title, "description": product.description, "image": image}


def test_stored_products_are_answered_by_their_id_alone(tiny_home: Path, server: LiveServer) -> None:
    rows = catalogue(tiny_home)
    results = server.classify([{"product_id": row["product_id"]} for row in rows]).json()["results"]
    for row, result in zip(rows, results, strict=True):
        image = "stored" if row["image"] else "absent"
        assert result["vectors"] == {"text": "stored", "image": image}, row["product_id"]


@pytest.mark.parametrize("size", [1, 7, 120])
def test_a_served_answer_is_the_offline_answer_whatever_its_batch(
    tiny_home: Path, server: LiveServer, offline: Classifier, size: int
) -> None:
    given = [product_of(tiny_home, row) for row in catalogue(tiny_home)[: max(size, 14)]]
    wanted = offline.predict([offline.prepare(product) for product in given])
    results = []
    for start in range(0, len(given), size):
        products = [as_json(product) for product in given[start : start + size]]
        results += server.classify(products).json()["results"]
    for result, prediction in zip(results, wanted, strict=True):
        assert result["category"]["code"] == prediction.category.code
        assert result["accepted"] == prediction.accepted
        probabilities = {c["code"]: c["probability"] for c in result["top"]}
        for candidate in prediction.top:
            assert probabilities[candidate.category.code] == pytest.approx(candidate.probability, abs=1e-4)


def test_stored_vectors_give_the_offline_answer_too(
    tiny_home: Path, server: LiveServer, offline: Classifier
) -> None:
    rows = [row for row in catalogue(tiny_home)[:20] if row["image"]]
    wanted = offline.predict([offline.prepare(product_of(tiny_home, row)) for row in rows])
    results = server.classify([{"product_id": row["product_id"]} for row in rows]).json()["results"]
    for result, prediction in zip(results, wanted, strict=True):
        assert result["vectors"] == {"text": "stored", "image": "stored"}
        assert result["category"]["code"] == prediction.category.code
        assert result["confidence"] == pytest.approx(prediction.confidence, abs=1e-4)


def test_a_computed_vector_is_stored_for_the_next_request(server: LiveServer) -> None:
    new = {"product_id": "new-1", "title": "train bois neuf", "image": IMAGE}
    [first] = server.classify([new]).json()["results"]
    assert first["vectors"] == {"text": "computed", "image": "computed"}
    deadline = time.monotonic() + 5
    while True:
        [again] = server.classify([new]).json()["results"]
        if again["vectors"] == {"text": "stored", "image": "stored"}:
            break
        assert time.monotonic() < deadline, again
    assert again["confidence"] == pytest.approx(first["confidence"], abs=1e-4)
    [changed] = server.classify([{**new, "title": "livre roman"}]).json()["results"]
    assert changed["vectors"] == {"text": "computed", "image": "stored"}
    [by_id] = server.classify([{"product_id": "new-1"}]).json()["results"]
    assert by_id["confidence"] == pytest.approx(first["confidence"], abs=1e-4)


def test_counts_are_the_sum_of_both_workers(server: LiveServer) -> None:
    name = "aisle_batch_products_sum"
    before = server.metrics()[name]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: server.classify([{"title": f"notebook {i}"}] * 3), range(40)))
    assert [answer.status_code for answer in answers] == [200] * 40
    assert {server.metrics()[name] for _ in range(10)} == {before + 120}  # whichever worker is asked
    after = server.metrics()
    batches = after['aisle_stage_seconds_count{stage="embed"}']
    assert after["aisle_batch_products_count"] == batches
    assert after["aisle_queue_products"] == 0


def test_batches_wait_for_pictures_that_are_being_read_and_for_nothing_else(server: LiveServer) -> None:
    def held_s(product: dict[str, str]) -> float:
        """For how long batches were held in all; each is counted, however short."""
        before = server.metrics()
        asked = functools.partial(server.client.post, "/v1/classify")
        with ThreadPoolExecutor(32) as pool:
            answers = [pool.submit(asked, json={"products": [product]}) for _ in range(192)]
        assert {answer.result().status_code for answer in answers} == {200}
        after = server.metrics()
        new = {name: after[name] - before[name] for name in after if name.startswith("aisle_stage_seconds")}
        batches = new['aisle_stage_seconds_count{stage="embed"}']
        assert new['aisle_stage_seconds_count{stage="hold"}'] == batches > 0
        return new['aisle_stage_seconds_sum{stage="hold"}']

    photos_s = held_s({"image": base64.b64encode(jpeg("blue", 1000)).decode()})
    assert photos_s > HOLD_LOOK_S
    assert held_s({"title": "blue notebook"}) < max(photos_s / 5, HOLD_LOOK_S)


def test_the_served_model_is_one_series(server: LiveServer) -> None:
    served = [name for name in server.metrics() if name.startswith("aisle_model_info")]
    assert len(served) == 1
    model = server.classify([{"title": "a"}]).json()["model"]
    assert f'model="{model}"' in served[0]


def test_scanned_paths_make_no_series(server: LiveServer) -> None:
    before = set(server.metrics())
    paths = [
        f"/{word}{i}" for i in range(10) for word in ("wp-admin", "classify", "v1/", ".env", "docs.json")
    ]
    for path in paths:
        assert server.client.get(path).status_code == 404
    new = set(server.metrics()) - before
    assert new <= {'aisle_errors_total{reason="path_unknown"}'}


def test_bentomls_own_route_of_the_batch_method_is_closed(server: LiveServer) -> None:
    answer = server.client.post("/classify", json={"items": [1]})
    assert answer.status_code == 404
    RefusedOut.model_validate(answer.json())


def test_a_body_over_the_limit_is_answered_not_reset(tiny_home: Path, server: LiveServer) -> None:
    answer = server.client.post("/v1/classify", content=b"x" * (64 * 2**20 + 1))
    assert answer.status_code == 413
    assert answer.json()["error"]["wanted"] == "at most 67,108,864 bytes"


def test_256_products_with_pictures_are_answered(server: LiveServer) -> None:
    answer = server.classify([{"title": f"train {i}", "image": IMAGE} for i in range(256)])
    assert answer.status_code == 200
    assert all("category" in result for result in answer.json()["results"])


def test_a_dead_redis_costs_milliseconds_and_no_answer(tiny_home: Path, server: LiveServer) -> None:
    supervisor, _ = process_ids(tiny_home / "redis")
    os.kill(supervisor, signal.SIGKILL)  # its server dies with it, and nobody starts it again
    products = [{"product_id": "3", "title": "train bois 3"}, {"product_id": "4"}]
    seconds = []
    for _ in range(12):
        start = time.monotonic()
        known, id_alone = server.classify(products).json()["results"]
        seconds.append(time.monotonic() - start)
        assert known["vectors"]["text"] == "computed"
        assert id_alone["error"]["reason"] == "features_unavailable"
    assert statistics.median(seconds) < 0.5
    id_alone = server.classify([{"product_id": "4"}])
    assert (id_alone.status_code, id_alone.headers["Retry-After"]) == (503, "1")
    reads = (
        'aisle_errors_total{reason="features_read_failed"}',
        'aisle_errors_total{reason="features_read_skipped"}',
    )
    assert sum(server.metrics()[name] for name in reads) == 13


def test_a_stopped_server_answers_what_it_has_taken(tiny_home: Path, server: LiveServer) -> None:
    # The last test of `server`: it stops it. Large pictures keep the requests in flight.
    file = io.BytesIO()
    Image.new("RGB", (2000, 2000), "red").save(file, "PNG")  # 12 MB in 12 kB: sent soon, read long
    picture = base64.b64encode(file.getvalue()).decode()
    body = json.dumps({"products": [{"title": "wooden train", "image": picture}] * 24})

    def ask(_: int) -> httpx.Response:
        return server.client.post("/v1/classify", content=body, headers={"Content-Type": "application/json"})

    def in_flight() -> float:
        name = 'aisle_http_requests_in_progress{endpoint="/v1/classify"'
        return sum(value for metric, value in server.metrics().items() if metric.startswith(name))

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, i) for i in range(4)]
        deadline = time.monotonic() + 10
        while in_flight() < 4:
            assert time.monotonic() < deadline, "the four requests were never in flight together"
        start = time.monotonic()
        status = server.stop()
        assert [future.result().status_code for future in asked] == [200] * 4
    assert status == 0
    assert time.monotonic() - start < 20
