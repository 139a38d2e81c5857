"""A classifier of the model store to an engine, and what engines are warmed up with.

Importing this module imports no torch: the process that only supervises workers does without.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from aisle.columns import measure_columns
from service.desk import Job
from service.engine import Engine
from service.settings import Settings

if TYPE_CHECKING:
    from aisle.classifier import Classifier, Item
    from service.features import FeatureReader

WARM_TEXT = "carnet de voyage ligné à couverture souple, " * 6  # about 60 tokens, as products have


def newest_classifier() -> str:
    """The tag of the store's newest classifier. Raises BundleError where there is none."""
    from aisle import store

    return store.resolve(store.LATEST)


def load_engine(
    settings: Settings, on_error: Callable[[str], None], tag: str, beside: Engine | None
) -> Engine:
    """The engine of a classifier, verified, its feature views checked. What it has in common with
    `beside` (encoders, feature reader) is shared. `on_error` hears why the feature store fails. Raises
    AisleError."""
    if beside is None:
        classifier = _load_alone(settings, tag)
        features = open_features(settings, classifier, on_error)
        return Engine(
            classifier, features, write_back=settings.write_back, early_images=settings.early_images
        )
    classifier = _load_beside(tag, beside.classifier)
    old, new = beside.classifier.bundle, classifier.bundle
    same_views = (new.text_encoder, new.image_encoder) == (old.text_encoder, old.image_encoder)
    features = beside.features if same_views else open_features(settings, classifier, on_error)
    return Engine(
        classifier,
        features,
        write_back=settings.write_back,
        early_images=settings.early_images,
        beside=beside,
    )


def _load_alone(settings: Settings, tag: str) -> Classifier:
    import torch

    from aisle import store

    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(settings.model_threads or max(1, cores // settings.workers))
    return store.load_classifier(tag, settings.device).optimise()


def _load_beside(tag: str, old: Classifier) -> Classifier:
    """On the device of `old`, with its encoders where they are the same."""
    from aisle import store
    from aisle.classifier import Classifier

    bundle = store.load_bundle(tag)
    text_encoder, image_encoder = old.text_encoder, old.image_encoder
    if bundle.text_encoder != old.bundle.text_encoder:
        text_encoder = store.load_text_encoder(bundle.text_encoder.revision, old.device)
    if bundle.image_encoder != old.bundle.image_encoder:
        image_encoder = store.load_image_encoder(bundle.image_encoder.revision, old.device)
    version = store.resolve(tag)
    return Classifier(bundle, text_encoder, image_encoder, version=version, device=old.device).optimise()


def open_features(
    settings: Settings, classifier: Classifier, on_error: Callable[[str], None]
) -> FeatureReader:
    """A reader of the classifier's feature views. Raises FeatureStoreError."""
    from service.features import open_reader

    return open_reader(
        home=settings.home,
        redis_url=settings.redis_url,
        text_encoder=classifier.bundle.text_encoder,
        image_encoder=classifier.bundle.image_encoder,
        deadline_s=settings.features_deadline_s,
        on_error=on_error,
    )


def warm_item(classifier: Classifier) -> Item:
    """An item that takes every path of the model: text of a usual length, and a picture."""
    import numpy as np

    from aisle.classifier import Item

    size = classifier.image_encoder.settings.size
    return Item(text=WARM_TEXT, pixels_HWC=np.full((size, size, 3), 127, dtype=np.uint8))


def warm_job(engine: Engine) -> Job:
    item = warm_item(engine.classifier)
    return Job(item=item, columns=measure_columns(item), engine=engine)
