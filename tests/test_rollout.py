"""Models change under traffic, on a real server with two workers: no request fails, none mixes models."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from clients import Clients
from live_server import ROOT, LiveServer, free_port

from aisle.ledger import Ledger, ledger_url

REGISTER = """
import shutil, sys
from pathlib import Path
from aisle import store
scratch = Path(sys.argv[1])
shutil.copytree(store.find(store.LATEST), scratch)
for version in sys.argv[2:]:
    store.save_bundle(scratch, version, {})
"""

CLIENTS = 4
SHADOWED = 10


@pytest.fixture(scope="module")
def server(rollout_home: Path) -> Iterator[LiveServer]:
    server = LiveServer(rollout_home, workers=2, AISLE_MAX_BATCH="8")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def ledger(rollout_home: Path) -> Ledger:
    return Ledger.open(ledger_url(rollout_home, ""))


def run(home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    places = {"AISLE_HOME": str(home), "BENTOML_HOME": str(home / "bentoml")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **places, "COLUMNS": "400", **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def cli(home: Path, *arguments: str) -> str:
    done = run(home, "-m", "service", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def rollout_home(own_tiny_home: Path) -> Path:
    done = run(own_tiny_home, "-c", REGISTER, str(own_tiny_home / "copy"), "second", "third")
    assert done.returncode == 0, done.stderr
    return own_tiny_home


def ask(server: LiveServer) -> tuple[int, str]:
    """Status and model of an answer."""
    products = {"products": [{"title": "wooden train"}] * 3}
    response = httpx.post(f"{server.url}/v1/classify", json=products, timeout=30)
    return response.status_code, response.json().get("model", "")


def models_of_the_last(clients: Clients[tuple[int, str]], answers: int) -> set[str]:
    seen = len(clients.seen)
    while len(clients.seen) < seen + answers:
        assert not clients.failures
        time.sleep(0.01)
    return {model for _, model in clients.seen[-answers:]}


def until_all_serve(clients: Clients[tuple[int, str]], model: str, timeout_s: float) -> float:
    """Seconds until both workers answer with `model`."""
    started = time.monotonic()
    while models_of_the_last(clients, 40) != {model}:
        assert time.monotonic() - started < timeout_s
    return time.monotonic() - started


def test_serving_begins_with_the_newest_model_and_writes_it_down(
    rollout_home: Path, server: LiveServer, ledger: Ledger
) -> None:
    [first] = ledger.deployments()
    assert (first.model, first.reason) == ("aisle-classifier:third", "the newest model when serving began")
    assert server.classify([{"title": "train"}]).json()["model"] == "aisle-classifier:third"
    assert "aisle-classifier:third" in cli(rollout_home, "deployments")


def test_promotion_and_rollback_reach_both_workers_and_fail_no_request(
    rollout_home: Path, server: LiveServer
) -> None:
    with Clients([partial(ask, server)] * CLIENTS) as clients:
        out = cli(rollout_home, "promote", "second", "--reason", "a test")
        assert "aisle-classifier:second is the champion from now on" in out
        assert until_all_serve(clients, "aisle-classifier:second", 15) < 10
        assert "aisle-classifier:third is the champion again" in cli(rollout_home, "rollback")
        until_all_serve(clients, "aisle-classifier:third", 15)
    assert clients.failures == []
    assert {status for status, _ in clients.seen} == {200}
    assert {model for _, model in clients.seen} == {"aisle-classifier:second", "aisle-classifier:third"}
    served = [
        (name, value) for name, value in server.metrics().items() if name.startswith("aisle_model_info")
    ]
    assert sorted(value for _, value in served) == [0, 1]


def until(server: LiveServer, wanted: Callable[[dict[str, float]], bool]) -> None:
    """Wait until the metrics are as wanted."""
    deadline = time.monotonic() + 15
    while not wanted(server.metrics()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def followed(server: LiveServer) -> float:
    return server.metrics()['aisle_model_swaps_total{outcome="done"}']


def test_a_canary_answers_its_products_at_both_workers_until_it_is_withdrawn(
    rollout_home: Path, server: LiveServer
) -> None:
    before = followed(server)
    challenge = ("challenge", "second", "--mode", "canary", "--share", "0.5", "--reason", "a test")
    out = cli(rollout_home, *challenge)
    assert "aisle-classifier:second is the challenger from now on: canary of 50.0%" in out
    until(server, lambda metrics: metrics['aisle_model_swaps_total{outcome="done"}'] == before + 2)
    its = {f"canary-{number}" for number in range(6)}
    for _ in range(4):  # each by a connection of its own: both workers are asked
        for product_id in (f"canary-{number}" for number in range(8)):
            product = {"product_id": product_id, "title": "train bois"}
            model = server.classify([product]).json()["model"].partition(":")[2]
            assert model == ("second" if product_id in its else "third"), product_id
    metrics = server.metrics()
    assert metrics['aisle_challenger_products_total{mode="canary"}'] == 4 * len(its)
    assert "challenger, canary of 50.0%" in cli(rollout_home, "deployments")
    assert "aisle-classifier:second challenges no more" in cli(rollout_home, "withdraw")
    until(server, lambda metrics: metrics['aisle_model_swaps_total{outcome="done"}'] == before + 4)
    answer = server.classify([{"product_id": "canary-1", "title": "train bois"}]).json()
    assert answer["model"] == "aisle-classifier:third"


def test_a_shadow_answers_into_the_ledger_alone(
    rollout_home: Path, server: LiveServer, ledger: Ledger
) -> None:
    before = followed(server)
    cli(rollout_home, "challenge", "second", "--mode", "shadow", "--share", "1")
    until(server, lambda metrics: metrics['aisle_model_swaps_total{outcome="done"}'] == before + 2)
    for number in range(SHADOWED):
        answer = server.classify([{"product_id": f"shadow-{number}", "title": "livre roman"}]).json()
        assert answer["model"] == "aisle-classifier:third"
    until(server, lambda metrics: metrics['aisle_challenger_products_total{mode="shadow"}'] == SHADOWED)
    # They are copies of one model: what was shared gives the very same answers.
    assert server.metrics()["aisle_challenger_disagreements_total"] == 0
    cli(rollout_home, "withdraw")
    until(server, lambda metrics: metrics['aisle_model_swaps_total{outcome="done"}'] == before + 4)


def test_a_champion_cannot_challenge_itself(rollout_home: Path, server: LiveServer) -> None:
    done = run(rollout_home, "-m", "service", "challenge", "third")
    assert done.returncode == 2
    assert "found aisle-classifier:third, the champion, wanted another model" in done.stderr


def test_what_cannot_be_served_is_refused_by_the_command(rollout_home: Path) -> None:
    done = run(rollout_home, "-m", "service", "promote", "fourth")
    assert done.returncode == 2
    assert "aisle-classifier:fourth: not in the model store" in done.stderr


def refused(home: Path, *arguments: str, **environ: str) -> str:
    """What `service serve` says when it ends at once."""
    done = run(home, "-m", "service", "serve", *arguments, **environ)
    assert done.returncode == 2, done.stderr
    return " ".join(done.stderr.split())


def test_a_second_service_on_one_model_store_is_refused_and_the_first_keeps_its_metrics(
    rollout_home: Path, server: LiveServer
) -> None:
    said = refused(rollout_home, "--port", str(free_port()))
    assert "on which a service runs already" in said
    assert "aisle_model_info" in server.client.get("/metrics").text


def test_a_port_that_is_taken_is_refused(rollout_home: Path, server: LiveServer) -> None:
    said = refused(rollout_home, "--port", str(server.port))
    assert f"--port: found {server.port} on 127.0.0.1" in said
    assert "Address already in use" in said


def test_a_fixed_model_that_is_damaged_is_refused(rollout_home: Path, tmp_path: Path) -> None:
    store = tmp_path / "bentoml"
    shutil.copytree(rollout_home / "bentoml" / "models", store / "models")
    weights = store / "models" / "aisle-classifier" / "third" / "head.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    said = refused(
        rollout_home,
        "--port",
        str(free_port()),
        AISLE_MODEL="aisle-classifier:third",
        BENTOML_HOME=str(store),
    )
    assert "no model can be served: aisle-classifier:third" in said
    assert weights.name in said


def test_a_damaged_model_is_refused_by_the_workers_and_the_champion_stays(
    rollout_home: Path, server: LiveServer, ledger: Ledger
) -> None:
    weights = rollout_home / "bentoml" / "models" / "aisle-classifier" / "second" / "head.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    ledger.deploy("aisle-classifier:second", "a damaged one")
    deadline = time.monotonic() + 15
    while len(refusals := ledger.events("deploy.refused")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert {event.detail["model"] for event in refusals} == {"aisle-classifier:second"}
    assert "head.safetensors" in refusals[0].detail["why"]
    assert len({event.detail["worker"] for event in refusals}) == 2
    assert server.classify([{"title": "train"}]).json()["model"] == "aisle-classifier:third"
    assert server.metrics()['aisle_model_swaps_total{outcome="refused"}'] == 2


def test_answers_are_in_the_ledger_and_can_be_labelled(server: LiveServer, ledger: Ledger) -> None:
    answer = server.classify([{"title": "un petit train en bois", "product_id": "ledger-1"}]).json()
    [result] = answer["results"]
    deadline = time.monotonic() + 10
    while not ledger.has_prediction([result["prediction_id"]]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    label = {"prediction_id": result["prediction_id"], "category": "50"}
    assert server.client.post("/v1/labels", json={"labels": [label]}).json() == {
        "results": [{"recorded": True, "new": True, "in_taxonomy": True}]
    }
    [labelled] = ledger.labelled_predictions()
    assert labelled.prediction.product_id == "ledger-1"
    assert labelled.prediction.model == answer["model"]
    assert labelled.prediction.category == result["category"]["code"]
    assert labelled.prediction.columns.language == "fr"
    metrics = server.metrics()
    assert metrics['aisle_ledger_records_total{outcome="dropped"}'] == 0
    # What a shadow said is written down, and is no answer.
    assert metrics['aisle_ledger_records_total{outcome="written"}'] == ledger.count_predictions() + SHADOWED
    assert metrics["aisle_labels_total"] == 1
