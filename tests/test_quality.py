"""The quality benchmark: what it masks, what its encoders see, and its figure of the accept threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aisle.gradients import DIM
from aisle.picture import ImageSettings
from benchmarks.masked_titles import mask_title
from benchmarks.quality import accepted_errors
from benchmarks.quality_data import Shelf, image_vectors
from training.catalog import read_catalog
from training.comparison import Pooled
from training.demo import write_demo_catalog


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


def test_vectors_of_pictures_are_made_once_and_again_when_a_picture_changes(tmp_path: Path) -> None:
    write_demo_catalog(tmp_path / "shop", products=120, seed=1)
    shelf = Shelf.of(read_catalog(tmp_path / "shop"), 5)
    kept, settings = tmp_path / "image.safetensors", ImageSettings(size=32)
    vectors_NE, has_N = image_vectors(shelf, settings, kept)
    assert vectors_NE.shape == (len(shelf.label_N), DIM)
    assert (np.abs(vectors_NE).sum(axis=1) > 0).tolist() == has_N.tolist()
    made = kept.stat().st_mtime_ns
    image_vectors(shelf, settings, kept)
    assert kept.stat().st_mtime_ns == made
    row = int(np.flatnonzero(has_N)[0])
    image = shelf.catalog.products.image.iloc[shelf.position_N[row]]
    (shelf.catalog.image_root / image).write_bytes(b"no picture")
    again_NE, has_N = image_vectors(shelf, settings, kept)
    assert not has_N[row]
    np.testing.assert_array_equal(again_NE[row + 1 :], vectors_NE[row + 1 :])


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
