"""Runs reach MLflow, from beside: whatever is wrong there, the training ends as it would without."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow_reader import told_runs

from aisle.child_process import dying_with_parent
from training.outbox import tracking_uri
from training.settings import Settings
from training.tracking import trackers

pytestmark = pytest.mark.timeout(900)  # processes that import MLflow, one after the other
ROOT = Path(__file__).parent.parent
# A run without the minute of work around it; a script with `run` in its hands follows.
RUN = """
import sys
from training.outbox import MlflowOutbox
from training.runs import open_run
from training.settings import Settings

with open_run([MlflowOutbox(Settings.from_environment())], "fit", {"seed": 3}) as run:
    print("begun", flush=True)
"""


def environment(home: Path, **variables: str) -> dict[str, str]:
    places = {"AISLE_HOME": str(home), "BENTOML_HOME": str(home / "bentoml"), "AISLE_TRACKING": "mlflow"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return {**kept, **places, "COLUMNS": "160", **variables}


def python(home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment(home, **variables),
        capture_output=True,
        text=True,
        check=False,
    )


def run(home: Path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return python(home, "-c", f"{RUN}    {script}", **variables)


def outbox(home: Path) -> list[Path]:
    return sorted((home / "tracking" / "outbox").rglob("*.jsonl"))


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
    return port


def settings(home: Path, **variables: str) -> Settings:
    return Settings.from_environment({"AISLE_HOME": str(home), **variables})


@pytest.fixture(scope="module")
def fitted(own_tiny_home: Path) -> dict[str, Any]:
    """What MLflow has of `training fit`, what the bundle says, and where it was."""
    words = ["-m", "training", "fit", str(own_tiny_home / "catalogue"), "--min-class", "2", "--seed", "3"]
    done = python(own_tiny_home, *words, "--tensorboard")
    assert done.returncode == 0, done.stderr[-3_000:]
    tag = done.stdout.split()[-1]
    folder = own_tiny_home / "bentoml" / "models" / tag.replace(":", "/")
    [told] = told_runs(own_tiny_home)
    card = json.loads((folder / "card.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    return {"told": told, "tag": tag, "card": card, "metrics": metrics, "home": own_tiny_home}


def test_a_run_is_named_and_tagged_by_its_bundle(fitted: dict[str, Any]) -> None:
    told = fitted["told"]
    assert told["status"] == "FINISHED"
    assert told["tags"]["bundle"] == fitted["tag"]
    assert told["name"] == fitted["tag"].partition(":")[2]


def test_its_figures_are_the_bundle_s(fitted: dict[str, Any]) -> None:
    told, metrics = fitted["told"], fitted["metrics"]
    assert told["metrics"]["fused.macro_f1"] == metrics["fused"]["macro_f1"]
    assert told["metrics"]["ece"] == metrics["ece"]
    assert "accepted_error" not in told["metrics"]  # nothing was accepted, so it was not measured
    assert metrics["accepted_error"] is None


def test_every_epoch_is_there(fitted: dict[str, Any]) -> None:
    history = fitted["card"]["history"]
    assert fitted["told"]["courses"]["train_loss"] == [epoch["train_loss"] for epoch in history]


def test_settings_data_and_surroundings_are_told(fitted: dict[str, Any]) -> None:
    told, card = fitted["told"], fitted["card"]
    assert (told["params"]["fit.seed"], told["params"]["min_class"]) == ("3", "2")
    assert told["tags"]["data_fingerprint"] == card["data"]["fingerprint"]
    assert told["datasets"] == [["products.csv", card["data"]["fingerprint"][:12]]]
    assert told["tags"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert told["tags"]["git_revision"] == card["git_revision"]


def test_its_pictures_and_papers_are_kept(fitted: dict[str, Any]) -> None:
    wanted = ["card.json", "metrics.json", "reliability.png", "risk-coverage.png"]
    assert fitted["told"]["files"] == wanted
    [kept] = (fitted["home"] / "tracking" / "artifacts").rglob("card.json")
    assert json.loads(kept.read_text()) == fitted["card"]


def test_tensorboard_has_the_curves(fitted: dict[str, Any]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [folder] = (fitted["home"] / "tracking" / "tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    losses = [event.value for event in events.Scalars("train_loss")]
    assert losses == pytest.approx([epoch["train_loss"] for epoch in fitted["card"]["history"]])
    assert "reliability.png" in events.Tags()["images"]


def test_mlflow_s_own_variable_names_another_place(tmp_path: Path) -> None:
    assert tracking_uri(settings(tmp_path), {}) == f"sqlite:///{tmp_path}/tracking/mlflow.db"
    assert tracking_uri(settings(tmp_path), {"MLFLOW_TRACKING_URI": "http://ml:5000"}) == "http://ml:5000"


def test_off_is_off(tmp_path: Path) -> None:
    found = trackers(settings(tmp_path, AISLE_TRACKING="off"))
    assert [type(tracker).__name__ for tracker in found] == ["RunsFile"]


def test_commands_do_not_import_it(tmp_path: Path) -> None:
    slow = "{'mlflow', 'tensorboard'}"
    done = python(tmp_path, "-c", f"import training.commands, sys; print({slow} & set(sys.modules))")
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


@pytest.fixture
def deaf_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield f"http://user:secret@127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_never_answers_is_one_warning(deaf_server: str, tmp_path: Path) -> None:
    done = run(tmp_path, "run.metrics({'f1': 0.5})", MLFLOW_TRACKING_URI=deaf_server)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("training is not affected") == 1
    assert "secret" not in done.stderr
    assert len(outbox(tmp_path)) == 1


@pytest.mark.long
def test_a_training_that_is_killed_is_told_as_killed_by_the_next(tmp_path: Path) -> None:
    """Its writer is killed with it, as where the machine goes down."""
    words = [sys.executable, "-c", f"{RUN}    run.epoch(0, {{'loss': 1.5}})\n    sys.stdin.read()"]
    with subprocess.Popen(
        words, cwd=ROOT, env=environment(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as killed:
        assert killed.stdout is not None
        killed.stdout.readline()
        for child in _children(killed.pid):
            os.kill(child, signal.SIGKILL)
        killed.kill()
    assert len(outbox(tmp_path)) == 1
    assert run(tmp_path, "run.metrics({'f1': 0.5})").returncode == 0
    statuses = {told["status"]: told for told in told_runs(tmp_path)}
    assert set(statuses) == {"KILLED", "FINISHED"}
    assert statuses["KILLED"]["courses"] == {"loss": [1.5]}


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.long
def test_a_server_that_was_away_is_told_later(tmp_path: Path) -> None:
    """The pages that `training ui` opens are those of a server, which others may be told to use."""
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    done = run(tmp_path, "run.metrics({'f1': 0.25})", MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 0
    assert done.stderr.count("training is not affected") == 1
    served = subprocess.Popen(
        dying_with_parent([sys.executable, "-m", "training", "ui", "--port", str(port)]),
        cwd=ROOT,
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(f"{uri}/health")
        assert "<title>MLflow" in httpx.get(uri).text
        again = run(tmp_path, "run.file('note.txt', b'told over HTTP')", MLFLOW_TRACKING_URI=uri)
        assert again.returncode == 0
        told = told_runs(tmp_path, uri)
    finally:
        os.killpg(served.pid, signal.SIGKILL)
        served.wait()
    assert [run["status"] for run in told] == ["FINISHED", "FINISHED"]
    assert {"f1": 0.25} in [run["metrics"] for run in told]
    assert [run["files"] for run in told] == [["note.txt"], []]
    assert [path.read_text() for path in tmp_path.rglob("note.txt")] == ["told over HTTP"]


def _wait_for(url: str) -> None:
    until = time.monotonic() + 600
    while time.monotonic() < until:
        with suppress(httpx.TransportError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"{url} does not answer")
