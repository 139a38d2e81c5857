from __future__ import annotations

import base64
import json
from dataclasses import replace

import numpy as np
import pytest
from pictures import jpeg
from tiny_service import MODEL, TinyService, tiny_classifier, vectors

from aisle.classifier import Classifier
from aisle.image import ImageEncoder
from aisle.neighbours import Neighbours
from aisle.product import Product
from aisle.text import TextEncoder
from service.errors import overloaded
from service.openapi import specification
from service.wire import MAX_PRODUCTS, ClassifyIn, ClassifyOut, RefusedOut

IMAGE = base64.b64encode(jpeg("red")).decode()


@pytest.fixture
def service(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder) -> TinyService:
    return TinyService(tiny_classifier(tiny_text_encoder, tiny_image_encoder))


def test_an_answer_says_what_and_why(service: TinyService) -> None:
    answer = service.classify([{"product_id": "7", "title": "blue notebook", "image": IMAGE}], top_k=2)
    assert answer.status_code == 200
    ClassifyOut.model_validate(answer.json())
    [result] = answer.json()["results"]
    assert answer.json()["model"] == MODEL
    assert result["product_id"] == "7"
    assert result["category"]["name"] in ("books", "games", "toys")
    assert result["confidence"] == result["top"][0]["probability"]
    assert len(result["top"]) == 2
    assert result["vectors"] == {"text": "computed", "image": "computed"}


def test_a_served_answer_is_the_classifiers_own(service: TinyService) -> None:
    titles = ["blue notebook", "wooden train", "board game", "e"]
    results = service.classify([{"title": title} for title in titles]).json()["results"]
    for title, result in zip(titles, results, strict=True):
        item = service.classifier.prepare(Product(title=title))
        [offline] = service.classifier.predict([item])
        assert result["category"]["code"] == offline.category.code
        assert result["confidence"] == pytest.approx(offline.confidence, abs=1e-4)
        assert result["text_only"]["probability"] == pytest.approx(offline.confidence, abs=1e-4)
        assert result["image_only"] is None


def test_a_known_id_alone_is_answered_from_stored_vectors(service: TinyService) -> None:
    service.pantry.held["7"] = vectors(service.classifier)
    [result] = service.classify([{"product_id": "7"}]).json()["results"]
    assert result["vectors"] == {"text": "stored", "image": "stored"}


def test_one_read_serves_a_whole_request(service: TinyService) -> None:
    service.classify([{"product_id": "7", "title": "a"}, {"title": "b"}, {"product_id": "8", "title": "c"}])
    assert service.pantry.reads == [["7", None, "8"]]


def test_products_without_an_id_read_nothing(service: TinyService) -> None:
    service.classify([{"title": "a"}])
    assert service.pantry.reads == []


def test_256_products_are_answered_in_order(service: TinyService) -> None:
    products = [{"product_id": str(i), "title": "x" * (i % 7 + 1)} for i in range(MAX_PRODUCTS)]
    answer = service.classify(products)
    assert answer.status_code == 200
    assert [result["product_id"] for result in answer.json()["results"]] == [
        p["product_id"] for p in products
    ]


def test_null_is_the_same_as_nothing(service: TinyService) -> None:
    given = {"product_id": None, "title": "a", "description": None, "image": None}
    assert service.classify([given]).json() == service.classify([{"title": "a"}]).json()


def near(classifier: Classifier) -> Neighbours:
    """Two products that the model learned from; the first is `vectors`' own."""
    ones = np.ones((2, 2), dtype=np.float32)
    held = vectors(classifier)
    assert held.text_vector_D is not None
    assert held.image_vector_E is not None
    text, image = (np.stack([one, -one]) for one in (held.text_vector_D, held.image_vector_E))
    return Neighbours.of(["like it", "unlike it"], np.array([2, 0]), text, image, ones)


def test_an_answer_is_explained_where_the_request_asks_for_it(
    tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder
) -> None:
    plain = tiny_classifier(tiny_text_encoder, tiny_image_encoder)
    bundle = replace(plain.bundle, neighbours=lambda: near(plain))
    service = TinyService(Classifier(bundle, tiny_text_encoder, tiny_image_encoder, version=MODEL))
    service.pantry.held["7"] = vectors(service.classifier)
    answer = service.classify([{"product_id": "7"}, {"title": "wooden train"}], explain=True)
    ClassifyOut.model_validate(answer.json())
    both, text_alone = (result["explanation"] for result in answer.json()["results"])
    confidence = answer.json()["results"][0]["confidence"]
    assert 2 ** (both["text_bits"] + both["image_bits"]) / 3 == pytest.approx(confidence, rel=1e-4)
    assert [one["product_id"] for one in both["neighbours"]] == ["like it", "unlike it"]
    assert [one["category"]["code"] for one in both["neighbours"]] == [
        service.classifier.taxonomy[place].code for place in (2, 0)
    ]
    assert [one["similarity"] for one in both["neighbours"]] == pytest.approx([1, -1], abs=2e-3)
    assert text_alone["image_bits"] is None


def test_an_answer_is_not_explained_unasked(service: TinyService) -> None:
    [result] = service.classify([{"title": "wooden train"}]).json()["results"]
    assert "explanation" not in result


def test_an_upload_may_ask_why(service: TinyService) -> None:
    asked = service.client.post(
        "/v1/classify/upload", files={"title": (None, "train"), "explain": (None, "true")}
    )
    assert asked.json()["results"][0]["explanation"]["image_bits"] is None
    wrong = service.client.post(
        "/v1/classify/upload", files={"title": (None, "train"), "explain": (None, "yes")}
    )
    assert wrong.json()["error"]["message"] == "explain: found 'yes', wanted true or false"


def test_explain_is_a_boolean(service: TinyService) -> None:
    answer = service.classify([{"title": "train"}], explain="yes")
    assert answer.status_code == 422
    assert (
        answer.json()["error"]["message"] == "explain: found a string of 3 characters, wanted true or false"
    )


def test_an_upload_keeps_its_text_as_text(service: TinyService) -> None:
    parts = {"title": "123", "product_id": "7", "top_k": "1"}
    answer = service.client.post("/v1/classify/upload", data=parts, files={"image": ("a.jpg", jpeg("red"))})
    assert answer.status_code == 200
    ClassifyOut.model_validate(answer.json())
    same = service.classify([{"title": "123", "product_id": "7", "image": IMAGE}], top_k=1)
    assert answer.json() == same.json()


def test_an_upload_without_a_chosen_picture_is_text_alone(service: TinyService) -> None:
    form = (
        b'--x\r\nContent-Disposition: form-data; name="title"\r\n\r\nwooden train\r\n'
        b'--x\r\nContent-Disposition: form-data; name="image"; filename=""\r\n\r\n\r\n--x--\r\n'
    )
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = service.client.post("/v1/classify/upload", content=form, headers=headers)
    assert answer.status_code == 200
    assert answer.json()["results"][0]["vectors"] == {"text": "computed", "image": "absent"}


def test_shed_products_are_told_apart_and_counted(service: TinyService) -> None:
    shed = overloaded("latency", found="an answer would take longer than 1 s", wanted="a retry")
    service.dispatch.shed["late"] = shed
    some = service.classify([{"title": "late"}, {"title": "in time"}])
    assert some.status_code == 200
    assert some.json()["results"][0]["error"]["reason"] == "latency"
    every = service.classify([{"title": "late"}])
    assert (every.status_code, every.headers["retry-after"]) == (429, "1")
    RefusedOut.model_validate(every.json())
    assert service.sample("aisle_shed_products_total", reason="latency") == 2


def test_a_full_queue_sheds_at_the_door(service: TinyService) -> None:
    with service.gate.interactive(511, timeout_s=9):
        answer = service.classify([{"title": "a"}] * 3)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.json()["error"]["message"] == (
            "request: found 3 more places for a queue that holds 511, wanted at most 512 together, or a retry"
        )
        assert service.sample("aisle_shed_products_total", reason="queue_full") == 3
        assert service.classify([{"title": "a"}]).status_code == 200
    with service.gate.interactive(512, timeout_s=9):
        unread = service.client.post("/v1/classify", content=b"not JSON")
        assert (unread.status_code, unread.json()["error"]["reason"]) == (429, "queue_full")
        infer = service.client.post("/v2/models/aisle-classifier/infer", content=b"not JSON")
        assert infer.status_code == 429
        assert infer.json()["error"].startswith("request: found 1 more")
        assert service.client.get("/openapi.json").status_code == 200
    assert service.gate.under_way == 0


def test_bulk_requests_have_a_bound_of_their_own(service: TinyService) -> None:
    service = TinyService(service.classifier, max_queue=2, max_bulk=4)
    bulk = {"headers": {"aisle-priority": "bulk"}}
    assert len(service.classify([{"title": "a"}] * 9).json()["results"]) == 9  # alone, however many
    with service.gate.bulk_request(3):
        assert service.classify([{"title": "a"}], **bulk).status_code == 200
        answer = service.classify([{"title": "a"}] * 2, **bulk)
        assert (answer.status_code, answer.json()["error"]["reason"]) == (429, "bulk_full")
    assert (service.gate.under_way, service.gate.bulk_products) == (0, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("aisle-priority", "urgent"),
        ("aisle-timeout-ms", "0"),
        ("aisle-timeout-ms", "-1"),
        ("aisle-timeout-ms", "1.5"),
        ("aisle-timeout-ms", "1" * 10),
    ],
)
def test_wrong_terms_are_named(service: TinyService, name: str, value: str) -> None:
    answer = service.classify([{"title": "a"}], headers={name: value})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"].lower() == name


def test_a_client_says_how_long_it_waits(service: TinyService) -> None:
    service.dispatch.delay_s = 5
    answer = service.classify([{"title": "a"}], headers={"Aisle-Timeout-Ms": "50"})
    assert answer.status_code == 504
    assert answer.json()["error"]["found"] == "no answer after 0.05 s"
    service.gate.measured(products=10, seconds=5)
    with service.gate.interactive(1, timeout_s=9):
        refused = service.classify([{"title": "a"}], headers={"Aisle-Timeout-Ms": "50"})
    assert (refused.status_code, refused.json()["error"]["reason"]) == (429, "queue_slow")


@pytest.mark.parametrize("path", ["/v1/classify", "/v2/models/aisle-classifier/infer"])
def test_a_time_shorter_than_is_promised_is_the_clients_own_affair(service: TinyService, path: str) -> None:
    service.dispatch.delay_s = 5
    service.gate.promised_s = 0.1
    product = {"name": "title", "datatype": "BYTES", "shape": [1], "data": ["a"]}
    body = {"products": [{"title": "a"}]} if path == "/v1/classify" else {"inputs": [product]}

    def ask(timeout_ms: int) -> tuple[int, float | None]:
        answer = service.client.post(path, json=body, headers={"Aisle-Timeout-Ms": str(timeout_ms)})
        return answer.status_code, service.sample("aisle_short_deadlines_total")

    assert ask(1) == (504, 1)
    assert ask(99) == (504, 2)
    assert ask(100) == (504, 2)
    assert service.sample("aisle_errors_total", reason="deadline_short") == 2
    assert service.sample("aisle_errors_total", reason="timeout") == 1


def test_a_refusal_is_the_clients_own_affair_where_an_answer_is_near(service: TinyService) -> None:
    service.gate.measured(products=10, seconds=3)
    with service.gate.interactive(1, timeout_s=9):  # an answer is expected in 0.75 s
        hurried = service.classify([{"title": "a"}], headers={"Aisle-Timeout-Ms": "50"})
    assert (hurried.status_code, hurried.json()["error"]["reason"]) == (429, "deadline_short")
    assert service.sample("aisle_shed_products_total", reason="deadline_short") == 1
    assert service.sample("aisle_shed_products_total", reason="queue_slow") == 0
    assert service.sample("aisle_short_deadlines_total") == 0  # it ended with no 504


def test_who_would_wait_too_long_is_refused_before_the_body_is_parsed(service: TinyService) -> None:
    service.gate.measured(products=10, seconds=5)
    headers = {"Aisle-Timeout-Ms": "50", "Content-Type": "application/json"}
    with service.gate.interactive(1, timeout_s=9):
        refused = service.client.post("/v1/classify", content=b"not JSON", headers=headers)
    assert (refused.status_code, refused.json()["error"]["reason"]) == (429, "queue_slow")
    patient = service.client.post(
        "/v1/classify", content=b"not JSON", headers={**headers, "Aisle-Priority": "bulk"}
    )
    assert patient.status_code == 400
    wrong = service.client.post(
        "/v1/classify", content=b"{}", headers={**headers, "Aisle-Timeout-Ms": "soon"}
    )
    assert wrong.status_code == 422


def test_no_answer_in_time_is_a_504(service: TinyService) -> None:
    service = TinyService(service.classifier, request_timeout_s=0.05)
    service.dispatch.delay_s = 5
    answer = service.classify([{"title": "a"}])
    assert answer.status_code == 504
    assert answer.json()["error"]["message"] == "request: found no answer after 0.05 s, wanted one in time"
    assert service.gate.under_way == 0


def test_a_defect_of_ours_is_a_500_in_the_same_shape(
    service: TinyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.dispatch, "batch_infer", None)
    answer = service.classify([{"title": "a"}])
    assert answer.status_code == 500
    RefusedOut.model_validate(answer.json())
    assert answer.json()["error"]["found"] == "a failure (TypeError)"
    assert service.sample("aisle_errors_total", reason="internal") == 1


def test_a_request_moves_the_metrics(service: TinyService) -> None:
    service.classify([{"title": "a"}, {"title": "b"}, {}])
    assert service.sample("aisle_batch_products_sum") == 2
    assert service.sample("aisle_confidence_count") == 2
    assert service.sample("aisle_vectors_total", modality="text", source="computed") == 2
    assert service.sample("aisle_vectors_total", modality="image", source="absent") == 2
    assert service.sample("aisle_errors_total", reason="product_empty") == 1
    counts = {
        s.labels["category"]: s.value
        for m in service.registry.collect()
        for s in m.samples
        if s.name == "aisle_predictions_total"
    }
    assert sum(counts.values()) == 2
    assert set(counts) <= {"10", "40", "50"}
    for stage, count in {"parse": 1, "prepare": 1, "wait": 1, "embed": 1, "decide": 1}.items():
        assert service.sample("aisle_stage_seconds_count", stage=stage) == count


def test_the_openapi_page_has_examples_that_work(service: TinyService) -> None:
    page = service.client.get("/openapi.json").json()
    assert page == json.loads(json.dumps(specification()))
    operation = page["paths"]["/v1/classify"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    ClassifyIn.model_validate_json(json.dumps(example))
    assert service.client.post("/v1/classify", json=example).status_code == 200
    ClassifyOut.model_validate(operation["responses"]["200"]["content"]["application/json"]["example"])
    RefusedOut.model_validate(operation["responses"]["422"]["content"]["application/json"]["example"])


def test_every_reference_of_the_openapi_page_resolves() -> None:
    page = json.dumps(specification())
    names = {part.split('"')[0] for part in page.split("#/components/schemas/")[1:]}
    assert names == set(specification()["components"]["schemas"]) & names
    assert "ProductIn" in names
