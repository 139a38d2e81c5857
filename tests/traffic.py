"""Clients of every door, which go on asking while something is done to the server, and keep what they saw."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from live_server import LiveServer
from pictures import jpeg

from benchmarks.grpc_connection import GrpcConnection
from benchmarks.load import Client, Connection, percentile, request_bytes
from service.protos import classifier_pb2 as pb

HOST = "127.0.0.1"
CLASSIFY, INFER = "/v1/classify", "/v2/models/aisle-classifier/infer"
GRPC_CLASSIFY = "/aisle.v1.Classifier/Classify"
STORED_ID = "3"  # of the tiny shop: text and picture are published
PHOTO = jpeg("green", 60)
TIMEOUT_S = 30.0
PAUSE_S = 0.02
LATEST_S = 5.0  # of a hundred answers the last: who hangs takes longer, who waits for a busy machine does not
_FAILURES = (OSError, EOFError, ValueError)  # of a connection


@dataclass(frozen=True, kw_only=True)
class Door:
    """A way to ask: a name, a request as it travels, and a new connection for it."""

    name: str
    request: bytes
    connect: Callable[[], Client]


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One request. `status` is HTTP's, also for gRPC, or the name of the failure; `sent_s` is monotonic."""

    door: str
    status: int | str
    sent_s: float
    seconds: float

    @property
    def ended_s(self) -> float:
        return self.sent_s + self.seconds


def doors_of(server: LiveServer) -> list[Door]:
    """A stored product by its id alone, one with a text that must be encoded, one with a photo; over HTTP,
    gRPC and the Open Inference Protocol."""
    known = {"product_id": STORED_ID, "title": "train bois neuf"}
    photo = {**known, "image": base64.b64encode(PHOTO).decode()}
    tensor = {"name": "title", "shape": [1], "datatype": "BYTES", "data": ["train bois"]}
    message = pb.ClassifyRequest(products=[pb.Product(product_id=STORED_ID, title="train bois neuf")])
    ids = pb.ClassifyRequest(products=[pb.Product(product_id=STORED_ID)])

    def http(name: str, path: str, body: object) -> Door:
        request = request_bytes(HOST, path, json.dumps(body).encode())
        return Door(name=name, request=request, connect=lambda: Connection(HOST, server.port))

    def grpc(name: str, request: pb.ClassifyRequest) -> Door:
        return Door(
            name=name,
            request=request.SerializeToString(),
            connect=lambda: GrpcConnection(HOST, server.grpc_port, GRPC_CLASSIFY, int(1000 * TIMEOUT_S)),
        )

    return [
        http("ids", CLASSIFY, {"products": [{"product_id": STORED_ID}]}),
        http("text", CLASSIFY, {"products": [known]}),
        http("photo", CLASSIFY, {"products": [photo]}),
        http("oip", INFER, {"inputs": [tensor]}),
        grpc("grpc", message),
        grpc("grpc ids", ids),
    ]


class Traffic:
    """`clients` clients a door, each of which sends its next request a moment after its answer, until the
    block is left. What they saw is in `seen`."""

    def __init__(self, doors: Sequence[Door], *, clients: int = 1, pause_s: float = PAUSE_S) -> None:
        self.doors = doors
        self.clients = clients
        self.pause_s = pause_s
        self.seen: list[Seen] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic")

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def statuses(self, door: str, *, since: float = 0.0, until: float = float("inf")) -> set[int | str]:
        """Of the requests of a door that were sent in that time."""
        return set(self.counts(door, since=since, until=until))

    def counts(self, door: str, *, since: float = 0.0, until: float = float("inf")) -> Counter[int | str]:
        return Counter(one.status for one in self.of(door, since=since, until=until))

    def of(self, door: str, *, since: float = 0.0, until: float = float("inf")) -> list[Seen]:
        return [one for one in list(self.seen) if one.door == door and since <= one.sent_s < until]

    def check_latency(
        self,
        doors: Iterable[str],
        *,
        before: tuple[float, float],
        during: tuple[float, float],
        figures: dict[str, float | str],
        times: float = 1.0,
        more_s: float = 0.25,
    ) -> None:
        """In the second of two times answers come hardly later than in the first: typically within `times` as
        long and `more_s`. The machine's other work shows in the slowest answers, which are only shown to have
        waited for nothing that takes seconds."""
        names = list(doors)
        spans = {"before": before, "during": during}
        p50_s, p99_s = (
            {
                when: max(self.quantile_s(name, q, since=since, until=until) for name in names)
                for when, (since, until) in spans.items()
            }
            for q in (0.5, 0.99)
        )
        figures["requests"] = len(self.seen)
        for when in spans:
            figures[f"p50 {when}, s"], figures[f"p99 {when}, s"] = p50_s[when], p99_s[when]
        assert p50_s["during"] < times * p50_s["before"] + more_s
        assert p99_s["during"] < LATEST_S

    def p99_s(self, door: str, *, since: float = 0.0, until: float = float("inf")) -> float:
        return self.quantile_s(door, 0.99, since=since, until=until)

    def quantile_s(self, door: str, q: float, *, since: float = 0.0, until: float = float("inf")) -> float:
        """Of all requests, answered or not."""
        return percentile(sorted(one.seconds for one in self.of(door, since=since, until=until)), q)

    def until_all(self, door: str, status: int, *, requests: int = 20, timeout_s: float = 60) -> float:
        """Wait until so many requests in a row, sent from now on, have this status; the monotonic time at
        which the first of them was sent."""
        since = time.monotonic()
        while time.monotonic() < since + timeout_s:
            last = self.of(door, since=since)[-requests:]
            if len(last) == requests and {one.status for one in last} == {status}:
                return last[0].sent_s
            time.sleep(0.02)
        raise AssertionError(f"{door}: saw {self.counts(door, since=since)} in {timeout_s:g} s, not {status}")

    async def _run(self) -> None:
        await asyncio.gather(*(self._ask(door) for door in self.doors for _ in range(self.clients)))

    async def _ask(self, door: Door) -> None:
        client = door.connect()
        while not self._ended.is_set():
            sent_s = time.monotonic()
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    status: int | str = (await client.send(door.request))[0]
            except _FAILURES as error:
                status = type(error).__name__
                client.close()
            seconds = time.monotonic() - sent_s
            self.seen.append(Seen(door=door.name, status=status, sent_s=sent_s, seconds=seconds))
            await asyncio.sleep(self.pause_s)
        client.close()
