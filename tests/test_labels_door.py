"""POST /v1/labels, with a real ledger behind it."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_ledger import RECORD
from tiny_service import TinyService, tiny_classifier

from aisle.image import ImageEncoder
from aisle.ledger import Label, ledger_url
from aisle.text import TextEncoder
from service.errors import RequestError
from service.labels import MAX_REQUESTS, LabelBook

Tiny = tuple[TextEncoder, ImageEncoder]


@pytest.fixture
def service(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder, tmp_path: Path) -> TinyService:
    made = TinyService(
        tiny_classifier(tiny_text_encoder, tiny_image_encoder), ledger_url=ledger_url(tmp_path, "")
    )
    made.ledger.create_tables()
    made.ledger.record_predictions([RECORD, replace(RECORD, prediction_id="p2", product_id="shoe-2")])
    return made


def post(service: TinyService, labels: Any) -> Any:
    return service.client.post("/v1/labels", json={"labels": labels})


def test_labels_of_an_answer_and_of_a_product_are_recorded(service: TinyService) -> None:
    answer = post(
        service,
        [
            {"prediction_id": "p1", "category": "40"},
            {"product_id": "shoe-2", "category": "new", "source": "audit"},
        ],
    )
    assert answer.status_code == 200
    assert answer.json() == {
        "results": [
            {"recorded": True, "new": True, "in_taxonomy": True},
            {"recorded": True, "new": True, "in_taxonomy": False},
        ]
    }
    found = [
        (one.prediction.prediction_id, one.label.category, one.label.source)
        for one in service.ledger.labelled_predictions()
    ]
    assert found == [("p1", "40", "review"), ("p2", "new", "audit")]
    assert service.sample("aisle_labels_total") == 2


def test_labels_may_be_sent_again(service: TinyService) -> None:
    given = [{"prediction_id": "p1", "category": "40"}, {"product_id": "shoe-2", "category": "50"}]
    first, second = (post(service, given).json()["results"] for _ in range(2))
    assert [result["new"] for result in first] == [True, True]
    assert [result["new"] for result in second] == [False, False]
    assert service.ledger.count_labels() == 2


@pytest.mark.parametrize(
    ("label", "field", "found", "wanted"),
    [
        ({"category": "40"}, "label", "neither of prediction_id and product_id", "exactly one of them"),
        (
            {"prediction_id": "p1", "product_id": "x", "category": "40"},
            "label",
            "both of prediction_id and product_id",
            "exactly one of them",
        ),
        ({"prediction_id": "p1"}, "category", "nothing", "a category code of 1 to 128 characters"),
        (
            {"prediction_id": "p1", "category": 40},
            "category",
            "a number (40)",
            "a category code of 1 to 128 characters",
        ),
        (
            {"prediction_id": "p1", "category": "a\x00b"},
            "category",
            "a string of 3 characters",
            "a category code of 1 to 128 characters",
        ),
        (
            {"prediction_id": "p\x00", "category": "40"},
            "prediction_id",
            "a string of 2 characters",
            "the prediction_id of an answer",
        ),
        (
            {"product_id": "shoe\x00", "category": "40"},
            "product_id",
            "a string of 5 characters",
            "a product that was classified",
        ),
        (
            {"prediction_id": "p1", "category": "40", "source": "gossip"},
            "source",
            "a string of 6 characters",
            "review, audit or seller",
        ),
    ],
)
def test_a_bad_label_is_told_what_was_wrong_and_its_neighbour_is_recorded(
    service: TinyService, label: dict[str, Any], field: str, found: str, wanted: str
) -> None:
    answer = post(service, [label, {"prediction_id": "p1", "category": "40"}])
    assert answer.status_code == 200
    fault, good = answer.json()["results"]
    assert (fault["error"]["reason"], fault["error"]["field"]) == ("label_wrong", field)
    assert (fault["error"]["found"], fault["error"]["wanted"]) == (found, wanted)
    assert good["recorded"]


def test_a_label_of_an_unknown_answer_is_refused(service: TinyService) -> None:
    answer = post(service, [{"prediction_id": "p9", "category": "40"}])
    assert answer.status_code == 422
    assert answer.json()["error"]["found"] == "'p9', which the ledger does not hold"
    assert service.ledger.count_labels() == 0
    assert service.sample("aisle_errors_total", reason="prediction_unknown") == 1


@pytest.mark.parametrize(
    ("body", "status", "found"),
    [
        (b"", 400, "an empty body"),
        (b"[]", 422, "a list"),
        (b'{"labels": []}', 422, "a list"),
        (b'{"labels": "x"}', 422, "a string of 1 characters"),
        (b'{"labels": [{}], "more": 1}', 422, "a number (1)"),
    ],
)
def test_a_bad_envelope_is_refused_whole(service: TinyService, body: bytes, status: int, found: str) -> None:
    answer = service.client.post("/v1/labels", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["found"]) == (status, found)


def test_only_so_many_wait_while_the_ledger_is_locked(service: TinyService, tmp_path: Path) -> None:
    book = LabelBook(service.ledger, lambda: service.classifier.taxonomy)
    label = Label(prediction_id="p1", category="40", source="review")

    async def send() -> list[Any]:
        with sqlite3.connect(tmp_path / "ledger.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            sent = [asyncio.ensure_future(book.record([label])) for _ in range(MAX_REQUESTS + 3)]
            await asyncio.sleep(0)
            other.execute("ROLLBACK")
        return await asyncio.gather(*sent, return_exceptions=True)

    told = asyncio.run(send())
    refused = [one for one in told if isinstance(one, RequestError)]
    assert [(one.status, one.reason) for one in refused] == [(429, "labels_full")] * 3
    assert [one[0]["recorded"] for one in told if isinstance(one, list)] == [True] * MAX_REQUESTS
    book.close()


def test_labels_are_not_lost_silently_while_the_ledger_is_away(
    tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder
) -> None:
    away = TinyService(
        tiny_classifier(tiny_text_encoder, tiny_image_encoder),
        ledger_url="postgresql://nobody@127.0.0.1:1/nothing",
    )
    answer = post(away, [{"prediction_id": "p1", "category": "40"}])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["reason"] == "ledger_unavailable"
    assert away.classify([{"title": "train"}]).status_code == 200
