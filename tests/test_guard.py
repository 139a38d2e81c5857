from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from service.balance import Balance
from service.errors import RequestError, overloaded
from service.guard import EdgeGuard, HeldBytes

LIMIT_BYTES = 1_000
SLOW = b"slow"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    if body == SLOW:
        await asyncio.sleep(60)
    await Response(body)(scope, receive, send)


class Edge:
    def __init__(self, folder: Path, body_timeout_s: float = 5) -> None:
        self.refusals: list[str] = []
        self.refusal: RequestError | None = None
        self.is_ending = False
        self.guard = EdgeGuard(
            echo,
            methods={"/echo": ("POST",), "/livez": ("GET", "HEAD")},
            max_body_bytes=LIMIT_BYTES,
            body_timeout_s=body_timeout_s,
            held=HeldBytes(2 * LIMIT_BYTES),
            on_refusal=self.refusals.append,
            balance=Balance(folder / "load", 1),
            admission=lambda path, headers: self.refusal,
            is_ending=lambda: self.is_ending,
        )
        self.client = TestClient(self.guard)


@pytest.fixture
def edge(tmp_path: Path) -> Edge:
    return Edge(tmp_path)


def test_an_allowed_request_arrives_whole(edge: Edge) -> None:
    body = b"x" * LIMIT_BYTES
    answer = edge.client.post("/echo", content=body)
    assert (answer.status_code, answer.content, edge.refusals) == (200, body, [])


@pytest.mark.parametrize("path", ["/", "/echo/", "/classify", "/docs.json", "/../etc/passwd", "/metrics/x"])
def test_an_unknown_path_is_refused(edge: Edge, path: str) -> None:
    answer = edge.client.get(path)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["reason"], error["field"]) == ("path_unknown", "path")
    assert error["wanted"] == "one of /echo, /livez"
    assert edge.refusals == ["path_unknown"]


def test_another_method_is_refused_and_told_the_right_one(edge: Edge) -> None:
    answer = edge.client.get("/echo")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert answer.json()["error"]["message"] == "method: found 'GET', wanted POST for /echo"


def test_a_declared_length_over_the_limit_is_refused_unread(edge: Edge) -> None:
    answer = edge.client.post("/echo", content=b"x" * (LIMIT_BYTES + 1))
    assert answer.status_code == 413
    assert answer.json()["error"] == {
        "reason": "body_too_large",
        "field": "body",
        "found": "a body of 1,001 bytes",
        "wanted": "at most 1,000 bytes",
        "message": "body: found a body of 1,001 bytes, wanted at most 1,000 bytes",
    }


def test_an_undeclared_length_is_counted_as_it_arrives(edge: Edge) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(11):
            yield b"x" * 100

    answer = edge.client.post("/echo", content=chunks())
    assert answer.status_code == 413
    assert answer.json()["error"]["found"] == "a body of more than 1,000 bytes"


async def talk(guard: EdgeGuard, messages: list[Message]) -> list[Message]:
    """What the guard sends to a client that sends `messages`, then nothing for ever."""
    sent: list[Message] = []

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/echo", "headers": []}
    await guard(scope, receive, send)
    return sent


def test_a_client_that_stops_sending_is_answered_408(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.guard._LINGER_S", 0.01)
    edge = Edge(tmp_path, body_timeout_s=0.05)
    sent = asyncio.run(talk(edge.guard, [{"type": "http.request", "body": b"abc", "more_body": True}]))
    assert sent[0]["status"] == 408
    assert b"3 bytes after 0.05 s" in sent[1]["body"]
    assert edge.refusals == ["body_too_slow"]


def test_who_still_sends_at_the_end_is_told_so(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.guard._LINGER_S", 0.01)

    async def run() -> list[Message]:
        half: list[Message] = [{"type": "http.request", "body": b"abc", "more_body": True}]
        talking = asyncio.create_task(talk(edge.guard, half))
        await asyncio.sleep(0.05)
        edge.is_ending = True
        talking.cancel()  # as uvicorn does with whoever is there when its time to stop is over
        return await talking

    sent = asyncio.run(run())
    assert sent[0]["status"] == 408
    assert edge.refusals == ["body_too_slow"]


@pytest.mark.parametrize("is_ending", [True, False])
def test_who_waits_for_an_answer_at_the_end_is_sent_elsewhere(edge: Edge, is_ending: bool) -> None:
    async def run() -> list[Message]:
        talking = asyncio.create_task(talk(edge.guard, [{"type": "http.request", "body": SLOW}]))
        await asyncio.sleep(0.05)
        edge.is_ending = is_ending
        talking.cancel()
        return await talking

    if is_ending:
        start, body = asyncio.run(run())
        headers = dict(start["headers"])
        assert (start["status"], headers[b"retry-after"], headers[b"connection"]) == (503, b"1", b"close")
        assert b"found a server that stops, wanted a retry" in body["body"]
        assert edge.refusals == ["stopping"]
    else:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(run())


def test_a_client_that_goes_away_is_not_answered(edge: Edge) -> None:
    gone = [{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.disconnect"}]
    assert asyncio.run(talk(edge.guard, gone)) == []


def test_a_websocket_is_closed(edge: Edge) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    asyncio.run(edge.guard({"type": "websocket", "path": "/echo"}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_what_is_not_admitted_is_refused_once_its_body_is_here(edge: Edge) -> None:
    edge.refusal = overloaded("queue_full", found="a", wanted="b", retry_after_s=3)
    answer = edge.client.post("/echo", content=b"x")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert "connection" not in answer.headers  # it may ask again
    assert edge.refusals == ["queue_full"]


def test_bodies_have_one_budget_together_and_give_it_back(tmp_path: Path) -> None:
    edge = Edge(tmp_path)
    edge.guard.held.now = 2 * LIMIT_BYTES - 10  # as other requests would hold
    refused = edge.client.post("/echo", content=b"x" * 11)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["reason"] == "bodies_full"
    assert refused.json()["error"]["found"] == "1,990 bytes of requests held already"
    assert edge.client.post("/echo", content=b"x" * 10).status_code == 200
    assert edge.guard.held.now == 2 * LIMIT_BYTES - 10


def test_a_length_with_5000_zeros_is_a_length(edge: Edge) -> None:
    assert asyncio.run(_status(edge.guard, [(b"content-length", b"0" * 5_000 + b"1")])) == 200


def test_a_length_of_5000_digits_is_too_large(edge: Edge) -> None:
    assert asyncio.run(_status(edge.guard, [(b"content-length", b"9" * 5_000)])) == 413


def test_a_compressed_body_is_refused_and_told_what_is_wanted(edge: Edge) -> None:
    answer = edge.client.post("/echo", content=b"x", headers={"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["error"]["found"]) == (415, "'gzip'")


def test_the_work_for_a_client_that_is_gone_is_stopped(tmp_path: Path) -> None:
    ended: list[str] = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("stopped")
            raise

    edge = Edge(tmp_path)
    edge.guard.app = slow
    messages: list[Message] = [
        {"type": "http.request", "body": b"x", "more_body": False},
        {"type": "http.disconnect"},
    ]

    async def run() -> None:
        async def receive() -> Message:
            return messages.pop(0)

        async def send(message: Message) -> None:
            raise AssertionError(message)

        await edge.guard({"type": "http", "path": "/echo", "method": "POST", "headers": []}, receive, send)
        await asyncio.sleep(0)  # the other task hears of it a turn later
        assert ended == ["stopped"]

    asyncio.run(run())
    assert (ended, edge.refusals, edge.guard.held.now) == (["stopped"], ["client_gone"], 0)


async def _status(guard: EdgeGuard, headers: list[tuple[bytes, bytes]]) -> int:
    messages: list[Message] = [{"type": "http.request", "body": b"x", "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.sleep(60)
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    await guard({"type": "http", "path": "/echo", "method": "POST", "headers": headers}, receive, send)
    status: int = sent[0]["status"]
    return status


def test_before_the_end_every_answer_ends_its_connection(edge: Edge) -> None:
    assert "connection" not in edge.client.get("/livez").headers
    edge.is_ending = True
    assert edge.client.get("/livez").headers["connection"] == "close"
    edge.refusal = overloaded("queue_full", found="much", wanted="less")
    assert edge.client.post("/echo", content=b"a").headers["connection"] == "close"
