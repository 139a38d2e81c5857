"""A closed-loop load generator: N clients, each of which sends its next request when it has its answer.

Requests are whole byte strings before the clock starts, connections are kept alive, and the client is
plain asyncio streams, so that it takes as little as it can of the cores that it shares with the server.
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

import psutil

_PAUSE_AFTER_ERROR_S = 0.05  # a server that is gone must not be asked a million times
_FAILURES = (OSError, EOFError, ValueError, asyncio.LimitOverrunError)


@dataclass(frozen=True, kw_only=True)
class Load:
    """What to send, and for how long. `pids` are the roots of the server's processes."""

    host: str
    port: int
    path: str
    concurrency: int
    seconds: float
    warm_s: float = 1.0
    timeout_s: float = 30.0
    pids: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured. Answers are those with status 200 that arrived between warm-up and end; errors
    are counted from the first request on, by status or by name of the failure."""

    answers: int
    seconds: float
    throughput: float  # answers a second
    p50_ms: float | None  # None without an answer
    p99_ms: float | None
    cpu_ms: float | None  # of the server's processes, an answer
    errors: dict[str, int]


@dataclass
class Records:
    """What the clients saw, in the order in which it arrived."""

    latencies_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    cpu_s: list[float] = field(default_factory=list)  # at the end of warm-up, and at the end


class Connection:
    """One keep-alive HTTP/1.1 connection, opened when it is needed."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. Raises OSError, EOFError or ValueError when there is none."""
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


def request_bytes(host: str, path: str, body: bytes) -> bytes:
    """A whole POST request with a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def measure(load: Load, bodies: Sequence[bytes]) -> Figures:
    """Send `bodies` round and round; ends at the latest `timeout_s` after warm-up and measuring."""
    requests = itertools.cycle([request_bytes(load.host, load.path, body) for body in bodies])
    records = Records()
    start = time.perf_counter()
    window = (start + load.warm_s, start + load.warm_s + load.seconds)
    clients = [_client(load, requests, window, records) for _ in range(load.concurrency)]
    await asyncio.gather(_watch_cpu(load.pids, window, records), *clients)
    return summarise(records, load.seconds)


def summarise(records: Records, seconds: float) -> Figures:
    """Figures of what was recorded in a window of `seconds`."""
    answers = len(records.latencies_s)
    ordered = sorted(records.latencies_s)
    cpu_s = records.cpu_s[1] - records.cpu_s[0] if len(records.cpu_s) == 2 else None
    return Figures(
        answers=answers,
        seconds=seconds,
        throughput=answers / seconds,
        p50_ms=1000 * percentile(ordered, 0.5) if ordered else None,
        p99_ms=1000 * percentile(ordered, 0.99) if ordered else None,
        cpu_ms=1000 * cpu_s / answers if cpu_s is not None and answers else None,
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


async def _client(
    load: Load, requests: Iterator[bytes], window: tuple[float, float], records: Records
) -> None:
    connection = Connection(load.host, load.port)
    try:
        while (sent := time.perf_counter()) < window[1]:
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
            if status != 200:
                records.errors[str(status)] += 1
            elif window[0] <= arrived < window[1]:
                records.latencies_s.append(arrived - sent)
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
    parser.add_argument("bodies", type=Path, help="folder of *.json, one request body each")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--warm", dest="warm_s", type=float, default=1.0)
    parser.add_argument("--pid", dest="pids", type=int, action="append", default=[])
    given = vars(parser.parse_args())
    bodies = [path.read_bytes() for path in sorted(given.pop("bodies").glob("*.json"))]
    print(json.dumps(asdict(asyncio.run(measure(Load(**given), bodies)))))


if __name__ == "__main__":
    main()
