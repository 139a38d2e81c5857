"""The BentoML service. `bentoml serve service.app:Aisle`, or better `python -m service serve`.

Importing it loads no model: the process that supervises the workers imports it too.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml
from starlette.types import ASGIApp

from aisle.errors import AisleError
from service.bentoml_bridge import BridgedService, Dispatcher, service_class
from service.desk import Answer, Desk
from service.doors import METHODS, Doors
from service.engine import Engine
from service.guard import EdgeGuard
from service.settings import Settings
from service.telemetry import SECONDS, Telemetry, forget_dead_workers

if TYPE_CHECKING:
    from aisle.classifier import Classifier, Item
    from service.features import FeatureReader

logger = logging.getLogger("aisle.service")

SETTINGS = Settings.from_environment()
WARM_TEXT = "carnet de voyage ligné à couverture souple, " * 6  # about 60 tokens, as products have


@functools.cache
def telemetry() -> Telemetry:
    """This worker's metrics."""
    return Telemetry(max_batch=SETTINGS.max_batch)


def guarded(app: ASGIApp) -> ASGIApp:
    return EdgeGuard(
        app,
        methods=METHODS,
        max_body_bytes=SETTINGS.max_body_bytes,
        body_timeout_s=SETTINGS.body_timeout_s,
        on_refusal=telemetry().error,
    )


def current_desk() -> Desk:
    desk: Desk = bentoml.get_current_service().desk
    return desk


@bentoml.service(
    name="aisle",
    service_class=service_class(guarded),
    workers=SETTINGS.workers,
    threads=1,  # one batch at a time; the model has its own threads
    traffic={"timeout": SETTINGS.request_timeout_s * 2},  # the desk's own deadline answers first
    endpoints={"livez": "/livez", "readyz": "/readyz"},
    logging={"access": {"enabled": SETTINGS.access_log}},
    tracing={"excluded_urls": ".*"},  # nothing exports spans; making them took a sixth of a request's CPU
    metrics={"duration": {"buckets": list(SECONDS)}},
)
@bentoml.asgi_app(Doors(current_desk).app())
class Aisle:
    """Files products into categories."""

    desk: Desk
    engine: Engine
    bento_service: BridgedService  # set by BentoML

    @bentoml.on_startup
    async def open(self) -> None:
        """Load the model, reach the feature store, warm both up. The worker answers nothing before."""
        try:
            await self._open()
        except AisleError as error:
            # Raised, it would be logged twice with all its frames. BentoML tries again in ten seconds.
            logger.critical("this worker cannot start: %s", error)
            os._exit(1)

    async def _open(self) -> None:
        forget_dead_workers(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
        classifier = load_classifier(SETTINGS)
        features = open_features(SETTINGS, classifier)
        features.read(["warm-up"])
        self.engine = Engine(classifier, features, write_back=SETTINGS.write_back)
        self.telemetry: Telemetry | None = None  # warm-up batches are not counted
        dispatch = Dispatcher(self.bento_service, "classify")
        await dispatch.warm(warm_item(classifier))
        self.telemetry = telemetry()
        bundle = classifier.bundle
        self.telemetry.serving(
            classifier.version, bundle.text_encoder.revision, bundle.image_encoder.revision, bundle.taxonomy
        )
        self.desk = Desk(
            model=classifier.version,
            prepare=classifier.prepare,
            dispatch=dispatch,
            telemetry=self.telemetry,
            decode_threads=SETTINGS.decode_threads,
            max_queue=SETTINGS.max_queue,
            request_timeout_s=SETTINGS.request_timeout_s,
        )
        # A full collection walks every object of torch and feast: 0.3 s in which nothing is answered.
        gc.collect()
        gc.freeze()

    @bentoml.on_shutdown
    async def close(self) -> None:
        self.desk.close()
        self.engine.close()

    @bentoml.api(
        batchable=True,
        max_batch_size=SETTINGS.max_batch,
        max_latency_ms=int(SETTINGS.max_latency_s * 1000),
    )
    def classify(self, items: list[Any]) -> list[Any]:
        """A batch of `aisle.classifier.Item` to a list of Answer, in order. EdgeGuard lets no HTTP
        request reach this method's own route; the doors use the dispatcher."""
        batch = self.engine.answer(items)
        if self.telemetry is not None:
            self.telemetry.batch(batch)
        return [Answer(outcome=o, model=batch.model, started=batch.started) for o in batch.outcomes]


def load_classifier(settings: Settings) -> Classifier:
    import torch

    from aisle import store

    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(settings.model_threads or max(1, cores // settings.workers))
    return store.load_classifier(settings.model, None if settings.device == "auto" else settings.device)


def warm_item(classifier: Classifier) -> Item:
    """An item that takes every path of the model: text of a usual length, and a picture."""
    import numpy as np

    from aisle.classifier import Item

    size = classifier.image_encoder.settings.size
    return Item(text=WARM_TEXT, pixels_HWC=np.full((size, size, 3), 127, dtype=np.uint8))


def open_features(settings: Settings, classifier: Classifier) -> FeatureReader:
    from service.features import open_reader

    return open_reader(
        home=settings.home,
        redis_url=settings.redis_url,
        text_encoder=classifier.bundle.text_encoder,
        image_encoder=classifier.bundle.image_encoder,
        deadline_s=settings.features_deadline_s,
        on_error=telemetry().error,
    )
