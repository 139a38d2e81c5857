from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tiny_service import MODEL, Pantry, tiny_classifier

from aisle.image import ImageEncoder
from aisle.prediction import Candidate, Prediction, Source
from aisle.taxonomy import Category
from aisle.text import TextEncoder
from service.doors import CLASSIFYING
from service.engine import Engine
from service.metrics import FAULTY_CODES, FAULTY_STATUSES, METHODS, PATHS
from service.telemetry import Telemetry, forget_dead_workers

BOOKS = Category(code="10", name="books")


def prediction(confidence: float) -> Prediction:
    return Prediction(
        category=BOOKS,
        confidence=confidence,
        accepted=confidence > 0.5,
        top=(Candidate(category=BOOKS, probability=confidence),),
        text_only=None,
        image_only=None,
        text_source=Source.STORED,
        image_source=Source.ABSENT,
    )


def test_a_batch_is_counted() -> None:
    registry = CollectorRegistry()
    telemetry = Telemetry(max_batch=32, registry=registry)
    outcomes = [prediction(0.9), prediction(0.3), prediction(0.7)]
    telemetry.batch(outcomes, {"embed": 0.004})
    read = registry.get_sample_value
    assert read("aisle_batch_products_bucket", {"le": "2.0"}) == 0
    assert read("aisle_batch_products_bucket", {"le": "4.0"}) == 1
    assert read("aisle_predictions_total", {"category": "10", "accepted": "true"}) == 2
    assert read("aisle_predictions_total", {"category": "10", "accepted": "false"}) == 1
    assert read("aisle_vectors_total", {"modality": "text", "source": "stored"}) == 3
    assert read("aisle_confidence_bucket", {"le": "0.7"}) == 2
    assert read("aisle_stage_seconds_bucket", {"stage": "embed", "le": "0.002"}) == 0
    assert read("aisle_stage_seconds_bucket", {"stage": "embed", "le": "0.005"}) == 1


def test_calls_over_grpc_are_counted_and_those_that_were_answered_are_timed() -> None:
    registry = CollectorRegistry()
    telemetry = Telemetry(max_batch=32, registry=registry)
    classify = {"method": "/aisle.v1.Classifier/Classify"}
    telemetry.called(classify["method"], "OK", 0.004)
    telemetry.called(classify["method"], "OK", 2.0)
    telemetry.called(classify["method"], "RESOURCE_EXHAUSTED")
    read = registry.get_sample_value
    assert read("aisle_grpc_requests_total", {**classify, "code": "OK"}) == 2
    assert read("aisle_grpc_requests_total", {**classify, "code": "RESOURCE_EXHAUSTED"}) == 1
    assert read("aisle_grpc_request_seconds_bucket", {**classify, "le": "0.005"}) == 1
    assert read("aisle_grpc_request_seconds_bucket", {**classify, "le": "1.0"}) == 1
    assert read("aisle_grpc_request_seconds_sum", classify) == 2.004


def test_requests_that_rules_ask_for_begin_at_zero() -> None:
    registry = CollectorRegistry()
    Telemetry(max_batch=32, registry=registry)
    assert PATHS == CLASSIFYING
    for path in PATHS:
        for code in ("200", *FAULTY_STATUSES):
            begun = {"endpoint": path, "code": code}
            assert registry.get_sample_value("aisle_http_requests_total", begun) == 0
        assert registry.get_sample_value("aisle_http_request_seconds_count", {"endpoint": path}) == 0


def test_a_request_counts_by_its_status_and_is_timed_where_it_was_answered() -> None:
    registry = CollectorRegistry()
    telemetry = Telemetry(max_batch=32, registry=registry)
    path = {"endpoint": PATHS[0]}

    def under_way() -> float | None:
        return registry.get_sample_value("aisle_http_requests_in_progress", path)

    for status in (200, 200, 422):
        with telemetry.request(PATHS[0]) as answered:
            assert under_way() == 1
            answered(status)
    with pytest.raises(asyncio.CancelledError), telemetry.request(PATHS[0]):
        raise asyncio.CancelledError  # its client has left
    read = registry.get_sample_value
    assert under_way() == 0
    assert read("aisle_http_requests_total", {**path, "code": "200"}) == 2
    assert read("aisle_http_requests_total", {**path, "code": "422"}) == 1
    assert read("aisle_http_request_seconds_count", path) == 2


def test_calls_that_rules_ask_for_begin_at_zero() -> None:
    registry = CollectorRegistry()
    Telemetry(max_batch=32, registry=registry)
    for method in METHODS:
        for code in ("OK", *FAULTY_CODES):
            begun = {"method": method, "code": code}
            assert registry.get_sample_value("aisle_grpc_requests_total", begun) == 0


def test_batch_buckets_end_at_the_largest_batch() -> None:
    registry = CollectorRegistry()
    Telemetry(max_batch=24, registry=registry)
    buckets = [
        s.labels["le"]
        for m in registry.collect()
        for s in m.samples
        if s.name == "aisle_batch_products_bucket"
    ]
    assert buckets == ["1.0", "2.0", "4.0", "8.0", "16.0", "24.0", "+Inf"]


def test_the_model_in_service_is_named_and_its_categories_start_at_zero(
    tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder
) -> None:
    registry = CollectorRegistry()
    telemetry = Telemetry(max_batch=32, registry=registry)
    engine = Engine(tiny_classifier(tiny_text_encoder, tiny_image_encoder), Pantry(), write_back=False)
    telemetry.swapped("done", "champion", engine)
    read = registry.get_sample_value
    encoders = {"text_encoder": tiny_text_encoder.revision, "image_encoder": tiny_image_encoder.revision}
    encoders["role"] = "champion"
    assert read("aisle_predictions_total", {"category": "40", "accepted": "true"}) == 0
    assert read("aisle_model_info", {"model": MODEL, **encoders}) == 1
    engine.classifier.version = "aisle-classifier:next"
    telemetry.swapped("done", "champion", engine)
    assert read("aisle_model_info", {"model": MODEL, **encoders}) == 0
    assert read("aisle_model_info", {"model": "aisle-classifier:next", **encoders}) == 1
    assert read("aisle_model_swaps_total", {"outcome": "done"}) == 2


def test_gauges_of_killed_workers_are_forgotten(tmp_path: Path) -> None:
    died = subprocess.Popen([sys.executable, "-c", ""])
    died.wait()
    mine, theirs = (tmp_path / f"gauge_livesum_{pid}.db" for pid in (os.getpid(), died.pid))
    counter = tmp_path / f"counter_{died.pid}.db"
    for path in (mine, theirs, counter):
        path.write_bytes(b"")
    forget_dead_workers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, counter])  # what a dead worker counted, stays counted
