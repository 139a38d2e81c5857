from __future__ import annotations

from collections.abc import Sequence

import pytest
from tiny_service import MODEL, Pantry, tiny_classifier, vectors

from aisle.classifier import Classifier, Embedded, Item, Stored
from aisle.image import ImageEncoder
from aisle.prediction import Prediction, Source
from aisle.text import TextEncoder
from service.engine import Engine
from service.errors import RequestError


@pytest.fixture(scope="module")
def classifier(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder) -> Classifier:
    return tiny_classifier(tiny_text_encoder, tiny_image_encoder)


class Brittle(Classifier):
    """A classifier that fails on any batch with a poisonous text."""

    def embed(self, items: Sequence[Item], stored: Sequence[Stored] | None = None) -> Embedded:
        if any(item.text == "poison" for item in items):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().embed(items, stored)


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
