"""GET /v1/products: one product's last answer, with a real ledger behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_ledger import another
from tiny_service import TinyService, tiny_classifier

from aisle.image import ImageEncoder
from aisle.ledger import Label, ledger_url
from aisle.text import TextEncoder

NOON_S = 1_732_190_400.0


@pytest.fixture
def service(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder, tmp_path: Path) -> TinyService:
    made = TinyService(
        tiny_classifier(tiny_text_encoder, tiny_image_encoder), ledger_url=ledger_url(tmp_path, "")
    )
    made.ledger.create_tables()
    made.ledger.record_predictions(
        [
            another("p1", product_id="shoe/1", category="10", title="Red shoes", at_s=NOON_S),
            another("p2", product_id="shoe/1", category="40", confidence=0.5, at_s=NOON_S + 1),
            another("p3", product_id="hat", at_s=NOON_S + 2),
        ]
    )
    return made


def get(service: TinyService, **query: Any) -> Any:
    return service.client.get("/v1/products", params=query)


def test_a_product_is_told_with_its_last_answer(service: TinyService) -> None:
    assert get(service, product_id="shoe/1").json() == {
        "product_id": "shoe/1",
        "title": "Red shoes",
        "first_at": "2024-11-21T12:00:00.000000Z",
        "last_at": "2024-11-21T12:00:01.000000Z",
        "prediction_id": "p2",
        "model": "aisle-classifier:a",
        "category": {"code": "40", "name": "games"},
        "confidence": 0.5,
        "accepted": True,
        "label": None,
    }


def test_its_label_is_the_last_that_names_it_or_its_last_answer(service: TinyService) -> None:
    given = [
        Label(prediction_id="p1", category="early", source="audit"),
        Label(product_id="shoe/1", category="product", source="audit"),
        Label(prediction_id="p2", category="answer", source="review"),
        Label(product_id="hat", category="other", source="audit"),
    ]
    seen = []
    for label in given:
        service.ledger.record_labels([label])
        told = get(service, product_id="shoe/1").json()["label"]
        seen.append(told and told["category"]["code"])
    assert seen == [None, "product", "answer", "answer"]


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ({}, 422, "product_id: found nothing, wanted a product's id"),
        ({"product_id": ""}, 422, "product_id: found '', wanted 1 to 256 characters"),
        ({"product_id": ["a", "b"]}, 422, "product_id: found it twice, wanted it once"),
        ({"id": "hat"}, 422, "query: found a parameter 'id', wanted one of product_id"),
        ({"product_id": "x"}, 404, "product_id: found 'x', wanted a product that was answered, and not"),
    ],
)
def test_a_wrong_question_is_told(
    service: TinyService, query: dict[str, Any], status: int, message: str
) -> None:
    answer = get(service, **query)
    assert answer.status_code == status
    assert answer.json()["error"]["message"].startswith(message)
