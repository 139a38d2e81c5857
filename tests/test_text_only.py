"""A catalogue without any picture, through the whole of `python -m training run`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pictures import jpeg
from test_training_commands import training

from aisle.bundle import Bundle
from aisle.calibration import NEVER
from aisle.classifier import Classifier
from aisle.errors import ProductError
from aisle.image import ImageEncoder
from aisle.prediction import Prediction
from aisle.product import Product
from aisle.text import TextEncoder


@pytest.fixture(scope="module")
def models(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model store of a shop of texts."""
    home = tmp_path_factory.mktemp("texts")
    done = training(
        home,
        *("run", str(tiny_home / "catalogue"), "--columns", "image=", "--min-class", "2"),
        *("--text-encoder", str(tiny_home / "text-encoder"), "--image-size", "32"),
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    assert "no product has a picture: the image encoder stays untrained" in done.stderr
    return home / "bentoml" / "models"


def entry_of(models: Path, name: str) -> Path:
    [entry] = (models / name).glob("*/")
    return entry


def test_a_catalogue_without_pictures_makes_a_classifier_of_texts(models: Path) -> None:
    entry = entry_of(models, "aisle-classifier")
    calibration = json.loads((entry / "bundle.json").read_text())["calibration"]["patterns"]
    assert calibration["image"] == calibration["both"] == {"temperature": 1.0, "threshold": NEVER}
    metrics = json.loads((entry / "metrics.json").read_text())
    assert metrics["image"] is None
    assert metrics["fused"]["accuracy"] == metrics["text"]["accuracy"]


def test_a_picture_says_nothing_to_it(models: Path) -> None:
    classifier = Classifier(
        Bundle.load(entry_of(models, "aisle-classifier")),
        TextEncoder.load(entry_of(models, "aisle-text-encoder")),
        ImageEncoder.load(entry_of(models, "aisle-image-encoder")),
    )
    photo, title = jpeg("red", 40), "train bois 7"
    products = [Product(title=title), Product(title=title, image=photo), Product(image=photo)]
    plain, pictured, bare = classifier.predict([classifier.prepare(product) for product in products])
    assert isinstance(plain, Prediction)
    assert isinstance(pictured, Prediction)
    assert (pictured.top, pictured.accepted, pictured.image_only) == (plain.top, plain.accepted, None)
    assert isinstance(bare, ProductError)
    assert "found no text, which is all that this model reads, given or stored" in str(bare)
