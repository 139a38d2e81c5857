"""A catalogue without any picture, through the whole of `python -m training run`."""

from __future__ import annotations

import json
from pathlib import Path

from test_training_commands import training

from aisle.calibration import NEVER


def test_a_catalogue_without_pictures_makes_a_classifier_of_texts(tiny_home: Path, tmp_path: Path) -> None:
    done = training(
        tmp_path,
        *("run", str(tiny_home / "catalogue"), "--columns", "image=", "--min-class", "2"),
        *("--text-encoder", str(tiny_home / "text-encoder"), "--image-size", "32"),
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    assert "no product has a picture: the image encoder stays untrained" in done.stderr
    [entry] = (tmp_path / "bentoml" / "models" / "aisle-classifier").glob("*/")
    calibration = json.loads((entry / "bundle.json").read_text())["calibration"]["patterns"]
    assert calibration["image"] == calibration["both"] == {"temperature": 1.0, "threshold": NEVER}
    metrics = json.loads((entry / "metrics.json").read_text())
    assert metrics["image"] is None
    assert metrics["fused"]["accuracy"] == metrics["text"]["accuracy"]
