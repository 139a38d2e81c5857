"""`training tune-text` and `tune-image` as they are typed, and a shop that is run with what they made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aisle.bundle import Bundle
from training.catalog import read_catalog
from training.splits import SplitSettings, assign_splits, in_encoder_share

ROOT = Path(__file__).parent.parent
FEW = ("--set", "epochs=1")


def training(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    places = {"AISLE_HOME": str(home), "BENTOML_HOME": str(home / "bentoml"), "COLUMNS": "160"}
    return subprocess.run(
        [sys.executable, "-m", "training", *words],
        cwd=ROOT,
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        check=False,
    )


def tag_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr[-3_000:]
    return done.stdout.split()[-1]


@pytest.fixture(scope="module")
def tuned(own_tiny_home: Path) -> tuple[Path, str, str, str]:
    """(home, text encoder, image encoder, the classifier that `training run` made with them)."""
    catalogue = str(own_tiny_home / "catalogue")
    text = ("--text-encoder", "aisle-text-encoder:latest")
    image = ("--start", "random", "--backbone", "small_cnn", "--image-size", "32")
    text_tag = tag_of(training(own_tiny_home, "tune-text", catalogue, *text, *FEW))
    image_tag = tag_of(training(own_tiny_home, "tune-image", catalogue, *image, *FEW))
    made = training(
        own_tiny_home,
        "run",
        catalogue,
        *("--text-encoder", text_tag, "--image-weights", image_tag, "--min-class", "2"),
    )
    return own_tiny_home, text_tag, image_tag, tag_of(made)


def folder_of(home: Path, tag: str) -> Path:
    return home / "bentoml" / "models" / Path(*tag.split(":"))


def test_a_classifier_is_run_with_tuned_encoders(tuned: tuple[Path, str, str, str]) -> None:
    home, text_tag, image_tag, tag = tuned
    bundle = Bundle.load(folder_of(home, tag))
    assert f"aisle-text-encoder:{bundle.text_encoder.revision}" == text_tag
    assert f"aisle-image-encoder:{bundle.image_encoder.revision}" == image_tag
    assert bundle.card["text_encoder"]["weights"] == "catalogue"
    assert bundle.card["image_encoder"]["backbone"] == "small_cnn"


def test_both_encoders_say_that_they_know_the_catalogue(tuned: tuple[Path, str, str, str]) -> None:
    home, *tags, _ = tuned
    for tag in tags:
        assert json.loads((folder_of(home, tag) / "encoder.json").read_text())["weights"] == "catalogue"


def test_the_head_sees_nothing_that_an_encoder_was_tuned_on(tuned: tuple[Path, str, str, str]) -> None:
    home, text_tag, image_tag, _ = tuned
    asked = f"""
from training.catalog import read_catalog
from training.labelled import read_labelled
from training.labels import no_labels
from training.pipeline import known_categories
from training.settings import Settings
from training.shop import Shop, load_encoders
from training.splits import SplitSettings
import json
from pathlib import Path
shop = Shop.open(Settings.from_environment())
catalog = read_catalog(Path({str(home / "catalogue")!r}))
pair = load_encoders(shop, {text_tag!r}, {image_tag!r})
nothing = no_labels(pair.text.dim, pair.image.dim)
taxonomy = known_categories(catalog, min_class=2)
labelled = read_labelled(shop, catalog, pair, taxonomy, SplitSettings(), nothing)
print(json.dumps(labelled.unlearned().present_N2.tolist()))
"""
    places = {"AISLE_HOME": str(home), "BENTOML_HOME": str(home / "bentoml"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", asked], cwd=ROOT, env={**os.environ, **places}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    present_N2 = np.array(json.loads(done.stdout.splitlines()[-1]))
    products = read_catalog(home / "catalogue").products
    own_N = in_encoder_share(products.group, SplitSettings())
    assert own_N.any()
    assert not present_N2[own_N].any()
    assert present_N2[~own_N, 0].all()
    assert (assign_splits(products.group, SplitSettings())[own_N] == "train").all()
