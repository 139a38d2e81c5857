"""`training compare`, `search` and `fit --settings` on a whole shop of toy size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from mlflow_reader import told_runs

from training.runs import FILE
from training.search import SEARCHED

ROOT = Path(__file__).parent.parent


def training(home: Path, command: str, *words: str) -> subprocess.CompletedProcess[str]:
    places = {"AISLE_HOME": str(home), "BENTOML_HOME": str(home / "bentoml")}
    return subprocess.run(
        [sys.executable, "-m", "training", command, str(home / "catalogue"), *words],
        cwd=ROOT,
        env={**os.environ, **places, "AISLE_TRACKING": "mlflow"},
        capture_output=True,
        text=True,
    )


def test_compare_says_which_head_to_take(own_tiny_home: Path, tmp_path: Path) -> None:
    options = [
        "--min-class",
        "2",
        "--folds",
        "0",
        "--only",
        "tfidf_svm,concat,product",
        "--out",
        str(tmp_path),
    ]
    done = training(own_tiny_home, "compare", *options)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "compare.json").read_text())
    assert set(report["contenders"]) == {"tfidf_svm", "concat", "product"}
    assert report["chosen"] in ("concat", "product")
    assert (tmp_path / "compare.png").is_file()
    lines = [json.loads(line) for line in (own_tiny_home / FILE).read_text().splitlines()]
    assert {line["settings"].get("contender") for line in lines} == {"concat", "product", "tfidf_svm", None}
    runs = {run["name"]: run for run in told_runs(own_tiny_home)}
    compared = runs.pop("compare")
    assert set(runs) == {"concat", "product", "tfidf_svm"}
    assert {run["tags"]["mlflow.parentRunId"] for run in runs.values()} == {compared["id"]}
    assert compared["tags"]["chosen"] == report["chosen"]
    assert compared["files"] == ["compare.json", "compare.png"]
    figures = report["contenders"]["concat"]
    assert runs["concat"]["metrics"]["test.macro_f1.low"] == figures["test"]["macro_f1"]["low"]
    assert runs["concat"]["courses"]["fold_macro_f1"] == figures["fold_macro_f1"]


def test_an_unknown_contender_is_named(own_tiny_home: Path) -> None:
    done = training(own_tiny_home, "compare", "--only", "resnet")
    assert done.returncode == 1
    assert "contenders: found 'resnet', wanted some of tfidf_svm, gru, text" in " ".join(done.stderr.split())


def test_fit_takes_what_search_found(own_tiny_home: Path, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    options = ["--variant", "weighted", "--trials", "2", "--min-class", "2", "--out", str(found)]
    done = training(own_tiny_home, "search", *options)
    assert done.returncode == 0, done.stderr
    settings = json.loads(found.read_text())
    runs = {run["name"]: run for run in told_runs(own_tiny_home)}
    trials = [runs["trial 0"], runs["trial 1"]]
    scores = [trial["metrics"]["best_validation_macro_f1"] for trial in trials]
    assert runs["search"]["metrics"]["best_validation_macro_f1"] == max(scores)
    best = trials[scores.index(max(scores))]["params"]
    assert {name: best[name] for name in SEARCHED} == {name: str(settings[name]) for name in SEARCHED}
    done = training(own_tiny_home, "fit", "--settings", str(found), "--min-class", "2")
    assert done.returncode == 0, done.stderr
    version = done.stdout.split("aisle-classifier:")[-1].strip()
    folder = own_tiny_home / "bentoml" / "models" / "aisle-classifier" / version
    assert json.loads((folder / "card.json").read_text())["fit"] == settings
    assert json.loads((folder / "bundle.json").read_text())["fusion"]["variant"] == "weighted"
