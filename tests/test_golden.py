"""Golden products: a bundle is asked again, where it is to serve, what it answered where it was made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import jpeg
from PIL import Image
from tiny_service import MODEL, tiny_classifier

from aisle.bundle import Bundle
from aisle.classifier import Classifier, Item
from aisle.errors import BundleError
from aisle.golden import GOLDEN_PARTS, Golden
from aisle.image import ImageEncoder, ImageSettings, decode_image
from aisle.manifest import write_manifest
from aisle.product import Product
from aisle.text import TextEncoder, TextSettings
from training.catalog import Catalog, read_catalog
from training.golden import MAX_PICTURE_BYTES, golden_products

PRODUCTS = [
    Product(title="Train en bois &eacute;t&eacute;", description="<p>pour <b>enfants</b></p>"),
    Product(title="Livre de poche", image=jpeg("red")),
    Product(image=jpeg("blue", 90)),
]


@pytest.fixture(scope="module")
def classifier(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder) -> Classifier:
    plain = tiny_classifier(tiny_text_encoder, tiny_image_encoder)
    bundle = replace(plain.bundle, golden=Golden.of(plain, PRODUCTS))
    return Classifier(bundle, tiny_text_encoder, tiny_image_encoder, version=MODEL)


def golden_of(classifier: Classifier) -> Golden:
    assert classifier.bundle.golden is not None
    return classifier.bundle.golden


def test_a_bundle_keeps_its_golden_products_byte_for_byte(classifier: Classifier, tmp_path: Path) -> None:
    classifier.bundle.save(tmp_path)
    loaded = Bundle.load(tmp_path).golden
    assert loaded is not None
    assert loaded.products == PRODUCTS
    np.testing.assert_array_equal(loaded.probabilities_NC, golden_of(classifier).probabilities_NC)


def test_probabilities_are_those_that_are_answered(classifier: Classifier) -> None:
    golden = golden_of(classifier)
    assert golden.probabilities_NC.shape == (3, 3)
    np.testing.assert_allclose(golden.probabilities_NC.sum(axis=1), 1, atol=1e-6)
    [answer] = classifier.predict([classifier.prepare(PRODUCTS[1])])
    best = int(golden.probabilities_NC[1].argmax())
    assert classifier.taxonomy[best] == answer.category  # type: ignore[union-attr]
    assert golden.probabilities_NC[1, best] == np.float32(answer.confidence)  # type: ignore[union-attr]


def test_the_same_model_passes(classifier: Classifier) -> None:
    assert golden_of(classifier).check(classifier, classifier.predict) < 1e-6


def test_another_head_is_named_with_product_found_and_wanted(
    classifier: Classifier, tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder
) -> None:
    other = tiny_classifier(tiny_text_encoder, tiny_image_encoder)
    with torch.no_grad():
        for parameter in other.fusion.parameters():
            parameter.mul_(1.5)
    message = (
        r"aisle-classifier:tiny: golden product 0 \('Train en bois &eacute;t&eacute;'\): found probability "
        r"0\.\d{4} of \d+, wanted 0\.\d{4} within 0\.001; it does not answer here as where it was made"
    )
    with pytest.raises(BundleError, match=message):
        golden_of(classifier).check(other, other.predict)


class Uncleaned(Classifier):
    """Prepares text as it comes: the skew that golden products are there for."""

    def prepare(self, product: Product, top_k: int = 5) -> Item:
        return replace(super().prepare(product, top_k), text=f"{product.title} {product.description}")


def test_a_skew_in_preprocessing_is_caught(classifier: Classifier) -> None:
    skewed = Uncleaned(classifier.bundle, classifier.text_encoder, classifier.image_encoder, version=MODEL)
    with pytest.raises(BundleError, match="golden product 0"):
        golden_of(classifier).check(skewed, skewed.predict)


def test_a_product_that_cannot_be_answered_is_named(classifier: Classifier) -> None:
    with pytest.raises(BundleError, match="golden product 0 cannot be answered: out of memory"):
        golden_of(classifier).check(classifier, lambda items: [RuntimeError("out of memory")] * len(items))


def test_a_bundle_of_old_has_none(classifier: Classifier, tmp_path: Path) -> None:
    replace(classifier.bundle, golden=None).save(tmp_path)
    assert not any((tmp_path / part).exists() for part in GOLDEN_PARTS)
    assert Bundle.load(tmp_path).golden is None


@pytest.mark.parametrize("part", GOLDEN_PARTS)
def test_a_bundle_that_lost_them_is_refused(classifier: Classifier, tmp_path: Path, part: str) -> None:
    classifier.bundle.save(tmp_path)
    (tmp_path / part).unlink()
    write_manifest(tmp_path)
    with pytest.raises(BundleError, match=f"{part}: missing; a bundle holds"):
        Bundle.load(tmp_path)


def test_probabilities_of_another_width_are_refused(classifier: Classifier) -> None:
    golden = replace(golden_of(classifier), probabilities_NC=np.ones((3, 7), dtype=np.float32))
    with pytest.raises(BundleError, match="golden probabilities: found 7, but .* outputs has 3"):
        replace(classifier.bundle, golden=golden)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """A short picture, a long one, a broken one, and none."""
    noise = np.random.default_rng(27).integers(0, 255, (300, 200, 3), dtype=np.uint8)
    (tmp_path / "short.jpg").write_bytes(jpeg("red"))
    Image.fromarray(noise).save(tmp_path / "long.png")
    (tmp_path / "broken.jpg").write_bytes(jpeg("red")[:100])
    (tmp_path / "products.csv").write_text(
        "product_id,title,description,image,category\n"
        "a,un,,short.jpg,10\nb,deux,,long.png,10\nc,trois,,broken.jpg,10\nd,,,broken.jpg,10\n"
    )
    return read_catalog(tmp_path)


def test_golden_products_are_the_catalogues_without_ids(catalog: Catalog) -> None:
    [product] = golden_products(np.array([0]), catalog, TextSettings(), ImageSettings(size=32))
    assert product == Product(title="un", image=jpeg("red"))


def test_a_long_picture_is_drawn_anew_at_twice_the_encoders_side(catalog: Catalog, tmp_path: Path) -> None:
    assert (tmp_path / "long.png").stat().st_size > MAX_PICTURE_BYTES
    [product] = golden_products(np.array([1]), catalog, TextSettings(), ImageSettings(size=32))
    assert product.image is not None
    assert len(product.image) < 8_000
    assert product.image.startswith(b"\xff\xd8")
    assert decode_image(product.image, ImageSettings(size=64)).shape == (64, 64, 3)


def test_a_broken_picture_is_left_out_and_so_is_a_product_of_nothing_else(catalog: Catalog) -> None:
    found = golden_products(np.array([2, 3]), catalog, TextSettings(), ImageSettings(size=32))
    assert found == [Product(title="trois")]


def test_a_registered_classifier_carries_products_of_its_test_split(tiny_home: Path) -> None:
    [manifest] = (tiny_home / "bentoml" / "models" / "aisle-classifier").glob("*/manifest.json")
    bundle = Bundle.load(manifest.parent)
    assert bundle.golden is not None
    assert len(bundle.golden.products) == min(32, bundle.card["data"]["products"]["test"])
    assert all(product.product_id is None for product in bundle.golden.products)
    assert sum(product.image is not None for product in bundle.golden.products) > 5
