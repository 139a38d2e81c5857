"""The online store dies, hangs, is emptied, is slow: what clients of every door see meanwhile, and how long
until all is well again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from live_server import LiveServer, free_port
from redis_processes import OwnRedis, SlowWire
from traffic import STORED_ID, Traffic, doors_of

COMPUTED = ("text", "photo", "oip", "grpc")  # doors that send what can be computed without the store
BY_ID = ("ids", "grpc ids")
FAULT_S = 3.0
RECOVERY_S = 5.0 + 1.5  # the breaker's longest pause, and the time to see it


@pytest.fixture(scope="module")
def redis(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnRedis]:
    """With what the shop has published."""
    folder = tmp_path_factory.mktemp("redis") / "data"
    shutil.copytree(tiny_home / "redis", folder, ignore=shutil.ignore_patterns("*.lock", "port", "*.log"))
    redis = OwnRedis(folder, free_port())
    yield redis
    redis.go_on()
    redis.kill()


@pytest.fixture(scope="module")
def server(own_tiny_home: Path, redis: OwnRedis) -> Iterator[LiveServer]:
    server = LiveServer(own_tiny_home, workers=2, AISLE_REDIS_URL=redis.url, AISLE_WRITE_BACK="0")
    yield server
    server.stop()


def all_well(traffic: Traffic) -> float:
    """The moment from which on every door was."""
    return max(traffic.until_all(door.name, 200) for door in traffic.doors)


def check_the_fault(
    traffic: Traffic, well: float, since: float, until: float, figures: dict[str, float | str]
) -> None:
    """Who could be computed was answered, as soon as before but for the deadline of a read; ids alone were
    told to come back, and soon."""
    for door in COMPUTED:
        assert traffic.statuses(door, since=since, until=until) == {200}, door
    for door in BY_ID:
        seen = traffic.counts(door, since=since, until=until)
        assert set(seen) <= {200, 503}, (door, seen)
        assert seen[503] > 0.9 * seen.total(), (door, seen)
    spans = {"before": (well, well + FAULT_S), "during": (since, until)}
    of_ids: dict[str, float | str] = {}
    traffic.check_latency(BY_ID, **spans, figures=of_ids)
    traffic.check_latency(COMPUTED, **spans, figures=figures)
    figures["ids p99 during, s"] = of_ids["p99 during, s"]


def check_the_recovery(traffic: Traffic, mended: float, figures: dict[str, float | str]) -> None:
    """By itself, and soon."""
    recovered = max(traffic.until_all(door, 200, timeout_s=RECOVERY_S + 5) for door in BY_ID) - mended
    figures["recovered after, s"] = recovered
    figures["requests"] = len(traffic.seen)
    assert recovered < RECOVERY_S


def test_a_redis_that_is_killed_costs_ids_alone_and_nothing_else(
    server: LiveServer, redis: OwnRedis, figures: dict[str, float | str]
) -> None:
    with Traffic(doors_of(server)) as traffic:
        well = all_well(traffic)
        time.sleep(FAULT_S)
        killed = time.monotonic()
        redis.kill()
        time.sleep(FAULT_S)
        answer = server.classify([{"product_id": STORED_ID}])
        redis.start()
        mended = time.monotonic()
        check_the_recovery(traffic, mended, figures)
    check_the_fault(traffic, well, killed, mended, figures)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json()["error"]["reason"] == "features_unavailable"


def test_a_redis_that_hangs_costs_its_deadline_a_few_times(
    server: LiveServer, redis: OwnRedis, figures: dict[str, float | str]
) -> None:
    with Traffic(doors_of(server)) as traffic:
        well = all_well(traffic)
        time.sleep(FAULT_S)
        hung = time.monotonic()
        redis.hang()
        time.sleep(FAULT_S)
        redis.go_on()
        mended = time.monotonic()
        check_the_recovery(traffic, mended, figures)
    check_the_fault(traffic, well, hung, mended, figures)


def test_a_redis_that_takes_200_ms_is_as_one_that_is_away(
    server: LiveServer, redis: OwnRedis, figures: dict[str, float | str]
) -> None:
    other = free_port()
    with Traffic(doors_of(server)) as traffic:
        well = all_well(traffic)
        time.sleep(FAULT_S)
        redis.kill()
        redis.start(other)
        wire = SlowWire(redis.port, other, delay_s=0.2)
        traffic.until_all("ids", 503)
        slow = time.monotonic()
        time.sleep(FAULT_S)
        wire.close()
        redis.kill()
        redis.start()
        mended = time.monotonic()
        check_the_recovery(traffic, mended, figures)
    check_the_fault(traffic, well, slow, mended, figures)


def test_an_emptied_redis_knows_no_id_and_fails_nothing(
    server: LiveServer, redis: OwnRedis, figures: dict[str, float | str]
) -> None:
    # The last test of `redis`: what it held is gone.
    with Traffic(doors_of(server)) as traffic:
        all_well(traffic)
        redis.empty()
        emptied = time.monotonic() + 0.1  # what was read before is answered
        traffic.until_all("ids", 422)
        time.sleep(FAULT_S)
    for door in COMPUTED:
        assert traffic.statuses(door) == {200}, door
    assert traffic.statuses("ids", since=emptied) == {422}
    figures["requests"] = len(traffic.seen)
    answer = httpx.post(f"{server.url}/v1/classify", json={"products": [{"product_id": STORED_ID}]})
    assert answer.json()["error"]["reason"] == "nothing_known"
