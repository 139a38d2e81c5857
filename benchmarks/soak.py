"""`make soak`: a long mixed load on a real server, whose memory must stay level.

Good requests on every door, hostile ones (benchmarks/hostile.py), and clients that leave halfway. What the
workers hold (PSS: shared pages count in part) is sampled; the first third of the time is warm-up, and the
median of the last third may be at most GROWTH above the median of the second.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil

from benchmarks.fuzz import failures, good_answer, send_grpc, send_http
from benchmarks.grpc_connection import GrpcConnection
from benchmarks.hostile import ATTEMPTS, CLASSIFY, HOST, INFER, RIGHT_MESSAGES
from benchmarks.load import Client, Connection, percentile, request_bytes
from benchmarks.products import make_products
from benchmarks.servers import Server, aisle_service, running
from service.protos import classifier_pb2 as pb

MINUTES = 30.0
SEED = 27
SAMPLE_S = 2.0
GROWTH = 0.05
LATE_SHARE = 0.001  # of ids alone that may get 503: a busy machine does not read in time
PAUSE_S = 0.01  # of a good client, between an answer and its next request
HOSTILE_PAUSE_S = 0.05
OUT = Path("out") / "soak.json"


@dataclass(kw_only=True)
class Records:
    """What clients saw, and what the workers held: seconds since the beginning, bytes."""

    answers: Counter[str] = field(default_factory=Counter)  # "door status"
    latencies_s: list[float] = field(default_factory=list)  # of good requests
    faults: list[str] = field(default_factory=list)
    hostile: int = 0
    left: int = 0
    memory: list[tuple[float, int]] = field(default_factory=list)


def good_requests(server: Server) -> dict[str, tuple[Callable[[], Client], list[bytes]]]:
    """By door: how to connect, and requests that differ."""
    products = make_products(48)
    flat = [
        {
            "product_id": one.product_id,
            "title": one.title,
            "description": one.description,
            "image": base64.b64encode(one.image or b"").decode(),
        }
        for one in products
    ]
    texts = [{"products": [{"title": one["title"], "description": one["description"]}]} for one in flat]
    tensor = {"name": "title", "shape": [1], "datatype": "BYTES"}
    messages = [
        pb.ClassifyRequest(products=[pb.Product(title=one.title, image=one.image)]) for one in products
    ]

    def http() -> Client:
        return Connection(HOST, server.port)

    def over_grpc() -> Client:
        return GrpcConnection(HOST, server.other_port, "/aisle.v1.Classifier/Classify")

    def posts(path: str, bodies: Sequence[Any]) -> list[bytes]:
        return [request_bytes(HOST, path, json.dumps(body).encode()) for body in bodies]

    return {
        "photo": (http, posts(CLASSIFY, [{"products": [one]} for one in flat])),
        "text": (http, posts(CLASSIFY, texts)),
        "ids": (http, posts(CLASSIFY, [{"products": [{"product_id": one["product_id"]}]} for one in flat])),
        "bulk": (http, posts(CLASSIFY, [{"products": [dict(one, image=None) for one in flat[:32]]}])),
        "oip": (http, posts(INFER, [{"inputs": [{**tensor, "data": [one["title"]]}]} for one in flat])),
        "grpc": (over_grpc, [message.SerializeToString() for message in messages]),
    }


async def ask(
    door: str, connect: Callable[[], Client], requests: Sequence[bytes], until: float, records: Records
) -> None:
    client, number = connect(), 0
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            status = str((await client.send(requests[number % len(requests)]))[0])
        except (OSError, EOFError, ValueError) as error:
            status = type(error).__name__
            client.close()
        records.answers[f"{door} {status}"] += 1
        records.latencies_s.append(time.monotonic() - began)
        number += 1
        await asyncio.sleep(PAUSE_S)
    client.close()


async def attack(server: Server, until: float, records: Records) -> None:
    """One hostile request after the other, on each door in turn."""
    doors = [*ATTEMPTS, *RIGHT_MESSAGES]
    async with grpc.aio.insecure_channel(f"{HOST}:{server.other_port}") as channel:
        while time.monotonic() < until:
            door, number = doors[records.hostile % len(doors)], records.hostile
            records.hostile += 1
            if door in RIGHT_MESSAGES:
                _, fault = await send_grpc(channel, door, SEED, number)
            else:
                _, fault = await send_http(server.port, door, SEED, number)
            if fault is not None:
                records.faults.append(f"{door} {number}: {fault}")
            await asyncio.sleep(HOSTILE_PAUSE_S)


async def leave(server: Server, requests: Sequence[bytes], until: float, records: Records) -> None:
    """Ask, and go before the answer; half of the time before all is asked."""
    chance = random.Random(SEED)
    while time.monotonic() < until:
        request = chance.choice(requests)
        _, writer = await asyncio.open_connection(HOST, server.port)
        writer.write(request[: chance.randint(1, len(request))] if chance.random() < 0.5 else request)
        await asyncio.sleep(chance.uniform(0, 0.1))
        writer.close()
        records.left += 1


async def sample(pid: int, began: float, until: float, records: Records) -> None:
    while time.monotonic() < until:
        held = await asyncio.to_thread(held_bytes, pid)
        records.memory.append((time.monotonic() - began, held))
        await asyncio.sleep(SAMPLE_S)


def held_bytes(pid: int) -> int:
    """Of a server's workers: shared pages count in part."""
    workers = [
        process
        for process in psutil.Process(pid).children(recursive=True)
        if any("_bentoml_impl.worker.service" in word for word in process.cmdline())
    ]
    return sum(worker.memory_full_info().pss for worker in workers)


async def soak(server: Server, seconds: float) -> Records:
    records, requests = Records(), good_requests(server)
    began = time.monotonic()
    until = began + seconds
    good = [ask(door, *how, until, records) for door, how in requests.items()]
    leaving = [one for door in ("photo", "bulk") for one in requests[door][1]]
    await asyncio.gather(
        sample(server.pid, began, until, records),
        attack(server, until, records),
        leave(server, leaving, until, records),
        *good,
    )
    return records


def levels(memory: Sequence[tuple[float, int]], seconds: float) -> tuple[float, float]:
    """Medians of the second and of the last third."""
    second = [held for at_s, held in memory if seconds / 3 <= at_s < 2 * seconds / 3]
    last = [held for at_s, held in memory if at_s >= 2 * seconds / 3]
    return statistics.median(second), statistics.median(last)


def told(records: Records, seconds: float) -> dict[str, Any]:
    second, last = levels(records.memory, seconds)
    ordered = sorted(records.latencies_s)
    return {
        "minutes": seconds / 60,
        "answers": dict(sorted(records.answers.items())),
        "p50_ms": 1000 * percentile(ordered, 0.5),
        "p99_ms": 1000 * percentile(ordered, 0.99),
        "hostile": records.hostile,
        "left": records.left,
        "second_third_bytes": second,
        "last_third_bytes": last,
        "growth": last / second - 1,
        "faults": records.faults,
        "memory": [(round(at_s, 1), held) for at_s, held in records.memory],
    }


def wrong(figures: dict[str, Any]) -> list[str]:
    """What must not be."""
    answers = figures["answers"]
    late = LATE_SHARE * sum(count for name, count in answers.items() if name.startswith("ids "))
    bad = [
        f"{count} x {name}"
        for name, count in answers.items()
        if not name.endswith((" 200", " 422")) and not (name == "ids 503" and count <= late)
    ]
    if figures["growth"] > GROWTH:
        bad.append(f"memory grew by {figures['growth']:.1%}, wanted at most {GROWTH:.0%}")
    return bad + figures["faults"]


def main() -> None:
    parser = argparse.ArgumentParser(description="A long mixed load on the service of AISLE_HOME.")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    seconds = 60 * parser.parse_args().minutes
    OUT.parent.mkdir(exist_ok=True)
    with running(aisle_service(workers=2), os.environ, OUT.with_suffix(".log")) as server:
        before = good_answer(server.port)
        figures = told(asyncio.run(soak(server, seconds)), seconds)
        if good_answer(server.port) != before:
            figures["faults"].append("a good request is answered otherwise than before")
        if failed := failures(server.port):
            figures["faults"].append(f"the server counted {failed}")
    OUT.write_text(json.dumps(figures, indent=1))
    shown = {name: value for name, value in figures.items() if name != "memory"}
    print(json.dumps(shown, indent=1))
    if bad := wrong(figures):
        raise SystemExit("\n".join(bad))


if __name__ == "__main__":
    main()
