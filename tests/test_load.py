"""The load generator, against a small real server on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.load import Connection, Figures, Load, Records, measure, percentile, request_bytes, summarise

Answer = Callable[[int, bytes], Awaitable[bytes]]  # number of the request and its body, to a whole answer


def ok(body: bytes = b"{}", headers: str = "", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Tiny:
    """A server that answers what it is told to, and remembers what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.bodies: list[bytes] = []
        self.connections = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                self.bodies.append(await reader.readexactly(length))
                writer.write(await self.answer(len(self.bodies), self.bodies[-1]))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def tiny_server(answer: Answer) -> AsyncIterator[Tiny]:
    tiny = Tiny(answer)
    server = await asyncio.start_server(tiny.serve, "127.0.0.1", 0)
    tiny.port = server.sockets[0].getsockname()[1]
    try:
        yield tiny
    finally:
        server.close()
        await server.wait_closed()


async def measured(
    answer: Answer, bodies: Sequence[bytes] = (b"{}",), **load: object
) -> tuple[Figures, Tiny]:
    async with tiny_server(answer) as tiny:
        facts: dict = {"concurrency": 1, "seconds": 0.3, "warm_s": 0.1, **load}
        return await measure(Load(host="127.0.0.1", port=tiny.port, path="/x", **facts), bodies), tiny


def run(answer: Answer, bodies: Sequence[bytes] = (b"{}",), **load: object) -> tuple[Figures, Tiny]:
    return asyncio.run(measured(answer, bodies, **load))


@pytest.mark.parametrize(
    ("values", "share", "wanted"),
    [
        ([7.0], 0.99, 7.0),
        ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0),
        ([float(i) for i in range(1, 101)], 0.99, 99.0),
        ([float(i) for i in range(1, 102)], 0.99, 100.0),
        ([1.0, 2.0], 0.0, 1.0),
    ],
)
def test_a_percentile_is_a_value_that_was_measured(values: list[float], share: float, wanted: float) -> None:
    assert percentile(values, share) == wanted


def test_figures_are_those_of_the_records() -> None:
    records = Records(latencies_s=[0.3, 0.1, 0.2, 0.4], refusals_s=[0.02, 0.01], unsent=3, cpu_s=[1.0, 1.5])
    records.errors.update({"503": 2})
    assert summarise(records, 2.0) == Figures(
        answers=4,
        seconds=2.0,
        throughput=2.0,
        p50_ms=200.0,
        p99_ms=400.0,
        cpu_ms=125.0,
        refused=2,
        refused_p99_ms=20.0,
        unsent=3,
        errors={"503": 2},
    )


def test_without_an_answer_there_is_no_latency() -> None:
    figures = summarise(Records(), 2.0)
    assert (figures.throughput, figures.p50_ms, figures.p99_ms, figures.cpu_ms) == (0, None, None, None)


def test_a_closed_loop_has_one_request_a_client_under_way() -> None:
    under_way, most = 0, 0

    async def slow(number: int, body: bytes) -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.05)
        under_way -= 1
        return ok()

    figures, tiny = run(slow, concurrency=4)
    assert (most, tiny.connections) == (4, 4)
    assert figures.errors == {}
    assert 50 <= figures.p50_ms < 75  # type: ignore[operator]
    # 4 clients, 50 ms an answer, 0.3 s: at most 24, and one less for each client on a busy machine.
    assert 16 <= figures.answers <= 24
    assert figures.throughput == pytest.approx(figures.answers / 0.3)


def test_an_open_loop_sends_when_it_is_due_however_slow_the_answers() -> None:
    async def slow(number: int, body: bytes) -> bytes:
        await asyncio.sleep(0.2)
        return ok()

    figures, tiny = run(slow, rate=100, concurrency=64, seconds=0.5)
    assert 50 <= len(tiny.bodies) <= 60  # 0.6 s of them
    assert 200 <= figures.p50_ms < 260  # type: ignore[operator]
    assert figures.unsent == 0


def test_an_open_loop_counts_the_wait_for_a_connection() -> None:
    async def slow(number: int, body: bytes) -> bytes:
        await asyncio.sleep(0.1)
        return ok()

    figures, tiny = run(slow, rate=100, concurrency=1, seconds=0.5)
    assert len(tiny.bodies) <= 7
    assert figures.p99_ms > 300  # type: ignore[operator]
    assert figures.unsent == 60 - len(tiny.bodies)  # what was due in 0.6 s


def test_refusals_are_told_apart_and_timed() -> None:
    async def every_other(number: int, body: bytes) -> bytes:
        await asyncio.sleep(0.01)
        return ok(status="429 Too Many Requests") if number % 2 else ok()

    figures, _ = run(every_other)
    assert figures.errors == {}
    assert abs(figures.refused - figures.answers) <= 1
    assert 10 <= figures.refused_p99_ms < 60  # type: ignore[operator]


def test_a_get_has_no_body_and_a_deadline_is_told() -> None:
    assert request_bytes("h", "/x", b"", method="GET") == b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
    assert b"\r\nAisle-Timeout-Ms: 250\r\n" in request_bytes("h", "/x", b"{}", deadline_ms=250)


def test_bodies_are_sent_in_turn() -> None:
    async def soon(number: int, body: bytes) -> bytes:
        await asyncio.sleep(0.02)
        return ok()

    _, tiny = run(soon, bodies=[b"1", b"22", b"333"])
    assert tiny.bodies[:6] == [b"1", b"22", b"333", b"1", b"22", b"333"]


def test_answers_that_are_not_200_are_errors_by_status() -> None:
    async def every_third(number: int, body: bytes) -> bytes:
        await asyncio.sleep(0.01)
        return ok(status="503 Service Unavailable") if number % 3 == 0 else ok()

    figures, tiny = run(every_third)
    assert figures.errors == {"503": len(tiny.bodies) // 3}
    assert 0 < figures.answers <= len(tiny.bodies) - figures.errors["503"]


def test_a_connection_that_the_server_ends_is_an_error_and_is_opened_again() -> None:
    async def first_breaks(number: int, body: bytes) -> bytes:
        await asyncio.sleep(0.01)
        return (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
            if number > 1
            else b"nonsense\r\n\r\n"
        )

    figures, tiny = run(first_breaks)
    assert figures.errors == {"ValueError": 1}
    assert figures.answers > 0
    assert tiny.connections == len(tiny.bodies)


def test_a_connection_that_was_ended_while_idle_is_opened_again() -> None:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ok(b"{}"))
        await writer.drain()
        writer.close()

    async def ask() -> list[int]:
        server = await asyncio.start_server(closing, "127.0.0.1", 0)
        async with server:
            connection = Connection("127.0.0.1", server.sockets[0].getsockname()[1])
            request = request_bytes("h", "/x", b"", method="GET")
            statuses = []
            for _ in range(3):
                statuses.append((await connection.send(request))[0])
                await asyncio.sleep(0.05)
            connection.close()
            return statuses

    assert asyncio.run(ask()) == [200] * 3


def test_a_server_that_hangs_costs_the_timeout_and_no_more() -> None:
    async def never(number: int, body: bytes) -> bytes:
        await asyncio.sleep(30)
        return ok()

    began = time.monotonic()
    figures, _ = run(never, concurrency=3, timeout_s=0.5, seconds=0.2)
    assert time.monotonic() - began < 3
    assert (figures.answers, figures.errors) == (0, {"timeout": 3})


def test_a_server_that_is_gone_is_asked_at_a_bounded_rate() -> None:
    load = Load(host="127.0.0.1", port=1, path="/x", concurrency=1, seconds=0.3, warm_s=0.1)
    figures = asyncio.run(measure(load, [b"{}"]))
    assert list(figures.errors) == ["ConnectionRefusedError"]
    assert 1 <= figures.errors["ConnectionRefusedError"] <= 9


def test_a_connection_gives_status_and_body() -> None:
    async def ask() -> tuple[int, bytes]:
        async def echo(number: int, body: bytes) -> bytes:
            return ok(body, status="201 Created")

        async with tiny_server(echo) as tiny:
            connection = Connection("127.0.0.1", tiny.port)
            answer = await connection.send(request_bytes("127.0.0.1", "/x", b'{"a":1}'))
            connection.close()
            return answer

    assert asyncio.run(ask()) == (201, b'{"a":1}')


def test_as_a_process_it_prints_figures_with_the_cpu_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"{}")

    async def busy(number: int, body: bytes) -> bytes:
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass
        return ok()

    async def answer_it() -> dict:
        async with tiny_server(busy) as tiny:
            command = ["-m", "benchmarks.load", "127.0.0.1", str(tiny.port), "/x", str(tmp_path)]
            options = ["--concurrency", "2", "--seconds", "1", "--warm", "0.2", "--pid", str(os.getpid())]
            process = await asyncio.create_subprocess_exec(
                sys.executable, *command, *options, stdout=subprocess.PIPE
            )
            output, _ = await process.communicate()
            assert process.returncode == 0
            figures: dict = json.loads(output)
            return figures

    figures = asyncio.run(answer_it())
    assert figures["errors"] == {}
    assert figures["answers"] > 5
    assert 19 <= figures["cpu_ms"] < 60
