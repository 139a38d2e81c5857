"""A load generator. Closed loop: N clients, each of which sends its next request when it has its answer.
Open loop (`--rate`): requests are sent when they are due, whether the server keeps up or not.

Requests are whole byte strings before the clock starts, connections are kept alive, and the client is
plain asyncio streams on uvloop, so that it takes as little as it can of the cores that it shares with the
server.
Run as its own process: `python -m benchmarks.load HOST PORT PATH BODIES --concurrency 16 --seconds 6`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import psutil
import uvloop

_PAUSE_AFTER_ERROR_S = 0.05  # a server that is gone must not be asked a million times
_FAILURES = (OSError, EOFError, ValueError, asyncio.LimitOverrunError)  # of any client


@dataclass(frozen=True, kw_only=True)
class Load:
    """What to send, and for how long. With a `rate` (requests a second), `concurrency` bounds the connections
    of the open loop. `method` is GET, POST or GRPC; `pids` are the roots of the server's processes."""

    host: str
    port: int
    path: str
    concurrency: int
    seconds: float
    rate: float | None = None
    method: str = "POST"
    deadline_ms: int | None = None  # told to the server; over gRPC the call's own
    warm_s: float = 1.0
    timeout_s: float = 30.0
    pids: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured. Answers are those with status 200 that arrived between warm-up and end, refusals
    those with 429; errors are counted from the first request on, by status or by name of the failure.
    Latencies of the open loop count from the moment a request was due."""

    answers: int
    seconds: float
    throughput: float  # answers a second
    p50_ms: float | None  # None without an answer
    p99_ms: float | None
    cpu_ms: float | None  # of the server's processes, an answer
    refused: int
    refused_p99_ms: float | None
    unsent: int  # of the open loop: due before the end, and never sent for want of a connection
    errors: dict[str, int]


@dataclass
class Records:
    """What the clients saw, in the order in which it arrived."""

    latencies_s: list[float] = field(default_factory=list)
    refusals_s: list[float] = field(default_factory=list)
    unsent: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    cpu_s: list[float] = field(default_factory=list)  # at the end of warm-up, and at the end


class Client(Protocol):
    """One connection to a server, opened when it is needed."""

    async def send(self, request: bytes) -> tuple[int, bytes]: ...

    def close(self) -> None: ...


class Connection:
    """One keep-alive HTTP/1.1 connection."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. Raises OSError, EOFError or ValueError when there is none."""
        if self._streams is not None and self._streams[0].at_eof():
            self.close()  # the server has ended it while it was idle
        if self._streams is None:
            self._streams = await asyncio.open_connection(self.host, self.port)
        reader, writer = self._streams
        writer.write(request)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        lines = head.split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        if "content-length" not in headers:
            raise ValueError("the answer has no Content-Length")
        body = await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        return int(lines[0].split(" ", 2)[1]), body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def request_bytes(
    host: str, path: str, body: bytes, *, method: str = "POST", deadline_ms: int | None = None
) -> bytes:
    """A whole request; a body is JSON."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n"
    if deadline_ms is not None:
        head += f"Aisle-Timeout-Ms: {deadline_ms}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


async def measure(load: Load, bodies: Sequence[bytes]) -> Figures:
    """Send `bodies` round and round; ends at the latest `timeout_s` after warm-up and measuring."""
    requests = itertools.cycle([_request(load, body) for body in bodies])
    records = Records()
    start = time.perf_counter()
    window = (start + load.warm_s, start + load.warm_s + load.seconds)
    due = None if load.rate is None else _due(start, load.rate)
    clients = [_client(load, requests, due, window, records) for _ in range(load.concurrency)]
    await asyncio.gather(_watch_cpu(load.pids, window, records), *clients)
    if due is not None:
        records.unsent += sum(1 for _ in itertools.takewhile(lambda moment: moment < window[1], due))
    return summarise(records, load.seconds)


def summarise(records: Records, seconds: float) -> Figures:
    """Figures of what was recorded in a window of `seconds`."""
    answers = len(records.latencies_s)
    ordered = sorted(records.latencies_s)
    refused = sorted(records.refusals_s)
    cpu_s = records.cpu_s[1] - records.cpu_s[0] if len(records.cpu_s) == 2 else None
    return Figures(
        answers=answers,
        seconds=seconds,
        throughput=answers / seconds,
        p50_ms=1000 * percentile(ordered, 0.5) if ordered else None,
        p99_ms=1000 * percentile(ordered, 0.99) if ordered else None,
        cpu_ms=1000 * cpu_s / answers if cpu_s is not None and answers else None,
        refused=len(refused),
        refused_p99_ms=1000 * percentile(refused, 0.99) if refused else None,
        unsent=records.unsent,
        errors=dict(sorted(records.errors.items())),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank: the least value that `share` of all values do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system seconds of these processes and of all that they started and that still live."""
    total = 0.0
    for pid in pids:
        try:
            root = psutil.Process(pid)
            family = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        for process in family:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
    return total


def _request(load: Load, body: bytes) -> bytes:
    if load.method == "GRPC":
        return body
    return request_bytes(load.host, load.path, body, method=load.method, deadline_ms=load.deadline_ms)


def _connect(load: Load) -> Client:
    if load.method != "GRPC":
        return Connection(load.host, load.port)
    from benchmarks.grpc_connection import GrpcConnection

    return GrpcConnection(load.host, load.port, load.path, load.deadline_ms)


def _due(start: float, rate: float) -> Iterator[float]:
    """When each request of an open loop is to be sent; the clients share it."""
    return (start + number / rate for number in itertools.count())


async def _client(
    load: Load,
    requests: Iterator[bytes],
    due: Iterator[float] | None,
    window: tuple[float, float],
    records: Records,
) -> None:
    connection = _connect(load)
    try:
        while True:
            sent = time.perf_counter() if due is None else next(due)
            if sent >= window[1]:
                break
            if time.perf_counter() >= window[1]:
                records.unsent += due is not None
                break
            if due is not None:
                await asyncio.sleep(max(0.0, sent - time.perf_counter()))
                sent = min(sent, time.perf_counter())  # uvloop's timers are of whole milliseconds
            try:
                async with asyncio.timeout(load.timeout_s):
                    status, _ = await connection.send(next(requests))
            except _FAILURES as error:
                name = "timeout" if isinstance(error, TimeoutError) else type(error).__name__
                records.errors[name] += 1
                connection.close()
                await asyncio.sleep(_PAUSE_AFTER_ERROR_S)
                continue
            arrived = time.perf_counter()
            if status not in (200, 429):
                records.errors[str(status)] += 1
            elif window[0] <= arrived < window[1]:
                took = records.latencies_s if status == 200 else records.refusals_s
                took.append(arrived - sent)
    finally:
        connection.close()


async def _watch_cpu(pids: Sequence[int], window: tuple[float, float], records: Records) -> None:
    if not pids:
        return
    for moment in window:
        await asyncio.sleep(max(0.0, moment - time.perf_counter()))
        records.cpu_s.append(cpu_seconds(pids))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a server of this machine; prints JSON.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("bodies", type=Path, help="folder of files, one request body each; not read for GET")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--method", default="POST", choices=["POST", "GET", "GRPC"])
    parser.add_argument("--deadline-ms", type=int)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--warm", dest="warm_s", type=float, default=1.0)
    parser.add_argument("--pid", dest="pids", type=int, action="append", default=[])
    given = vars(parser.parse_args())
    folder = given.pop("bodies")
    bodies = [path.read_bytes() for path in sorted(folder.iterdir())] if given["method"] != "GET" else [b""]
    print(json.dumps(asdict(uvloop.run(measure(Load(**given), bodies)))))


if __name__ == "__main__":
    main()
