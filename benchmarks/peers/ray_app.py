"""The model behind Ray Serve with its dynamic batching: one model call a batch, text encoded each time.

`python -m benchmarks.peers.ray_app --port 8000 --replicas 2`; BENTOML_HOME names the model store.
"""

from __future__ import annotations

import argparse
import base64
import os
import signal
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from starlette.requests import Request
from starlette.responses import JSONResponse

from aisle.errors import ProductError
from aisle.prediction import Prediction
from aisle.product import Product

BATCH_WAIT_S = 0.01  # how long a batch waits for more
MAX_BATCH = 32


class Classify:
    def __init__(self) -> None:
        from aisle.store import load_classifier

        self.classifier = load_classifier()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=BATCH_WAIT_S)
    async def predict(self, items: list[Any]) -> list[Prediction | ProductError]:
        return self.classifier.predict(items)

    async def __call__(self, request: Request) -> JSONResponse:
        if request.method == "GET":  # Ray Serve's own health says nothing of the replicas
            return JSONResponse({"ready": True})
        given = await request.json()
        try:
            image = base64.b64decode(given["image"], validate=True)
            product = Product(title=given["title"], description=given["description"], image=image)
            item = self.classifier.prepare(product, top_k=1)
        except (ProductError, ValueError, KeyError) as error:
            return JSONResponse({"detail": str(error)}, 422)
        answer: Prediction | ProductError = await self.predict(item)
        if isinstance(answer, ProductError):
            return JSONResponse({"detail": str(answer)}, 422)
        return JSONResponse({"code": answer.category.code, "confidence": answer.confidence})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--replicas", type=int, default=1)
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    # The cores are divided among the replicas by torch's threads, not by Ray's bookkeeping.
    ray.init(num_cpus=2 * cores, include_dashboard=False, configure_logging=False)
    threads = {"env_vars": {"OMP_NUM_THREADS": str(max(1, cores // given.replicas))}}
    app = (
        serve.deployment(max_ongoing_requests=64)(Classify)
        .options(num_replicas=given.replicas, ray_actor_options={"num_cpus": 1, "runtime_env": threads})
        .bind()
    )
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=given.port))
    serve.run(app, route_prefix="/classify")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
