"""What an MLflow store holds, read with MLflow's own client in a process of its own: importing it is slow,
and warns of what is deprecated.

`python tests/mlflow_reader.py URI` prints the runs as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def told_runs(home: Path, uri: str = "") -> list[dict[str, Any]]:
    """All runs of a shop, the newest first, once nothing waits to be told."""
    outbox = home / "tracking" / "outbox"
    for _ in range(1_200):
        if not list(outbox.rglob("*.jsonl")):
            break
        time.sleep(0.1)
    assert not list(outbox.rglob("*.jsonl")), [log.read_text() for log in outbox.rglob("*.log")]
    done = subprocess.run(
        [sys.executable, __file__, uri or f"sqlite:///{home / 'tracking' / 'mlflow.db'}"],
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def print_runs(uri: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    print(json.dumps([_facts(client, run) for run in client.search_runs(experiments)]))


def _facts(client: Any, run: Any) -> dict[str, Any]:
    key = run.info.run_id
    courses = {
        name: sorted(client.get_metric_history(key, name), key=lambda metric: metric.step)
        for name in run.data.metrics
    }
    return {
        "id": key,
        "name": run.info.run_name,
        "status": run.info.status,
        "params": run.data.params,
        "tags": run.data.tags,
        "metrics": run.data.metrics,
        "courses": {name: [metric.value for metric in course] for name, course in courses.items()},
        "files": sorted(file.path for file in client.list_artifacts(key)),
        "datasets": [[used.dataset.name, used.dataset.digest] for used in run.inputs.dataset_inputs],
    }


if __name__ == "__main__":
    print_runs(sys.argv[1])
