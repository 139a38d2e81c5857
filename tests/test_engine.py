from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tiny_service import MODEL, Pantry, tiny_classifier, vectors

from aisle.classifier import Classifier, Embedded, Item, Stored
from aisle.image import ImageEncoder
from aisle.prediction import Prediction, Source
from aisle.text import TextEncoder
from service.engine import FOR_NOTHING, Batch, Engine
from service.errors import RequestError
from service.features import Reading


@pytest.fixture(scope="module")
def classifier(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder) -> Classifier:
    return tiny_classifier(tiny_text_encoder, tiny_image_encoder)


class Brittle(Classifier):
    """A classifier that fails on any batch with a poisonous text."""

    def embed(self, items: Sequence[Item], *known: Any) -> Embedded:
        if any(item.text == "poison" for item in items):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().embed(items, *known)


def test_a_batch_is_answered_in_order_with_its_times(classifier: Classifier) -> None:
    engine = Engine(classifier, Pantry({"7": vectors(classifier)}), write_back=False)
    batch = engine.answer([Item(text="train"), Item(product_id="7"), Item(product_id="8")])
    text, stored, unknown = batch.outcomes
    assert isinstance(text, Prediction)
    assert isinstance(stored, Prediction)
    assert (text.text_source, stored.text_source) == (Source.COMPUTED, Source.STORED)
    assert unknown.reason == "nothing_known"
    assert batch.classifier.version == MODEL
    assert list(batch.seconds) == ["features", "embed", "decide"]


def test_each_item_gets_as_many_candidates_as_it_asks_for(classifier: Classifier) -> None:
    engine = Engine(classifier, Pantry(), write_back=False)
    batch = engine.answer([Item(text="train", top_k=1), Item(text="train", top_k=3)])
    assert [len(outcome.top) for outcome in batch.outcomes] == [1, 3]


def test_an_item_that_breaks_the_batch_fails_alone(
    tiny_text_encoder: TextEncoder, classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    brittle = Brittle(classifier.bundle, tiny_text_encoder, classifier.image_encoder, version=MODEL)
    engine = Engine(brittle, Pantry(), write_back=False)
    before, poison, after = engine.answer([Item(text="a"), Item(text="poison"), Item(text="b")]).outcomes
    assert isinstance(before, Prediction)
    assert isinstance(after, Prediction)
    assert isinstance(poison, RequestError)
    assert (poison.status, poison.reason) == (500, "model_failed")
    assert "a batch of 3 products failed" in caplog.text


def test_an_id_alone_is_not_called_unknown_while_the_store_is_away(classifier: Classifier) -> None:
    pantry = Pantry()
    pantry.available = False
    known, id_alone = (
        Engine(classifier, pantry, write_back=False)
        .answer([Item(product_id="7", text="train"), Item(product_id="8")])
        .outcomes
    )
    assert isinstance(known, Prediction)
    assert isinstance(id_alone, RequestError)
    assert (id_alone.status, id_alone.reason) == (503, "features_unavailable")


@pytest.mark.parametrize(("write_back", "writes"), [(True, 1), (False, 0)])
def test_computed_vectors_are_written_back_where_that_is_wanted(
    classifier: Classifier, write_back: bool, writes: int
) -> None:
    pantry = Pantry()
    Engine(classifier, pantry, write_back=write_back).answer([Item(product_id="7", text="train")])
    assert len(pantry.written) == writes


class Watched(Classifier):
    """Tells when it encodes before anything is known, and counts those pictures."""

    def __init__(self, like: Classifier) -> None:
        super().__init__(like.bundle, like.text_encoder, like.image_encoder, version=MODEL)
        self.encodes = threading.Event()
        self.early = 0

    def encode_images(self, items: Sequence[Item]) -> dict[int, np.ndarray]:
        self.encodes.set()
        images = super().encode_images(items)
        self.early += len(images)
        return images


class Slow(Pantry):
    """Answers once the pictures of the batch are being encoded."""

    def __init__(self, encodes: threading.Event) -> None:
        super().__init__()
        self._encodes = encodes
        self.met = False

    def read(self, product_ids: Sequence[str | None], *, needed: bool = False) -> Reading:
        self.met = self._encodes.wait(10)
        return super().read(product_ids, needed=needed)


def picture(product_id: str | None, digest: str = "new", seed: int = 0) -> Item:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Item(product_id=product_id, pixels_HWC=pixels, image_hash=digest)


def test_pictures_are_encoded_while_features_are_read(classifier: Classifier) -> None:
    watched = Watched(classifier)
    pantry = Slow(watched.encodes)
    items = [picture(None, seed=1), Item(product_id="7", text="train"), picture(None, seed=2)]
    batch = Engine(watched, pantry, write_back=False, early_images=True).answer(items)
    assert pantry.met
    assert watched.early == 2
    assert batch.outcomes == classifier.predict(items)
    assert_same_images(batch, classifier.embed(items))


def test_a_cpu_that_was_not_told_to_reads_first(classifier: Classifier) -> None:
    watched = Watched(classifier)
    Engine(watched, Pantry(), write_back=False).answer([picture(None), Item(product_id="7", text="train")])
    assert watched.early == 0


def early(classifier: Classifier) -> tuple[Engine, Watched, Stored]:
    """An engine that has met no stored picture of late, and what is stored of product 7."""
    watched, stored = Watched(classifier), vectors(classifier)
    engine = Engine(watched, Pantry({"7": stored}), write_back=False, early_images=True)
    learn(engine, 300, lambda: "new")
    return engine, watched, stored


def test_what_is_stored_counts_though_the_picture_was_encoded(classifier: Classifier) -> None:
    engine, watched, stored = early(classifier)
    before = watched.early
    items = [picture("7", str(stored.image_hash), seed=1), picture("8", seed=2)]
    batch = engine.answer(items)
    assert watched.early == before + 2
    assert batch.embedded is not None
    assert list(batch.embedded.image_source) == [Source.STORED, Source.COMPUTED]
    assert_same_images(batch, classifier.embed(items, [stored, Stored()]))


def test_a_stored_picture_that_cannot_be_encoded_is_answered(classifier: Classifier) -> None:
    engine, watched, stored = early(classifier)
    before = watched.early
    broken = replace(picture("7", str(stored.image_hash)), pixels_HWC=np.zeros((8, 8, 3), dtype=np.uint8))
    good, bad, known = engine.answer([picture("8"), replace(broken, product_id="9"), broken]).outcomes
    assert watched.early == before
    assert isinstance(good, Prediction)
    assert isinstance(bad, RequestError)
    assert isinstance(known, Prediction)
    assert known.image_source is Source.STORED


def test_pictures_that_may_be_stored_wait_for_the_read_at_first(classifier: Classifier) -> None:
    watched = Watched(classifier)
    Engine(watched, Pantry(), write_back=False, early_images=True).answer([picture("7"), picture(None)])
    assert watched.early == 0


def test_a_failed_read_teaches_nothing(classifier: Classifier) -> None:
    watched, pantry = Watched(classifier), Pantry()
    pantry.available = False
    learn(Engine(watched, pantry, write_back=False, early_images=True), 300, lambda: "new")
    assert watched.early == 0


@pytest.mark.parametrize("stored_share", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_few_pictures_are_encoded_for_nothing_however_many_are_stored(
    classifier: Classifier, stored_share: float
) -> None:
    random = np.random.default_rng(5)
    watched = Watched(classifier)
    stored = vectors(classifier)
    engine = Engine(watched, Pantry({"7": stored}), write_back=False, early_images=True)
    pictures = 2_000
    for_nothing = learn(
        engine, pictures, lambda: str(stored.image_hash) if random.random() < stored_share else "new"
    )
    assert for_nothing <= FOR_NOTHING * pictures
    assert (watched.early > pictures / 2) == (stored_share <= 0.01)


def assert_same_images(batch: Batch, embedded: Embedded) -> None:
    """Of an untrained encoder, whose vectors are tiny, and others for each picture. The last is computed."""
    assert batch.embedded is not None
    atol = 1e-3 * float(np.abs(embedded.image_BE[-1]).max())
    np.testing.assert_allclose(batch.embedded.image_BE, embedded.image_BE, rtol=0, atol=atol)
    assert len({vector_E.tobytes() for vector_E in embedded.image_BE}) == len(embedded.image_BE)


def learn(engine: Engine, pictures: int, digest: Callable[[], str]) -> int:
    """Ask for so many, ten in a batch; how many were encoded early though they are stored."""
    watched, for_nothing = engine.classifier, 0
    assert isinstance(watched, Watched)
    for _ in range(0, pictures, 10):
        items, before = [picture("7", digest()) for _ in range(10)], watched.early
        batch = engine.answer(items)
        assert batch.embedded is not None
        if watched.early > before:
            for_nothing += list(batch.embedded.image_source).count(Source.STORED)
    return for_nothing
