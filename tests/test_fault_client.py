"""Clients that send a byte a second, never read, or leave: what the others see of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from half_message import half_of, part, status_of
from live_server import LiveServer
from traffic import CLASSIFY, GRPC_CLASSIFY, HOST, Traffic, doors_of

from benchmarks.grpc_connection import GrpcConnection
from benchmarks.load import request_bytes
from service.protos import classifier_pb2 as pb

BODY_TIMEOUT_S = 3.0
ALONE_S = 3.0  # for which the good clients are alone
TOGETHER_S = 6.0
SLOW = 50  # clients at once that send slowly
UNREADING = 4  # what they ask for is computed, until their buffers are full
UNTIL_S = 90.0  # longest wait for what the bad clients are to come to
LEAVING = 4
TIMES = 3.0  # as long may an answer take beside bad clients, and a little more
GOOD = request_bytes(HOST, CLASSIFY, json.dumps({"products": [{"title": "train bois"}]}).encode())
MANY = {"products": [{"title": f"train bois {number}"} for number in range(16)]}

Work = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def server(stocked_home: Path) -> Iterator[LiveServer]:
    # On a busy machine a read of the store may take longer than its usual deadline, and ids alone get 503:
    # that is another test's matter.
    patient = {"AISLE_FEATURES_DEADLINE_S": "5"}
    server = LiveServer(stocked_home, workers=2, AISLE_BODY_TIMEOUT_S=str(BODY_TIMEOUT_S), **patient)
    yield server
    server.stop()


@contextmanager
def at_work(clients: int, work: Work) -> Iterator[None]:
    """So many bad clients, in a thread with a loop of its own, until the block is left."""
    ended = threading.Event()

    async def all_of_them() -> None:
        tasks = [asyncio.create_task(work()) for _ in range(clients)]
        await asyncio.to_thread(ended.wait)
        for task in tasks:
            task.cancel()
        failures = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.1)  # connections are closed a turn of the loop later
        found.extend(one for one in failures if not isinstance(one, asyncio.CancelledError))

    found: list[BaseException | None] = []
    thread = threading.Thread(target=lambda: asyncio.run(all_of_them()), name="bad-clients")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert not found, found


def check_the_others(
    server: LiveServer,
    clients: int,
    bad: Work,
    figures: dict[str, float | str],
    until: Callable[[], bool] = lambda: True,
) -> None:
    """Good clients of every door are answered all along, and hardly later than without the bad ones, which
    are at work for TOGETHER_S and until they have come to something."""
    with Traffic(doors_of(server)) as traffic:
        for door in traffic.doors:
            traffic.until_all(door.name, 200)
        alone = time.monotonic()
        time.sleep(ALONE_S)
        together = time.monotonic()
        with at_work(clients, bad):
            time.sleep(TOGETHER_S)
            while not until() and time.monotonic() < together + UNTIL_S:
                time.sleep(0.2)
            ended = time.monotonic()
    assert {one.status for one in traffic.seen} == {200}
    names = [door.name for door in traffic.doors]
    traffic.check_latency(
        names, before=(alone, together), during=(together, ended), figures=figures, times=TIMES
    )


async def drop_by_drop(server: LiveServer, at_once: bytes, slowly: bytes) -> bytes:
    """A byte a second, until the server says something: its first line."""
    reader, writer = await asyncio.open_connection(HOST, server.port)
    heard = asyncio.ensure_future(reader.readline())
    try:
        writer.write(at_once)
        for byte in slowly:
            if heard.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(1)
        return await heard
    finally:
        heard.cancel()
        writer.close()


def test_bodies_that_come_a_byte_a_second_are_refused(
    server: LiveServer, figures: dict[str, float | str]
) -> None:
    head, end, body = GOOD.partition(b"\r\n\r\n")
    heard: Counter[bytes] = Counter()

    async def slow() -> None:
        while True:
            heard[await drop_by_drop(server, head + end, body)] += 1

    check_the_others(server, SLOW, slow, figures)
    figures["slow bodies refused"] = heard.total()
    assert set(heard) == {b"HTTP/1.1 408 Request Timeout\r\n"}
    assert heard.total() >= SLOW


def test_messages_that_come_a_byte_a_second_are_refused(
    server: LiveServer, figures: dict[str, float | str]
) -> None:
    heard: Counter[str] = Counter()
    took: list[float] = []

    async def slow() -> None:
        while True:
            reader, writer = await asyncio.open_connection(HOST, server.grpc_port)
            sent = time.monotonic()
            ended = asyncio.ensure_future(status_of(reader))
            try:
                writer.write(half_of(GRPC_CLASSIFY, bytes(1_000)))
                while not ended.done():
                    await asyncio.wait([ended], timeout=1)
                    writer.write(part(b"\0"))
                status, _ = await ended
            finally:
                ended.cancel()
                writer.close()
            heard[status.name] += 1
            took.append(time.monotonic() - sent)

    check_the_others(server, SLOW, slow, figures, lambda: heard.total() >= SLOW)
    figures |= {"slow messages refused": heard.total(), "refused after at most, s": max(took)}
    assert set(heard) == {"DEADLINE_EXCEEDED"}
    assert heard.total() >= SLOW
    assert min(took) > 0.9 * BODY_TIMEOUT_S
    assert max(took) < BODY_TIMEOUT_S + 5


def test_headers_that_come_a_byte_a_second_hold_a_connection_and_nothing_else(
    server: LiveServer, figures: dict[str, float | str]
) -> None:
    heard: list[bytes] = []

    async def slow() -> None:
        heard.append(await drop_by_drop(server, b"", GOOD))

    check_the_others(server, SLOW, slow, figures)
    assert heard == []  # after 75 s they are cut off (tests/test_http_protocol.py)


def test_who_never_reads_is_cut_off(server: LiveServer, figures: dict[str, float | str]) -> None:
    """Answers fill the buffers on both sides; the server must not keep requests for such a client."""
    request = request_bytes(HOST, CLASSIFY, json.dumps({"products": [{"product_id": "3"}] * 256}).encode())
    stuck: list[float] = []  # from the last request that the server took to its end

    async def send_and_send() -> None:
        """Until the server, which may also send a connection to another worker, takes no more of it."""
        loop = asyncio.get_running_loop()
        while True:
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                client.setblocking(False)
                await loop.sock_connect(client, (HOST, server.port))
                taken = time.monotonic()
                with contextlib.suppress(ConnectionError):
                    while True:
                        await loop.sock_sendall(client, request)
                        taken = time.monotonic()
                stuck.append(time.monotonic() - taken)

    check_the_others(
        server, UNREADING, send_and_send, figures, lambda: errors(server, "answer_unread") >= UNREADING
    )
    cut = errors(server, "answer_unread")
    figures |= {"connections cut": cut, "cut after at most, s": max(stuck)}
    assert cut >= UNREADING
    # How long it takes to fill the buffers is the machine's matter; what is taken last is computed first.
    assert max(stuck) < BODY_TIMEOUT_S + 5


def errors(server: LiveServer, reason: str) -> float:
    return server.metrics().get(f'aisle_errors_total{{reason="{reason}"}}', 0)


def test_clients_that_leave_cost_nothing_that_stays(
    server: LiveServer, figures: dict[str, float | str]
) -> None:
    chance = random.Random(27)
    requests = [GOOD, request_bytes(HOST, CLASSIFY, json.dumps(MANY).encode())]
    message = pb.ClassifyRequest(products=[pb.Product(title=f"train {number}") for number in range(16)])
    left: Counter[str] = Counter()

    async def leave_http() -> None:
        request = chance.choice(requests)
        _, writer = await asyncio.open_connection(HOST, server.port)
        try:
            writer.write(request[: chance.randint(0, len(request))] if chance.random() < 0.5 else request)
            await asyncio.sleep(chance.uniform(0, 0.05))
            if chance.random() < 0.5:  # a reset, and no polite end
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        finally:
            writer.close()
        left["HTTP"] += 1

    async def leave_grpc() -> None:
        client = GrpcConnection(HOST, server.grpc_port, GRPC_CLASSIFY)
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(chance.uniform(0.001, 0.05)):
                await client.send(message.SerializeToString())
        left["gRPC"] += 1

    async def leave() -> None:
        while True:
            await (leave_http() if chance.random() < 0.7 else leave_grpc())

    check_the_others(server, LEAVING, leave, figures)
    figures |= {"left over HTTP": left["HTTP"], "left over gRPC": left["gRPC"]}
    assert left["HTTP"] > 100
    assert left["gRPC"] > 50
    deadline = time.monotonic() + 10
    while under_way(server):
        assert time.monotonic() < deadline, under_way(server)
        time.sleep(0.1)


def under_way(server: LiveServer) -> dict[str, float]:
    """What the workers still hold of classification requests."""
    names = ("aisle_queue_products", f'aisle_http_requests_in_progress{{endpoint="{CLASSIFY}"')
    return {name: value for name, value in server.metrics().items() if name.startswith(names) and value}
