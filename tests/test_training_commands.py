"""`python -m training` as it is typed, on the tiny shop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from aisle.neighbours import Neighbours
from training.catalog import read_catalog
from training.settings import describe
from training.splits import SplitSettings, assign_splits

ROOT = Path(__file__).parent.parent


def training(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("AISLE_", "BENTOML_", "PROMETHEUS_"))}
    return subprocess.run(
        [sys.executable, "-m", "training", *words],
        cwd=ROOT,
        env={**environ, "AISLE_HOME": str(home), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_evaluate_makes_the_registered_figures_again(tiny_home: Path) -> None:
    done = training(tiny_home, "evaluate", "aisle-classifier:latest")
    assert done.returncode == 0, done.stderr
    [metrics_file] = (tiny_home / "bentoml" / "models" / "aisle-classifier").glob("*/metrics.json")
    metrics = json.loads(metrics_file.read_text())
    cells = [f"{metrics['fused'][key]:.3f}" for key in ("macro_f1", "weighted_f1", "accuracy", "log_loss")]
    [fused] = [line for line in done.stdout.splitlines() if "fused" in line]
    assert [cell.strip() for cell in fused.strip("│ ").split("│")[1:]] == cells
    assert f"ECE {metrics['ece']:.3f}" in done.stdout
    assert f"AURC {metrics['risk_coverage']['aurc']:.4f}" in done.stdout
    assert metrics["prediction_sets"] is None  # fewer than 19 held-out products promise nothing
    assert "prediction sets" not in done.stdout


def test_answers_are_explained_by_training_products(tiny_home: Path) -> None:
    [file] = (tiny_home / "bentoml" / "models" / "aisle-classifier").glob("*/neighbours.safetensors")
    products = read_catalog(tiny_home / "catalogue").products
    is_train = (assign_splits(products.group, SplitSettings()) == "train").to_numpy()
    near = Neighbours.load(file.parent)
    assert sorted(near.product_ids) == sorted(products.product_id[is_train])
    codes = sorted(set(products.category))
    labels = dict(zip(products.product_id, products.category, strict=True))
    named = zip(near.product_ids, near.label_M, strict=True)
    assert all(labels[product_id] == codes[label] for product_id, label in named)


def test_check_says_what_was_read(tiny_home: Path) -> None:
    done = training(tiny_home, "check", str(tiny_home / "catalogue"))
    assert done.returncode == 0, done.stderr
    assert "120 rows read, 120 kept, 0 dropped" in done.stdout


def test_a_catalogue_that_is_not_there_is_one_line_of_error(tmp_path: Path) -> None:
    done = training(tmp_path, "check", "nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("error: nowhere: not found, wanted a catalogue")
    assert "Traceback" not in done.stderr


def test_a_tag_that_is_not_there_names_what_to_do(tiny_home: Path, tmp_path: Path) -> None:
    done = training(tmp_path, "evaluate", "aisle-classifier:latest", str(tiny_home / "catalogue"))
    assert done.returncode == 1
    store = (tmp_path / "bentoml" / "models").resolve()
    wanted = f"the model store in {store} holds no aisle-classifier; make one: python -m training run CATALOG"
    assert wanted in done.stderr


def test_every_setting_of_training_is_listed(tmp_path: Path) -> None:
    done = training(tmp_path, "settings")
    assert all(name in done.stdout for name, _, _ in describe())
    assert "AISLE_TRACKING" in done.stdout
