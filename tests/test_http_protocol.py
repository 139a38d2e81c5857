"""What comes before a body is bounded, and answers leave whole: real uvicorn, real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service import http_protocol
from service.http_protocol import LINE_BYTES, MOST_BYTES, READ_BYTES, use_bounded_http

UNREAD_S = 0.5
BEGINNING = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await Response(body)(scope, receive, send)


UNREAD: list[float] = []  # when somebody was cut off


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    use_bounded_http(answer_timeout_s=UNREAD_S, on_unread=lambda: UNREAD.append(time.monotonic()))
    server = uvicorn.Server(uvicorn.Config(echo, lifespan="off", log_level="error", timeout_keep_alive=0))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def asked(port: int, *parts: bytes) -> bytes:
    """What comes back until the server ends the connection, or has answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has ended the connection: what it said may be read still
        answer = b""
        try:
            while not is_whole(answer) and (more := connection.recv(65_536)):
                answer += more
        except ConnectionResetError:
            return answer or b"reset"
        return answer


def is_whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return length is not None and len(body) >= int(length[1])


def header(size: int) -> bytes:
    """One that counts `size` bytes."""
    return b"a: " + b"b" * (size - LINE_BYTES - 1) + b"\r\n"


def used() -> int:
    return len("/echo") + len("Hostx") + len("Content-Length2") + 2 * LINE_BYTES


def test_as_much_as_is_allowed_is_answered(port: int) -> None:
    answer = asked(port, BEGINNING + header(MOST_BYTES - used()) + b"\r\nhi")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"hi")


def test_a_byte_more_is_refused_in_the_shape_of_all_errors(port: int) -> None:
    answer = asked(port, BEGINNING + header(MOST_BYTES - used() + 1) + b"\r\nhi")
    assert answer.startswith(b"HTTP/1.1 431")
    assert b'"reason":"headers_too_long"' in answer
    assert b"\r\nconnection: close\r\n" in answer.lower()


@pytest.mark.parametrize(
    "flood",
    [b"a:\r\n" * 100_000, b"a: " + b"b" * 8 * READ_BYTES],
    ids=["many headers", "a header without end"],
)
def test_a_flood_of_headers_is_cut_off(port: int, flood: bytes) -> None:
    answer = asked(
        port, b"GET / HTTP/1.1\r\n", *(flood[i : i + 65_536] for i in range(0, len(flood), 65_536))
    )
    assert answer.startswith((b"HTTP/1.1 431", b"reset"))


def test_a_long_address_is_refused(port: int) -> None:
    assert asked(port, b"GET /" + b"a" * MOST_BYTES + b" HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 431")


def test_trailers_without_end_are_cut_off(port: int) -> None:
    begin = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\na: "
    assert asked(port, begin, *[b"b" * 65_536] * 32).startswith((b"HTTP/1.1 431", b"reset"))


def test_a_long_body_is_no_header(port: int) -> None:
    size = 4 * READ_BYTES
    lines = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
    answer = asked(port, lines, b"x" * size)
    assert answer.startswith(b"HTTP/1.1 200")


def test_what_is_no_http_is_a_400(port: int) -> None:
    head, _, body = asked(port, b"no http\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["reason"] == "http_broken"


def test_a_short_answer_is_one_packet_and_a_long_one_is_whole(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for _ in range(20):  # on one connection
            connection.sendall(BEGINNING + b"\r\nhi")
            first = connection.recv(65_536)
            assert first.startswith(b"HTTP/1.1 200")
            assert first.endswith(b"\r\n\r\nhi")
        body = b"x" * 2**22
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        answer = b""
        while not is_whole(answer):
            answer += connection.recv(2**20)
        assert answer.partition(b"\r\n\r\n")[2] == body


def test_many_requests_at_once_are_answered_in_order(port: int) -> None:
    lines = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"".join(lines + b"%02d" % number for number in range(50)))
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 50 or not answers.endswith(b"49"):
            answers += connection.recv(65_536)
    assert re.findall(rb"\r\n\r\n(\d\d)", answers) == [b"%02d" % number for number in range(50)]


def test_an_answer_that_ends_its_connection_is_whole(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(BEGINNING + b"Connection: close\r\n\r\nhi")
        answer = b""
        while more := connection.recv(65_536):
            answer += more
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\nhi")


def test_a_head_has_no_body_and_the_next_request_is_answered(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n" + BEGINNING + b"\r\nhi")
        answers = b""
        while not answers.endswith(b"hi"):
            answers += connection.recv(65_536)
    assert answers.count(b"HTTP/1.1 200") == 2
    assert answers.count(b"hi") == 1


def test_who_waits_to_be_asked_for_its_body_is_asked(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(BEGINNING + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hi")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


def test_what_was_answered_when_the_client_ends_its_side_is_sent(port: int) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


def test_a_connection_outlives_the_pause_between_two_requests(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(post(b"ab"))
        assert connection.recv(65_536).endswith(b"ab")
        time.sleep(0.3)  # uvicorn alone, told to wait 0 s, would end it
        connection.sendall(post(b"cd"))
        assert connection.recv(65_536).endswith(b"cd")


@pytest.mark.parametrize("drops", [b"", BEGINNING[:-4] + b"1000000"])
def test_who_does_not_come_to_the_end_of_a_head_is_cut_off(
    port: int, drops: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.6)
    began = time.monotonic()
    for before in (b"", post(b"ab")):  # at the beginning, and after an answer
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            if before:
                connection.sendall(before)
                assert connection.recv(65_536).endswith(b"ab")
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for drop in drops:
                    connection.sendall(bytes([drop]))
                    time.sleep(0.1)
                assert connection.recv(1) == b""
    assert time.monotonic() - began < 5


def test_a_body_may_take_longer_than_a_head(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.3)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(BEGINNING + b"\r\n")
        time.sleep(1)
        connection.sendall(b"ab")
        assert connection.recv(65_536).endswith(b"ab")


def unreading(port: int) -> socket.socket:
    """A connection of a client whose kernel takes little for it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", port))
    return connection


def post(body: bytes) -> bytes:
    return b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize("answers", [1, 3])
def test_who_does_not_read_is_cut_off_though_all_is_answered(port: int, answers: int) -> None:
    UNREAD.clear()
    began = time.monotonic()
    with unreading(port) as connection:
        with contextlib.suppress(ConnectionResetError):
            connection.sendall(post(b"x" * 2**23) * answers)  # more than kernels hold
        while not UNREAD:
            assert time.monotonic() < began + 10, "nobody was cut off"
            time.sleep(0.01)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(65_536):
                pass
    assert UNREAD[0] - began > UNREAD_S
    assert len(UNREAD) == 1


def test_who_reads_in_time_is_not_cut_off(port: int) -> None:
    UNREAD.clear()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for _ in range(4):
            connection.sendall(post(b"x" * 2**23))
            time.sleep(UNREAD_S / 2)
            answer = b""
            while not is_whole(answer):
                answer += connection.recv(2**22)
    assert UNREAD == []


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c", b"TLS/1.0"])
def test_a_wish_to_change_protocols_is_ignored_or_refused(port: int, protocol: bytes) -> None:
    wish = b"Connection: Upgrade\r\nUpgrade: %s\r\n" % protocol
    assert asked(port, b"GET /echo HTTP/1.1\r\nHost: x\r\n" + wish + b"\r\n").startswith(b"HTTP/1.1 200")
    for pieces in ((BEGINNING + wish + b"\r\nhi",), (BEGINNING + wish + b"\r\n", b"hi")):
        refused = asked(port, *pieces)
        assert refused.startswith(b"HTTP/1.1 400")
        assert b'"reason":"upgrade_unsupported"' in refused
        assert len(re.findall(rb"HTTP/1.1 \d", refused)) == 1
