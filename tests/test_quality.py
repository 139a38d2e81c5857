"""The quality benchmark: what it masks, what its encoders see, and its figure of the accept threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.masked_titles import mask_title
from benchmarks.quality import accepted_errors
from benchmarks.quality_data import Shelf, image_vectors
from training.catalog import read_catalog
from training.comparison import Pooled
from training.demo import write_demo_catalog
from training.folds import stratified_folds
from training.image_encoder import ImageTraining


@pytest.mark.parametrize(
    ("title", "category", "masked"),
    [
        ("Men Blue Shirt", "Shirts", "Men Blue"),
        ("Men SHIRTS blue", "Shirts", "Men blue"),
        ("Sports Shoes for men", "Sports Shoes", "for men"),
        ("Red Polo T-shirt, cotton", "Tshirts", "Red Polo , cotton"),
        ("Blue tee", "Tshirts", "Blue"),
        ("Blue tee", "Shirts", "Blue tee"),
        ("Sweatshirt blue", "Shirts", "Sweatshirt blue"),
        ("Leather watch strap", "Watches", "Leather watch strap"),  # only a final s is put on or taken off
    ],
)
def test_the_words_of_the_category_are_taken_out(title: str, category: str, masked: str) -> None:
    assert mask_title(title, category) == masked


def test_vectors_of_a_fold_are_made_once_and_never_of_its_test_products(tmp_path: Path) -> None:
    write_demo_catalog(tmp_path / "shop", products=240, seed=1)
    shelf = Shelf.of(read_catalog(tmp_path / "shop"), 10)
    fold = stratified_folds(shelf.label_N, shelf.group_N, folds=2, seed=1)[0]
    training = ImageTraining(backbone="small_cnn", size=32, epochs=1)
    vectors_NE, has_N = image_vectors(shelf, fold, training, tmp_path / "work")
    assert vectors_NE.shape == (len(shelf.label_N), 256)
    assert (np.abs(vectors_NE).sum(axis=1) > 0).tolist() == has_N.tolist()
    kept = tmp_path / "work" / f"{fold.name}-image.safetensors"
    made = kept.stat().st_mtime_ns
    # Another picture of a test product changes neither encoder nor cache.
    test_row = int(fold.test[has_N[fold.test]][0])
    image = shelf.catalog.products.image.iloc[shelf.position_N[test_row]]
    (shelf.catalog.image_root / image).write_bytes(b"no picture")
    again_NE, _ = image_vectors(shelf, fold, training, tmp_path / "work")
    assert kept.stat().st_mtime_ns == made
    np.testing.assert_array_equal(again_NE, vectors_NE)


def market(products: int, honest: bool) -> Pooled:
    """Products whose confidence is right, or lies: of ten, two are wrong whatever it says."""
    rng = np.random.default_rng(3)
    confidence_N = 1 - 0.6 * rng.random(products) ** 4
    right_N = rng.random(products) < (confidence_N if honest else 0.8)
    return Pooled(
        probabilities_NC=np.stack([confidence_N, 1 - confidence_N], axis=1),
        label_N=np.where(right_N, confidence_N < 0.5, confidence_N >= 0.5).astype(int),
        group_N=np.arange(products),
    )


@pytest.mark.parametrize("honest", [True, False])
def test_the_accept_threshold_keeps_its_promise(honest: bool) -> None:
    found = accepted_errors(market(800, honest), seed=1)
    assert found["resamples_within_target"] >= 0.95
    assert (found["mean_accepted_share"] > 0.05) == honest
