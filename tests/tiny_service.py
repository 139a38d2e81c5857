"""A real classifier of toy size behind the real doors, in this process, without BentoML around it."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from aisle.bundle import Bundle, EncoderRef
from aisle.calibration import PATTERNS, Calibration, PatternCalibration
from aisle.classifier import Classifier, Embedded, Item, Stored
from aisle.fusion import FusionSettings, build_fusion
from aisle.image import ImageEncoder
from aisle.ledger import Ledger
from aisle.taxonomy import Taxonomy
from aisle.text import TextEncoder
from service.admission import Gate
from service.balance import Balance
from service.desk import Answer, Desk, Parcel
from service.doors import METHODS, Doors, early_refusal
from service.engine import Engine
from service.errors import RequestError
from service.features import Reading
from service.guard import EdgeGuard, HeldBytes
from service.labels import LabelBook
from service.ledger_reader import LedgerReader
from service.telemetry import Telemetry

MODEL = "aisle-classifier:tiny"
MAX_BODY_BYTES = 8 * 2**20


def tiny_classifier(text_encoder: TextEncoder, image_encoder: ImageEncoder) -> Classifier:
    """Random weights: its answers mean nothing, and are the same each time."""
    torch.manual_seed(1)
    text, image = text_encoder.dim, image_encoder.dim
    settings = FusionSettings(variant="concat", text_dim=text, image_dim=image, hidden_dim=8, classes=3)
    pattern = PatternCalibration(temperature=1.5, threshold=0.3)
    bundle = Bundle(
        fusion=build_fusion(settings),
        taxonomy=Taxonomy.from_codes(["10", "40", "50"], {"10": "books", "40": "games", "50": "toys"}),
        calibration=Calibration(target_error=0.05, delta=0.05, patterns=dict.fromkeys(PATTERNS, pattern)),
        text_encoder=EncoderRef(revision=text_encoder.revision, dim=text),
        image_encoder=EncoderRef(revision=image_encoder.revision, dim=image),
        reference={},
    )
    return Classifier(bundle, text_encoder, image_encoder, version=MODEL)


class Pantry:
    """A feature store in memory, with the two methods the engine uses."""

    def __init__(self, held: dict[str, Stored] | None = None) -> None:
        self.held = held or {}
        self.available = True
        self.reads: list[list[str | None]] = []
        self.written: list[tuple[Sequence[Item], Embedded]] = []

    def read(self, product_ids: Sequence[str | None], *, needed: bool = False) -> Reading:
        self.reads.append(list(product_ids))
        stored = [self.held.get(product_id or "", Stored()) for product_id in product_ids]
        return Reading(stored, self.available)

    def write_back(self, items: Sequence[Item], embedded: Embedded, stored: Sequence[Stored]) -> None:
        self.written.append((items, embedded))

    def close(self) -> None:
        pass


class OneBatch:
    """A queue that answers each request as one batch, or sheds what it is told to."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry = telemetry
        self.delay_s = 0.0
        self.shed: dict[str, RequestError] = {}  # by text of the item

    async def batch_infer(self, items: Sequence[Parcel]) -> list[list[Answer] | RequestError]:
        await asyncio.sleep(self.delay_s)
        batch = items[0][0].engine.answer([job.item for parcel in items for job in parcel])
        self.telemetry.batch(batch.outcomes, batch.seconds)
        answers = iter(
            Answer(outcome=outcome, prediction_id=f"{row:032x}", started=batch.started)
            for row, outcome in enumerate(batch.outcomes)
        )
        return [
            self.shed.get(parcel[0].item.text or "") or answered
            for parcel, answered in [(parcel, [next(answers) for _ in parcel]) for parcel in items]
        ]


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Where BentoML's app stands."""
    raise AssertionError(f"found {scope['path']}, which is BentoML's")


class TinyService:
    def __init__(
        self,
        classifier: Classifier,
        *,
        max_queue: int = 512,
        max_bulk: int = 1024,
        request_timeout_s: float = 30,
        ledger_url: str = "sqlite://",
    ) -> None:
        self.classifier = classifier
        self.registry = CollectorRegistry()
        self.pantry = Pantry()
        telemetry = Telemetry(max_batch=32, registry=self.registry)
        self.engine = Engine(classifier, self.pantry, write_back=True)
        self.dispatch = OneBatch(telemetry)
        self.ledger = Ledger.open(ledger_url)
        labels = LabelBook(self.ledger, lambda: classifier.taxonomy)
        reader = LedgerReader(self.ledger)
        folder = tempfile.mkdtemp(prefix="aisle-tiny-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.gate = Gate(max_queue=max_queue, max_bulk=max_bulk, batch=min(32, max_queue))
        self.desk = Desk(
            champion=lambda: self.engine,
            dispatch=self.dispatch,
            telemetry=telemetry,
            decode_threads=2,
            gate=self.gate,
            request_timeout_s=request_timeout_s,
        )
        guard = EdgeGuard(
            Doors(
                lambda: self.desk,
                lambda: labels,
                lambda: reader,
                telemetry=telemetry,
                beside=nothing,
            ),
            methods=METHODS,
            max_body_bytes=MAX_BODY_BYTES,
            body_timeout_s=5,
            held=HeldBytes(16 * MAX_BODY_BYTES),
            on_refusal=telemetry.error,
            balance=Balance(Path(folder) / "load", 1),
            admission=lambda path, headers: early_refusal(self.desk, path, headers),
        )
        self.client = TestClient(guard, raise_server_exceptions=False)

    def classify(self, products: Any, headers: dict[str, str] | None = None, **envelope: Any) -> Any:
        body = json.dumps({"products": products, **envelope})  # in ASCII, so that it may hold anything
        headers = {"content-type": "application/json", **(headers or {})}
        return self.client.post("/v1/classify", content=body, headers=headers)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def vectors(classifier: Classifier) -> Stored:
    """What the feature store would hold for a product with both parts."""
    return Stored(
        text_vector_D=np.full(classifier.text_encoder.dim, 0.1, dtype=np.float32),
        text_hash="0" * 16,
        image_vector_E=np.full(classifier.image_encoder.dim, 0.1, dtype=np.float32),
        image_hash="0" * 16,
    )
