import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from aisle import Prediction, Product, ProductError, Taxonomy
from aisle.bundle import Bundle, EncoderRef
from aisle.calibration import PATTERNS, Calibration, PatternCalibration
from aisle.classifier import Classifier, Item, Stored
from aisle.errors import BundleError
from aisle.fusion import FusionSettings, build_fusion
from aisle.image import ImageEncoder
from aisle.prediction import Source
from aisle.prediction_sets import SetRule
from aisle.text import TextEncoder, text_hash
from aisle.vector_scaling import VectorScaling


def jpeg(colour: tuple[int, int, int]) -> bytes:
    noise = np.random.default_rng(sum(colour)).integers(0, 40, size=(40, 60, 3))
    file = io.BytesIO()
    Image.fromarray((noise + np.array(colour)).clip(0, 255).astype(np.uint8)).save(file, "JPEG")
    return file.getvalue()


MakeClassifier = Callable[..., Classifier]


@pytest.fixture(scope="module")
def make_classifier(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder) -> MakeClassifier:
    def make(
        threshold: float = 0.0,
        text_revision: str | None = None,
        vector: VectorScaling | None = None,
        sets: SetRule | None = None,
    ) -> Classifier:
        torch.manual_seed(3)
        settings = FusionSettings(
            text_dim=tiny_text_encoder.dim, image_dim=tiny_image_encoder.dim, hidden_dim=16, classes=7
        )
        pattern = PatternCalibration(temperature=0.5, threshold=threshold, vector=vector, sets=sets)
        bundle = Bundle(
            fusion=build_fusion(settings),
            taxonomy=Taxonomy.from_codes([f"c{i}" for i in range(7)]),
            calibration=Calibration(target_error=0.05, delta=0.05, patterns=dict.fromkeys(PATTERNS, pattern)),
            text_encoder=EncoderRef(
                revision=text_revision or tiny_text_encoder.revision, dim=tiny_text_encoder.dim
            ),
            image_encoder=EncoderRef(revision=tiny_image_encoder.revision, dim=tiny_image_encoder.dim),
            reference={},
        )
        return Classifier(bundle, tiny_text_encoder, tiny_image_encoder, version="aisle-classifier:test")

    return make


PRODUCTS = [
    Product(title="Robe rouge", description="<b>coton</b>", image=jpeg((200, 30, 30))),
    Product(title="a much longer title " * 9),
    Product(image=jpeg((20, 30, 200))),
    Product(title="x", image=jpeg((90, 200, 30))),
]


def only_predictions(answers: list[Prediction | ProductError]) -> list[Prediction]:
    assert all(isinstance(answer, Prediction) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Prediction)]


def test_a_product_gets_the_same_answer_whatever_its_batch(make_classifier: MakeClassifier) -> None:
    classifier = make_classifier()
    items = [classifier.prepare(product) for product in PRODUCTS]
    together = only_predictions(classifier.predict(items * 5))
    for position, item in enumerate(items):
        [alone] = only_predictions(classifier.predict([item]))
        for other in together[position :: len(items)]:
            assert other.category == alone.category
            assert [c.probability for c in other.top] == pytest.approx(
                [c.probability for c in alone.top], abs=1e-4
            )


def test_probabilities_are_sorted_and_sum_to_one(make_classifier: MakeClassifier) -> None:
    classifier = make_classifier()
    [answer] = only_predictions(classifier.predict([classifier.prepare(PRODUCTS[0], top_k=7)]))
    probabilities = [candidate.probability for candidate in answer.top]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert (answer.category, answer.confidence) == (answer.top[0].category, probabilities[0])


def test_each_item_gets_its_own_top_k(make_classifier: MakeClassifier) -> None:
    classifier = make_classifier()
    items = [classifier.prepare(PRODUCTS[0], top_k=k) for k in (1, 3, 100)]
    assert [len(answer.top) for answer in only_predictions(classifier.predict(items))] == [1, 3, 7]


def test_modalities_that_are_absent_say_nothing(make_classifier: MakeClassifier) -> None:
    classifier = make_classifier()
    both, text, image, _ = only_predictions(
        classifier.predict([classifier.prepare(product) for product in PRODUCTS])
    )
    assert both.text_only is not None
    assert both.image_only is not None
    assert text.image_only is None
    assert text.image_source is Source.ABSENT
    assert text.text_only is not None
    assert text.text_only.probability == pytest.approx(text.confidence)
    assert image.text_only is None
    assert image.text_source is Source.ABSENT


def test_a_product_of_which_nothing_is_known_fails_alone(make_classifier: MakeClassifier) -> None:
    classifier = make_classifier()
    items = [classifier.prepare(PRODUCTS[1]), classifier.prepare(Product(product_id="unknown"))]
    known, unknown = classifier.predict(items)
    assert isinstance(known, Prediction)
    assert isinstance(unknown, ProductError)
    assert unknown.reason == "nothing_known"


def test_an_empty_product_is_refused_when_it_is_prepared(make_classifier: MakeClassifier) -> None:
    with pytest.raises(ProductError, match="wanted at least one of them"):
        make_classifier().prepare(Product(title=" "))


@pytest.mark.parametrize(
    ("given", "stored_hash", "source"),
    [
        (None, text_hash("robe"), Source.STORED),  # only the id was given
        ("robe", text_hash("robe"), Source.STORED),  # the very text it was made from
        ("jupe", text_hash("robe"), Source.COMPUTED),  # the text has changed since
    ],
)
def test_a_stored_vector_is_used_only_for_the_text_it_was_made_from(
    make_classifier: MakeClassifier, given: str | None, stored_hash: str, source: Source
) -> None:
    classifier = make_classifier()
    item = Item(product_id="7", text=given, text_hash=text_hash(given) if given else None)
    held = Stored(text_vector_D=np.ones(classifier.text_encoder.dim, np.float32), text_hash=stored_hash)
    embedded = classifier.embed([item], [held])
    assert embedded.text_source == [source]
    assert (embedded.text_BD[0] == 1).all() == (source is Source.STORED)


def test_a_vector_that_is_not_finite_fails_its_product_alone(make_classifier: MakeClassifier) -> None:
    classifier = make_classifier()
    broken = Stored(text_vector_D=np.full(classifier.text_encoder.dim, np.nan, np.float32), text_hash="h")
    items = [Item(product_id="1"), Item(text="robe", text_hash=text_hash("robe"))]
    bad, good = classifier.predict(items, [broken, Stored()])
    assert isinstance(bad, ProductError)
    assert bad.reason == "vector_not_finite"
    [alone] = only_predictions(classifier.predict(items[1:]))
    assert isinstance(good, Prediction)
    assert good.confidence == pytest.approx(alone.confidence, abs=1e-6)


def test_accepted_is_a_matter_of_the_threshold(make_classifier: MakeClassifier) -> None:
    for threshold, accepted in ((0.0, True), (2.0, False)):
        classifier = make_classifier(threshold=threshold)
        [answer] = only_predictions(classifier.predict([classifier.prepare(PRODUCTS[0])]))
        assert answer.accepted is accepted


def test_an_empty_batch_has_no_answers(make_classifier: MakeClassifier) -> None:
    assert make_classifier().predict([]) == []


def test_an_encoder_of_another_revision_is_refused(make_classifier: MakeClassifier) -> None:
    with pytest.raises(BundleError, match="text encoder: found revision .* trained with 00000000"):
        make_classifier(text_revision="00000000")


def test_a_bias_makes_its_category_likelier(make_classifier: MakeClassifier) -> None:
    """A bias of log 4 multiplies a category's odds by 4."""
    plain, biased = (
        make_classifier(vector=vector)
        for vector in (None, VectorScaling(scale=(1.0,) * 7, bias=(0.0,) * 6 + (float(np.log(4)),)))
    )
    embedded = plain.embed([plain.prepare(PRODUCTS[0])])
    before, after = (c.probabilities(embedded)[0, 0, 6] for c in (plain, biased))
    assert after / (1 - after) == pytest.approx(4 * before / (1 - before), rel=1e-4)


def test_without_set_rules_there_is_no_prediction_set(make_classifier: MakeClassifier) -> None:
    classifier = make_classifier()
    [answer] = only_predictions(classifier.predict([classifier.prepare(PRODUCTS[0])]))
    assert answer.prediction_set is None


def test_a_set_holds_who_is_below_the_quantile_likeliest_first(make_classifier: MakeClassifier) -> None:
    """Cumulated probabilities up to 0.6, in order: whatever they are, the set is their beginning."""
    rule = SetRule(coverage=0.9, penalty=0.0, free_ranks=7, quantile=(0.6,) * 7)
    classifier = make_classifier(sets=rule)
    [answer] = only_predictions(classifier.predict([classifier.prepare(PRODUCTS[0], top_k=7)]))
    assert answer.prediction_set is not None
    within = int((np.cumsum([c.probability for c in answer.top]) <= 0.6).sum())
    assert answer.prediction_set.codes == tuple(c.category.code for c in answer.top[:within])
    assert answer.prediction_set.coverage == 0.9
    assert within > 1


def test_a_set_is_never_empty(make_classifier: MakeClassifier) -> None:
    rule = SetRule(coverage=0.9, penalty=0.0, free_ranks=7, quantile=(0.0,) * 7)
    classifier = make_classifier(sets=rule)
    [answer] = only_predictions(classifier.predict([classifier.prepare(PRODUCTS[0])]))
    assert answer.prediction_set is not None
    assert answer.prediction_set.codes == (answer.category.code,)
