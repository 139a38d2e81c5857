"""Hostile requests on every door of a real server: some hundred here, 10,000 a door by `make fuzz`."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from live_server import LiveServer
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.generation import GenerationMode

from benchmarks.fuzz import SEED, Figures, doors, failures, fuzz, good_answer
from benchmarks.hostile import ATTEMPTS, RIGHT_MESSAGES
from service.http_protocol import MOST_BYTES
from service.openapi import specification

REQUESTS = 300  # a door
BY_SCHEMA = 60  # an operation, right and wrong
GROWTH = 1.10

load_all_checks()
# "A server error", "an undocumented status" and so on; that all that fits the schema is accepted is not
# promised: a picture must also be one.
CONFORMS = CHECKS.get_by_names(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
    ]
)
OPERATIONS = [found.ok() for found in schemathesis.openapi.from_dict(specification()).get_all_operations()]
ASKED = [
    pytest.param(operation, mode, id=f"{operation.label} {mode.value}")
    for operation in OPERATIONS
    for mode in GenerationMode
    # Without anything to send there is nothing to get wrong.
    if operation.body or operation.query or mode is GenerationMode.POSITIVE
]


@pytest.fixture(scope="module")
def server(stocked_home: Path) -> Iterator[LiveServer]:
    server = LiveServer(stocked_home, workers=2, AISLE_MAX_QUEUE="100000", AISLE_MAX_BULK="100000")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def before(server: LiveServer) -> tuple[list[Any], set[int], int]:
    """A good answer, the workers and their memory, after some hostile requests on each door."""
    good = good_answer(server.port)
    for door in doors():
        fuzz(door, server.port, server.grpc_port, SEED, range(10_000, 10_100), Figures())
    return good, set(server.workers()), server.resident_bytes()


@pytest.mark.parametrize("door", [*ATTEMPTS, *RIGHT_MESSAGES])
def test_whatever_is_sent_is_answered_or_refused_as_it_should_be(
    server: LiveServer, before: object, door: str
) -> None:
    figures = Figures()
    fuzz(door, server.port, server.grpc_port, SEED, range(REQUESTS), figures)
    assert figures.faults == []
    assert figures.requests == REQUESTS


@pytest.mark.parametrize(("operation", "mode"), ASKED)
def test_answers_are_what_the_openapi_page_says(
    server: LiveServer, before: object, operation: Any, mode: GenerationMode
) -> None:
    @seed(SEED)
    @settings(
        max_examples=BY_SCHEMA,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        response = case.call(base_url=server.url)
        case.validate_response(response, checks=CONFORMS)

    ask()


def test_headers_are_bounded_before_the_guard(server: LiveServer) -> None:
    """The protocol is put under BentoML's server: it must have taken it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\na: " + b"b" * MOST_BYTES + b"\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 431")


def test_the_server_is_as_it_was_before(server: LiveServer, before: tuple[list[Any], set[int], int]) -> None:
    # After all the others.
    good, workers, resident_bytes = before
    assert good_answer(server.port) == good
    assert set(server.workers()) == workers
    assert failures(server.port) == {}
    assert server.resident_bytes() < GROWTH * resident_bytes
