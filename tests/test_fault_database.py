"""The ledger's database is locked, away, or its disk is full: answers go on, and none is missing later."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from live_server import LiveServer, free_port
from postgres import running_postgres
from redis_processes import SlowWire
from traffic import Traffic, doors_of

from aisle.ledger import WAIT_S, Ledger, ledger_url

FAULT_S = 8.0
RECOVERY_S = 15.0
DISK = "128m"
LABELS = {"labels": [{"product_id": "3", "category": "50"}]}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system of its own can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def server(stocked_home: Path, disk: Path) -> Iterator[LiveServer]:
    """Its ledger and its spool are on the small disk."""
    (disk / "spool").mkdir()
    with contextlib.suppress(FileNotFoundError):
        (stocked_home / "spool").rmdir()  # nothing waits in it
    (stocked_home / "spool").symlink_to(disk / "spool")
    server = LiveServer(stocked_home, workers=2, AISLE_DATABASE_URL=ledger_url(disk, ""))
    yield server
    server.stop()
    (stocked_home / "spool").unlink()


@contextmanager
def locked(file: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def full(disk: Path) -> Iterator[None]:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4_096))
    yield
    ballast.unlink()


def check_the_fault(
    server: LiveServer,
    fault: contextlib.AbstractContextManager[None],
    ledger: Ledger,
    figures: dict[str, float | str],
) -> httpx.Response:
    """Every door answers all along, as soon as before, and each answer is in the ledger in the end. What a
    label was answered with meanwhile."""
    recorded = ledger.count_predictions()
    with Traffic(doors_of(server)) as traffic:
        for door in traffic.doors:
            traffic.until_all(door.name, 200)
        well = time.monotonic()
        time.sleep(3)
        began = time.monotonic()
        with fault:
            label = server.client.post("/v1/labels", json=LABELS)
            time.sleep(max(0.0, began + FAULT_S - time.monotonic()))
            waiting = server.metrics()["aisle_ledger_waiting_records"]
        mended = time.monotonic()
        for door in traffic.doors:
            traffic.until_all(door.name, 200)
    assert {one.status for one in traffic.seen} == {200}
    names = [door.name for door in traffic.doors]
    traffic.check_latency(names, before=(well, began), during=(began, mended), figures=figures)
    assert waiting > 0
    while ledger.count_predictions() - recorded < len(traffic.seen):
        assert time.monotonic() - mended < RECOVERY_S
        time.sleep(0.05)
    assert ledger.count_predictions() - recorded == len(traffic.seen)
    assert server.metrics()['aisle_ledger_records_total{outcome="dropped"}'] == 0
    figures |= {"records that waited": waiting, "all recorded after, s": time.monotonic() - mended}
    return label


def check_refused(label: httpx.Response) -> None:
    assert (label.status_code, label.headers["Retry-After"]) == (503, "1")
    assert label.json()["error"]["reason"] == "ledger_unavailable"
    assert label.elapsed.total_seconds() < WAIT_S + 2


def test_a_database_that_is_away_delays_records_alone(
    stocked_home: Path, figures: dict[str, float | str]
) -> None:
    # Before those of `server`, because a home has one server at a time.
    with running_postgres() as url:
        wire_port = free_port()
        upstream_port = int(url.rpartition(":")[2].partition("/")[0])
        wire = SlowWire(wire_port, upstream_port, delay_s=0)

        @contextmanager
        def away() -> Iterator[None]:
            nonlocal wire
            wire.close()
            yield
            wire = SlowWire(wire_port, upstream_port, delay_s=0)

        through_wire = url.replace(str(upstream_port), str(wire_port))
        server = LiveServer(stocked_home, workers=2, AISLE_DATABASE_URL=through_wire)
        ledger = Ledger.open(url)
        try:
            check_refused(check_the_fault(server, away(), ledger, figures))
        finally:
            ledger.close()
            assert server.stop() == 0
            wire.close()


def test_a_database_that_is_locked_delays_records_alone(
    server: LiveServer, disk: Path, figures: dict[str, float | str]
) -> None:
    ledger = Ledger.open(ledger_url(disk, ""))
    check_refused(check_the_fault(server, locked(disk / "ledger.db"), ledger, figures))
    ledger.close()


def test_a_disk_that_is_full_delays_records_alone(
    server: LiveServer, disk: Path, figures: dict[str, float | str]
) -> None:
    ledger = Ledger.open(ledger_url(disk, ""))
    labels = ledger.count_labels()
    label = check_the_fault(server, full(disk), ledger, figures)
    if label.status_code != 200:  # the database's file may have had room left for one
        check_refused(label)
    assert ledger.count_labels() - labels == int(label.status_code == 200)
    ledger.close()
