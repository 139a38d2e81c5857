"""Explanations: they add up, they name the nearest, and who asks for none gets none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_classifier import PRODUCTS, MakeClassifier, make_classifier, only_predictions  # noqa: F401

from aisle import Product, ProductError
from aisle.bundle import Bundle
from aisle.classifier import Classifier, Embedded
from aisle.explanation import contributions
from aisle.neighbours import FILE, Neighbours
from aisle.prediction import Source


def test_contributions_by_hand() -> None:
    """Four categories. Both say 1/2: one bit over 1/4. The text alone says 1/2, the image alone 1/4: the text
    did it all. With the text alone, all is the text's."""
    chosen = np.array([[0.5, 0.5], [0.5, 0.5], [0.25, 0.25]])  # [P, B]
    probabilities = np.stack([chosen, 1 - chosen, 0 * chosen, 0 * chosen], axis=2)
    text, image = contributions(probabilities, np.array([0, 0]), np.array([0, 1]))
    assert text.tolist() == [1.0, 1.0]
    assert image[0] == 0
    assert np.isnan(image[1])


def test_a_part_that_rules_the_answer_out_speaks_against_it() -> None:
    probabilities = np.zeros((3, 1, 2))
    probabilities[:, 0, 0] = [0.5, 1.0, 0.0]
    text, image = contributions(probabilities, np.array([0]), np.array([0]))
    assert text[0] > 0 > image[0]
    assert text[0] + image[0] == pytest.approx(0, abs=1e-9)  # from 1/2 to 1/2


def vectors(classifier: Classifier) -> Embedded:
    """Three products: with both parts, with a text, with a picture."""
    rng = np.random.default_rng(27)
    text = rng.normal(size=(3, classifier.text_encoder.dim)).astype(np.float32)
    image = rng.normal(size=(3, classifier.image_encoder.dim)).astype(np.float32)
    held, none = Source.STORED, Source.ABSENT
    return Embedded(
        text_BD=text, image_BE=image, text_source=[held, held, none], image_source=[held, none, held]
    )


@pytest.fixture
def stored(make_classifier: MakeClassifier) -> Classifier:  # noqa: F811
    """A classifier whose neighbours are `vectors`."""
    classifier = make_classifier()
    embedded = vectors(classifier)
    near = Neighbours.of(
        ["first", "été-2", "third"],
        np.array([4, 5, 6]),
        embedded.text_BD,
        embedded.image_BE,
        embedded.presence(),
    )
    bundle = replace(classifier.bundle, neighbours=lambda: near)
    return Classifier(bundle, classifier.text_encoder, classifier.image_encoder, version="test")


def test_bits_lead_from_any_category_to_the_confidence(stored: Classifier) -> None:
    items = [stored.prepare(product, explain=True) for product in PRODUCTS[:3]]
    for answer in only_predictions(stored.predict(items)):
        assert answer.explanation is not None
        bits = (answer.explanation.text_bits or 0) + (answer.explanation.image_bits or 0)
        assert 2**bits / 7 == pytest.approx(answer.confidence, rel=1e-4)


def test_an_absent_part_has_no_bits(stored: Classifier) -> None:
    items = [stored.prepare(product, explain=True) for product in PRODUCTS[1:3]]
    text, image = (answer.explanation for answer in only_predictions(stored.predict(items)))
    assert text is not None
    assert image is not None
    assert (text.image_bits, image.text_bits) == (None, None)


def test_a_product_is_nearest_to_itself(stored: Classifier) -> None:
    embedded = vectors(stored)
    answers = only_predictions(stored.explained(embedded, stored.decide(embedded), [True] * 3))
    nearest = [answer.explanation.neighbours[0] for answer in answers if answer.explanation]
    assert [one.product_id for one in nearest] == ["first", "été-2", "third"]
    assert [one.category.code for one in nearest] == ["c4", "c5", "c6"]
    assert [one.similarity for one in nearest] == pytest.approx([1, 1, 1], abs=2e-3)  # stored as float16


def test_who_does_not_ask_is_answered_as_ever(stored: Classifier) -> None:
    asked, plain = (stored.prepare(PRODUCTS[0], explain=explain) for explain in (True, False))
    explained, answer = only_predictions(stored.predict([asked, plain]))
    assert answer.explanation is None
    assert replace(explained, explanation=None) == answer


def test_a_fault_stays_a_fault(stored: Classifier) -> None:
    unknown = stored.prepare(Product(product_id="nobody"), explain=True)
    [answer] = stored.predict([unknown])
    assert isinstance(answer, ProductError)


def test_neighbours_come_back_from_disk_when_they_are_asked_for(stored: Classifier, tmp_path: Path) -> None:
    stored.bundle.save(tmp_path)
    loaded = Bundle.load(tmp_path)
    assert loaded.neighbours is not None
    assert stored.bundle.neighbours is not None
    before, after = stored.bundle.neighbours(), loaded.neighbours()
    assert after.product_ids == before.product_ids == ("first", "été-2", "third")
    for name in ("label_M", "text_MD", "image_ME", "text_mean_D", "image_mean_E"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert loaded.neighbours() is after


def test_loading_reads_no_neighbours(stored: Classifier, tmp_path: Path) -> None:
    """Once a bundle is loaded its file may be gone: nobody has read it yet."""
    stored.bundle.save(tmp_path)
    loaded = Bundle.load(tmp_path)
    (tmp_path / FILE).unlink()
    assert loaded.neighbours is not None
    with pytest.raises(FileNotFoundError):
        loaded.neighbours()
