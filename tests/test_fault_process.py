"""A worker is killed, the model's files are ruined, the server is stopped, the clock is set: what clients of
every door see meanwhile."""

from __future__ import annotations

import base64
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from live_server import LiveServer
from moving_clock import MovingClock
from traffic import PHOTO, Traffic, doors_of

from aisle.ledger import Ledger, ledger_url
from service.drain import LINGER_S

PHOTO_TEXT = base64.b64encode(PHOTO).decode()
HTTP = ("ids", "text", "photo", "oip")
GRPC = ("grpc", "grpc ids")
RESTART_S = 60.0  # BentoML looks every ten seconds, and a worker takes its time to load


@pytest.fixture(scope="module")
def server(stocked_home: Path) -> Iterator[LiveServer]:
    # A busy machine may read the store late, and ids alone get 503: that is another test's matter.
    server = LiveServer(stocked_home, workers=2, AISLE_FEATURES_DEADLINE_S="5")
    yield server
    server.stop()


def until(true: Callable[[], bool], timeout_s: float) -> float:
    """Seconds until it is."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < timeout_s
        time.sleep(0.05)
    return time.monotonic() - started


def is_ready(worker: psutil.Process, port: int) -> bool:
    """A worker takes gRPC calls when it has loaded its model."""
    try:
        held = worker.net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in held)


def ready_workers(server: LiveServer) -> set[int]:
    return {pid for pid, worker in server.workers().items() if is_ready(worker, server.grpc_port)}


def failures(traffic: Traffic, doors: tuple[str, ...], since: float = 0.0) -> Counter[int | str]:
    """What clients saw besides an answer."""
    seen = sum((traffic.counts(door, since=since) for door in doors), Counter())
    del seen[200]
    return seen


def all_well(traffic: Traffic) -> None:
    for door in traffic.doors:
        traffic.until_all(door.name, 200)


def test_a_worker_that_is_killed_costs_what_it_had_in_flight(
    server: LiveServer, stocked_home: Path, figures: dict[str, float | str]
) -> None:
    until(lambda: len(ready_workers(server)) == 2, RESTART_S)
    with Traffic(doors_of(server), clients=2) as traffic:
        all_well(traffic)
        victim, other = sorted(ready_workers(server))
        killed = time.monotonic()
        server.workers()[victim].kill()
        restarted = until(lambda: len(ready_workers(server) - {victim}) == 2, RESTART_S)
        back = time.monotonic()
        all_well(traffic)
    assert other in ready_workers(server)
    over_http, over_grpc = failures(traffic, HTTP), failures(traffic, GRPC)
    figures |= {"requests": len(traffic.seen), "failed over HTTP": over_http.total()}
    figures |= {"failed over gRPC": over_grpc.total(), "two workers again after, s": restarted}
    lost = [one.ended_s - killed for one in traffic.seen if one.status != 200]
    figures["last failure after, s"] = max(lost, default=0.0)
    # A client has one request in flight, and loses at most that one; 503 is gRPC's UNAVAILABLE.
    assert set(over_http) <= {"ConnectionResetError", "IncompleteReadError", "BrokenPipeError"}
    assert over_http.total() <= 2 * len(HTTP)
    assert set(over_grpc) <= {503}
    assert over_grpc.total() <= 2 * len(GRPC)
    assert not failures(traffic, HTTP + GRPC, since=back)


def test_gauges_of_a_killed_worker_are_forgotten(server: LiveServer, stocked_home: Path) -> None:
    # After the test that kills one.
    folder = stocked_home / "bentoml" / "prometheus_multiproc_dir"
    owners = {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_live*_*.db")}
    assert owners == set(server.workers())
    assert [value for name, value in server.metrics().items() if name.startswith("aisle_model_info")] == [1]


def answers(server: LiveServer) -> list[Any]:
    """Of a text and of a picture, as either worker gives them."""
    body = {"products": [{"title": "train bois rouge"}, {"image": PHOTO_TEXT}]}
    told = []
    for _ in range(8):
        results = server.classify(**body).json()["results"]
        told.append([(one["category"]["code"], round(one["confidence"], 5)) for one in results])
    return told


def ruin(folder: Path) -> None:
    """Every other file is cut to half, the others are deleted."""
    for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        if number % 2:
            file.unlink()
        else:
            with file.open("r+b") as opened:
                opened.truncate(file.stat().st_size // 2)


def test_a_model_that_is_in_service_survives_its_files(
    server: LiveServer, stocked_home: Path, tmp_path: Path, figures: dict[str, float | str]
) -> None:
    models = stocked_home / "bentoml" / "models"
    shutil.copytree(models, tmp_path / "models")
    until(lambda: len(ready_workers(server)) == 2, RESTART_S)
    before, workers = answers(server), ready_workers(server)
    with Traffic(doors_of(server)) as traffic:
        all_well(traffic)
        ruin(models)
        ruined = time.monotonic()
        all_well(traffic)
        assert answers(server) == before
        assert ready_workers(server) == workers
        # A worker that has to read them ends, and says why; the other goes on.
        victim = min(workers)
        server.workers()[victim].kill()
        said = until(lambda: "this worker cannot start: " in server.log.read_text(), RESTART_S)
        time.sleep(1)
        went_on = time.monotonic()
        all_well(traffic)
        assert answers(server) == before
        shutil.rmtree(models)
        shutil.copytree(tmp_path / "models", models)
        mended = until(lambda: len(ready_workers(server)) == 2, RESTART_S)
    assert answers(server) == before
    assert "aisle-classifier" in server.log.read_text().partition("this worker cannot start: ")[2][:200]
    figures |= {"requests since": len([one for one in traffic.seen if one.sent_s >= ruined])}
    figures |= {"told why after, s": said, "two workers again after mending, s": mended}
    assert not failures(traffic, HTTP + GRPC, since=went_on)


def test_what_has_arrived_is_answered_before_the_server_ends(
    server: LiveServer, figures: dict[str, float | str]
) -> None:
    # The last test of `server`: it stops it.
    until(lambda: len(ready_workers(server)) == 2, RESTART_S)
    with Traffic(doors_of(server), clients=2) as traffic:
        all_well(traffic)
        stopped = time.monotonic()
        status = server.stop()
        took = time.monotonic() - stopped
    failed = [one for one in traffic.seen if one.status != 200]
    answered = [one for one in traffic.seen if one.status == 200 and one.ended_s >= stopped]
    first = min(one.sent_s for one in failed) - stopped
    figures |= {"answered after SIGTERM": len(answered), "ended after, s": took}
    figures["first refused request sent after, s"] = first
    assert status == 0
    assert took < 20
    assert first > LINGER_S - 0.1  # what had arrived, and what arrived while clients were told to leave
    assert {one.status for one in failed} <= {
        *("ConnectionResetError", "ConnectionRefusedError", "IncompleteReadError", "BrokenPipeError"),
        503,
        "ConnectionError",  # over gRPC: CANCELLED, of a call that began too late
    }
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)


def test_a_clock_that_is_set_costs_nothing(
    stocked_home: Path, tmp_path: Path, figures: dict[str, float | str]
) -> None:
    clock = MovingClock(tmp_path)
    server = LiveServer(stocked_home, workers=2, **clock.environ)
    ledger = Ledger.open(ledger_url(stocked_home, ""))
    recorded = ledger.count_predictions()  # by the server before
    try:
        with Traffic(doors_of(server), clients=2) as traffic:
            all_well(traffic)
            began = time.monotonic()
            time.sleep(3)
            moves = []
            for hours in (1, -1, 24 * 400, 0):
                moves.append(time.monotonic())
                clock.move(3600 * hours)
                time.sleep(3)
            ended = time.monotonic()
            all_well(traffic)
        time.sleep(3)  # records are written behind their answers
        moments = [record.at_s for record in ledger.predictions(after=recorded, limit=1_000_000)]
    finally:
        assert server.stop() == 0
        ledger.close()
    assert not failures(traffic, HTTP + GRPC)
    traffic.check_latency(HTTP, before=(began, moves[0]), during=(moves[0], ended), figures=figures)
    # The clock was really another for the server: its records say so. None is lost.
    assert len(moments) == len(traffic.seen)
    assert {1, -1, 24 * 400} <= {round((at_s - time.time()) / 3600) for at_s in moments}
