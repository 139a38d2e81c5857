"""The model behind LitServe with its dynamic batching: one model call a batch, text encoded each time.

`python -m benchmarks.peers.litserve_app --port 8000`; BENTOML_HOME names the model store.
"""

from __future__ import annotations

import argparse
import base64
from typing import Any

import litserve
from fastapi import HTTPException

from aisle.classifier import Classifier, Item
from aisle.errors import ProductError
from aisle.prediction import Prediction
from aisle.product import Product
from aisle.store import load_classifier

BATCH_TIMEOUT_S = 0.01  # how long a batch waits for more


class Classify(litserve.LitAPI):
    classifier: Classifier

    def setup(self, device: str) -> None:
        self.classifier = load_classifier(device=device)

    def decode_request(self, request: dict[str, str]) -> Item:
        try:
            image = base64.b64decode(request["image"], validate=True)
            product = Product(title=request["title"], description=request["description"], image=image)
            return self.classifier.prepare(product, top_k=1)
        except (ProductError, ValueError, KeyError) as error:
            raise HTTPException(422, str(error)) from error

    def batch(self, inputs: list[Item]) -> list[Item]:
        return list(inputs)

    def predict(self, items: list[Item]) -> list[Prediction | ProductError]:
        return self.classifier.predict(items)

    def unbatch(self, output: list[Prediction | ProductError]) -> list[Prediction | ProductError]:
        return output

    def encode_response(self, answer: Prediction | ProductError) -> dict[str, Any]:
        if isinstance(answer, ProductError):
            raise HTTPException(422, str(answer))
        return {"code": answer.category.code, "confidence": answer.confidence}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    server = litserve.LitServer(
        Classify(max_batch_size=32, batch_timeout=BATCH_TIMEOUT_S),
        workers_per_device=given.workers,
        timeout=60,
    )
    server.run(host="127.0.0.1", port=given.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
