"""GET /v1/monitor tells what was measured, and what is not known yet."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from test_ledger import another
from tiny_service import MODEL, TinyService, tiny_classifier

from aisle.errors import LedgerError, LedgerRefusedError
from aisle.image import ImageEncoder
from aisle.ledger import Label, Ledger, ledger_url
from aisle.text import TextEncoder
from service.errors import RequestError
from service.ledger_reader import MAX_READS, LedgerReader


@pytest.fixture
def service(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder, tmp_path: Path) -> TinyService:
    made = TinyService(
        tiny_classifier(tiny_text_encoder, tiny_image_encoder), ledger_url=ledger_url(tmp_path, "")
    )
    made.ledger.create_tables()
    return made


def test_at_first_little_is_known(service: TinyService) -> None:
    told = service.client.get("/v1/monitor").json()
    assert told.pop("uptime_s") > 0
    assert told == {
        "model": {"version": MODEL, "since": None},
        "since_start": {"predictions": 0, "accepted": 0, "labels": 0, "errors": 0, "shed_products": 0},
        "latency": None,
        "accepted_share": None,
        "accuracy": None,
        "drift": None,
        "ledger": "reachable",
        "not_known_yet": ["latency", "accepted_share", "accuracy", "drift", "model.since"],
    }


def test_what_was_measured_is_told(service: TinyService) -> None:
    deployed = service.ledger.deploy(MODEL, "a test")
    records = [
        another(f"p{i}", model=MODEL, accepted=i < 150, latency_s=i / 1000, product_id=str(i))
        for i in range(200)
    ]
    service.ledger.record_predictions([*records, another("other", model="aisle-classifier:other")])
    service.ledger.record_labels(
        [
            Label(prediction_id=f"p{i}", category="shoes" if i < 9 else "hats", source="audit")
            for i in range(10)
        ]
    )
    service.ledger.record_event("drift.state", {"model": MODEL, "drifting": False, "streams": []})
    service.classify([{"title": "train"}, {}])
    told = service.client.get("/v1/monitor").json()
    assert told["not_known_yet"] == []
    assert told["latency"] == {"p50_s": 0.099, "p99_s": 0.197, "answers": 200}
    assert told["accepted_share"] == 0.75
    assert told["accuracy"] == {
        "value": 0.9,
        "low": pytest.approx(0.5958, abs=1e-4),
        "high": pytest.approx(0.9821, abs=1e-4),
        "labels": 10,
    }
    assert told["drift"]["drifting"] is False
    assert told["since_start"]["predictions"] == 1
    assert told["since_start"]["errors"] == 1
    assert told["model"]["since"].endswith("Z")
    assert deployed.at_s <= time.time()


def test_what_is_known_of_another_model_is_not_known_of_this_one(service: TinyService) -> None:
    service.ledger.deploy("aisle-classifier:other", "a test")
    service.ledger.record_event("drift.state", {"model": "aisle-classifier:other", "drifting": True})
    told = service.client.get("/v1/monitor").json()
    assert (told["model"]["since"], told["drift"]) == (None, None)


def test_without_its_ledger_it_still_answers(
    tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder
) -> None:
    away = TinyService(
        tiny_classifier(tiny_text_encoder, tiny_image_encoder),
        ledger_url="postgresql://nobody@127.0.0.1:1/nothing",
    )
    answer = away.client.get("/v1/monitor")
    assert (answer.status_code, answer.json()["ledger"]) == (200, "ledger_unavailable")


def test_only_so_many_read_at_once(tmp_path: Path) -> None:
    reader = LedgerReader(Ledger.open(ledger_url(tmp_path, "")))

    async def ask_often() -> list[object]:
        reads = [reader.ask(lambda _: time.sleep(0.05)) for _ in range(MAX_READS + 3)]
        return await asyncio.gather(*reads, return_exceptions=True)

    refused = [one for one in asyncio.run(ask_often()) if isinstance(one, RequestError)]
    assert [(one.status, one.reason) for one in refused] == [(429, "reads_full")] * 3

    def fails(_: Ledger) -> None:
        raise LedgerError("away")

    with pytest.raises(RequestError, match="found a ledger that does not answer"):
        asyncio.run(reader.ask(fails))

    def refuses(_: Ledger) -> None:
        raise LedgerRefusedError("a NUL")

    with pytest.raises(RequestError, match="found a value that the ledger cannot hold") as refused_whole:
        asyncio.run(reader.ask(refuses))
    assert (refused_whole.value.status, refused_whole.value.headers) == (422, {})
    reader.close()
