"""What is told twice is in MLflow once, and what it refuses stops nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = """
import sys

from mlflow_reader import print_runs
from training.mlflow_runs import MlflowRuns

records = [
    {"run": "a", "at_ms": 1_000, "begin": "search", "name": "search", "parent": "", "settings": {"seed": 3}},
    {"run": "b", "at_ms": 1_001, "begin": "trial", "name": "trial 0", "parent": "a", "settings": {}},
    {"run": "b", "at_ms": 1_002, "metrics": {"loss": 2.0}, "step": 0},
    {"run": "b", "at_ms": 1_003, "metrics": {"loss": 1.0}, "step": 1},
    {"run": "b", "at_ms": 1_004, "metrics": {"no name & for it": 1.0}, "step": 1},
    {"run": "b", "at_ms": 1_005, "metrics": {"loss": 0.5}, "step": 2},
    {"run": "b", "at_ms": 1_006, "end": "FINISHED"},
    {"run": "a", "at_ms": 1_007, "settings": {"seed": 4}},
    {"run": "a", "at_ms": 1_008, "tags": {"why": "é" * 900}},
]
for _ in range(2):
    runs = MlflowRuns()
    for record in records:
        runs.tell(record)
        if record["at_ms"] > 1_002:
            runs.flush()
    runs.close()
print(*runs.refused, sep="\\n")
print_runs(sys.argv[1])
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(runs by name, why records were refused) of SCRIPT."""
    home = tmp_path_factory.mktemp("home")
    uri = f"sqlite:///{home / 'mlflow.db'}"
    variables = {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONPATH": str(ROOT / "tests"),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, uri],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *refused, printed = done.stdout.strip().splitlines()
    runs = json.loads(printed)
    assert len(runs) == 2
    return {run["name"]: run for run in runs}, refused


def test_an_equal_metric_is_one(told: Any) -> None:
    assert told[0]["trial 0"]["courses"] == {"loss": [2.0, 1.0, 0.5]}


def test_what_is_refused_is_named_and_left_out(told: Any) -> None:
    name, setting = told[1]
    assert "no name & for it" in name
    assert "seed" in setting
    assert told[0]["search"]["params"] == {"seed": "3"}


def test_a_run_without_an_end_was_killed(told: Any) -> None:
    assert {name: run["status"] for name, run in told[0].items()} == {
        "search": "KILLED",
        "trial 0": "FINISHED",
    }


def test_a_child_stands_below_its_parent(told: Any) -> None:
    assert told[0]["trial 0"]["tags"]["mlflow.parentRunId"] == told[0]["search"]["id"]


def test_a_long_tag_is_cut(told: Any) -> None:
    assert told[0]["search"]["tags"]["why"] == "é" * 500
