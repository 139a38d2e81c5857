"""`training compare`, `search` and `fit --settings` on a whole shop of toy size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from training.runs import FILE
from training.search import SEARCHED

ROOT = Path(__file__).parent.parent


def training(home: Path, command: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training", command, str(home / "catalogue"), *words],
        cwd=ROOT,
        env={**os.environ, "AISLE_HOME": str(home), "BENTOML_HOME": str(home / "bentoml")},
        capture_output=True,
        text=True,
    )


def runs(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / FILE).read_text().splitlines()]


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
    *contenders, compared = runs(own_tiny_home)
    told = {line["settings"]["contender"]: line for line in contenders}
    assert set(told) == {"concat", "product", "tfidf_svm"}
    assert {line["parent"] for line in contenders} == {compared["run"]}
    assert compared["tags"]["chosen"] == report["chosen"]
    figures = report["contenders"]["concat"]
    assert told["concat"]["metrics"]["test.macro_f1.low"] == figures["test"]["macro_f1"]["low"]
    assert [told["concat"]["metrics"]["fold_macro_f1"]] == figures["fold_macro_f1"]


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
    *trials, whole = [run for run in runs(own_tiny_home) if run["kind"] in ("trial", "search")]
    best = max(trials, key=lambda trial: trial["metrics"]["best_validation_macro_f1"])
    assert [trial["parent"] for trial in trials] == [whole["run"], whole["run"]]
    assert whole["metrics"] == {"best_validation_macro_f1": best["metrics"]["best_validation_macro_f1"]}
    assert best["settings"] == {name: settings[name] for name in SEARCHED}
    done = training(own_tiny_home, "fit", "--settings", str(found), "--min-class", "2")
    assert done.returncode == 0, done.stderr
    version = done.stdout.split("aisle-classifier:")[-1].strip()
    folder = own_tiny_home / "bentoml" / "models" / "aisle-classifier" / version
    assert json.loads((folder / "card.json").read_text())["fit"] == settings
    assert json.loads((folder / "bundle.json").read_text())["fusion"]["variant"] == "weighted"
