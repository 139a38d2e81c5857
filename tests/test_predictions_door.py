"""GET /v1/predictions: pages of what was answered, with a real ledger behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_ledger import another
from tiny_service import TinyService, tiny_classifier

from aisle.image import ImageEncoder
from aisle.ledger import Label, ledger_url
from aisle.text import TextEncoder


@pytest.fixture
def service(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder, tmp_path: Path) -> TinyService:
    made = TinyService(
        tiny_classifier(tiny_text_encoder, tiny_image_encoder), ledger_url=ledger_url(tmp_path, "")
    )
    made.ledger.create_tables()
    return made


def get(service: TinyService, **query: Any) -> Any:
    return service.client.get("/v1/predictions", params=query)


def ids(page: dict[str, Any]) -> list[str]:
    return [one["prediction_id"] for one in page["predictions"]]


def test_a_prediction_is_told_whole(service: TinyService) -> None:
    service.ledger.record_predictions(
        [another("p1", category="40", title="Red shoes", latency_s=0.125, at_s=1_732_190_400.5)]
    )
    service.ledger.record_labels([Label(prediction_id="p1", category="99", source="audit", at_s=2e9)])
    assert get(service).json() == {
        "predictions": [
            {
                "prediction_id": "p1",
                "at": "2024-11-21T12:00:00.500000Z",
                "model": "aisle-classifier:a",
                "role": "champion",
                "product_id": "shoe-1",
                "title": "Red shoes",
                "category": {"code": "40", "name": "games"},
                "confidence": 0.75,
                "accepted": True,
                "vectors": {"text": "stored", "image": "computed"},
                "latency_s": 0.125,
                "text_chars": 31,
                "language": "fr",
                "image_width": 500,
                "image_height": 400,
                "label": {
                    "category": {"code": "99", "name": None},
                    "source": "audit",
                    "at": "2033-05-18T03:33:20.000000Z",
                },
            }
        ],
        "next": None,
    }


def test_pages_follow_each_other_while_new_predictions_come(service: TinyService) -> None:
    service.ledger.record_predictions([another(f"p{i}", at_s=1e9 + i / 3) for i in range(7)])
    first = get(service, limit=3).json()
    service.ledger.record_predictions([another("new", at_s=2e9)])
    second = get(service, limit=3, cursor=first["next"]).json()
    third = get(service, limit=3, cursor=second["next"]).json()
    assert [*ids(first), *ids(second), *ids(third)] == [f"p{i}" for i in range(6, -1, -1)]
    assert third["next"] is None


def test_a_page_that_holds_all_has_no_next(service: TinyService) -> None:
    service.ledger.record_predictions([another(f"p{i}") for i in range(3)])
    assert get(service, limit=3).json()["next"] is None


def test_the_doubtful_ones_that_nobody_has_labelled_are_found(service: TinyService) -> None:
    service.ledger.record_predictions(
        [another(f"p{i}", accepted=i % 2 == 0, confidence=i / 10, at_s=1e9 + i) for i in range(8)]
    )
    service.ledger.record_labels([Label(prediction_id="p1", category="c", source="review")])
    doubtful = {"accepted": "false", "labelled": "false", "max_confidence": "0.5"}
    found = get(service, **doubtful, since="2001-09-09T01:46:41.5Z")
    assert ids(found.json()) == ["p5", "p3"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"colour": "red"}, "query: found a parameter 'colour', wanted one of product_id, model,"),
        ({"limit": "0"}, "limit: found '0', wanted a whole number from 1 to 1,000"),
        ({"limit": "many"}, "limit: found 'many', wanted a whole number"),
        ({"accepted": "yes"}, "accepted: found 'yes', wanted true or false"),
        ({"min_confidence": "nan"}, "min_confidence: found 'nan', wanted a number from 0 to 1"),
        ({"since": "yesterday"}, "since: found 'yesterday', wanted a time with its zone (RFC 3339)"),
        ({"since": "2024-01-01T00:00:00"}, "since: found '2024-01-01T00:00:00', wanted a time with its zone"),
        ({"until": "inf"}, "until: found 'inf', wanted a time"),
        ({"cursor": "1-" + "9" * 30}, "cursor: found '1-9999999"),
        ({"model": "x" * 300}, f"model: found '{'x' * 57}...', wanted 1 to 256 characters"),
        ({"product_id": "a\0b"}, "product_id: found 'a\\x00b', wanted 1 to 256 characters"),
        ({"limit": ["1", "2"]}, "limit: found it twice, wanted it once"),
    ],
)
def test_a_wrong_query_is_told(service: TinyService, query: dict[str, Any], found: str) -> None:
    answer = service.client.get("/v1/predictions", params=query)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith(found)


def test_without_a_ledger_it_is_told_and_may_be_tried_again(
    tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder
) -> None:
    away = TinyService(
        tiny_classifier(tiny_text_encoder, tiny_image_encoder),
        ledger_url="postgresql://nobody@127.0.0.1:1/nothing",
    )
    answer = get(away)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["reason"] == "ledger_unavailable"
