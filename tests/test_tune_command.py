"""`training tune-text` and `tune-image`, and a shop that is run with what they made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aisle.bundle import Bundle
from training.catalog import read_catalog
from training.splits import SplitSettings, assign_splits, in_encoder_share

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tuned(own_tiny_home: Path) -> dict[str, Any]:
    """What tests/tuned_shop.py told: tags, and which parts of each product a head may see [N, 2]."""
    places = {"AISLE_HOME": str(own_tiny_home), "BENTOML_HOME": str(own_tiny_home / "bentoml")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "tuned_shop.py")],
        cwd=ROOT,
        env={**os.environ, **places, "PYTHONPATH": str(ROOT), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def folder_of(home: Path, tag: str) -> Path:
    return home / "bentoml" / "models" / Path(*tag.split(":"))


def test_a_classifier_is_run_with_tuned_encoders(own_tiny_home: Path, tuned: dict[str, Any]) -> None:
    bundle = Bundle.load(folder_of(own_tiny_home, tuned["classifier"]))
    assert f"aisle-text-encoder:{bundle.text_encoder.revision}" == tuned["text"]
    assert f"aisle-image-encoder:{bundle.image_encoder.revision}" == tuned["image"]
    assert bundle.card["text_encoder"]["weights"] == "catalogue"
    assert bundle.card["image_encoder"]["backbone"] == "small_cnn"


@pytest.mark.parametrize("kind", ["tune-text", "tune-image"])
def test_its_run_tells_data_and_epochs(kind: str, own_tiny_home: Path, tuned: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in (own_tiny_home / "runs.jsonl").read_text().splitlines()]
    [line] = [line for line in lines if line["kind"] == kind]
    fingerprint = read_catalog(own_tiny_home / "catalogue").fingerprint()
    assert line["tags"]["data_fingerprint"] == fingerprint
    assert line["tags"]["encoder"] == tuned[kind.removeprefix("tune-")]
    assert set(line["metrics"]) == {"train_loss", "validation_macro_f1"}


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_tuned_encoder_says_that_it_knows_the_catalogue(
    modality: str, own_tiny_home: Path, tuned: dict[str, Any]
) -> None:
    facts = json.loads((folder_of(own_tiny_home, tuned[modality]) / "encoder.json").read_text())
    assert facts["weights"] == "catalogue"


def test_the_head_sees_nothing_that_an_encoder_was_tuned_on(
    own_tiny_home: Path, tuned: dict[str, Any]
) -> None:
    present_N2 = np.array(tuned["present"])
    products = read_catalog(own_tiny_home / "catalogue").products
    own_N = in_encoder_share(products.group, SplitSettings())
    assert own_N.any()
    assert not present_N2[own_N].any()
    assert present_N2[~own_N, 0].all()
    assert (assign_splits(products.group, SplitSettings())[own_N] == "train").all()
