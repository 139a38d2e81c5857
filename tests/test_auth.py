"""A real service of two workers that asks for keys: every door, over every protocol. Its database and its
Redis are away, so that what it says of them is in its log too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import grpc
import httpx
import pytest
import yaml
from certificates import Authority
from google.protobuf import descriptor_pool
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc.aio._server import Server
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from live_server import ROOT, LiveServer, free_port
from programs import program
from tiny_service import TinyService, nothing, tiny_classifier
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from aisle.image import ImageEncoder
from aisle.text import TextEncoder
from service.doors import METHODS, Doors
from service.grpc_server import GrpcServer
from service.guard import HeldBytes
from service.keys import KeyBook, Scope
from service.openapi import specification
from service.porter import ANY_KEY, GRPC, HTTP, OPEN
from service.protos import classifier_pb2 as pb
from service.protos.classifier_pb2_grpc import ClassifierStub

PASSWORDS = ("pass-of-the-store", "pass-of-the-ledger")
ONE = {"products": [{"title": "train bois"}]}


class Guarded(LiveServer):
    """A server, and a key of each scope. What it ever printed is in its log."""

    def __init__(self, home: Path) -> None:
        self.book = KeyBook(home / "keys.json")
        self.keys = {scope: self.book.add(f"{scope}-client", [scope])[1] for scope in Scope}
        nowhere = free_port()
        super().__init__(
            home,
            workers=2,
            AISLE_AUTH="keys",
            AISLE_MAX_BATCH="8",
            AISLE_GRPC_REFLECTION="1",
            AISLE_ACCESS_LOG="1",
            AISLE_REDIS_URL=f"redis://:{PASSWORDS[0]}@127.0.0.1:{nowhere}",
            AISLE_DATABASE_URL=f"postgresql://aisle:{PASSWORDS[1]}@127.0.0.1:{nowhere}/aisle",
        )
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}")

    def ask(self, path: str, key: str | None = None, **headers: str) -> httpx.Response:
        """The first method of a path, with a body that says nothing."""
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        return httpx.request(METHODS[path][0], self.url + path, headers=headers, timeout=60)

    def classify_with(self, key: str, products: int = 1) -> httpx.Response:
        """On a connection of its own, so that any worker may get it."""
        body = {"products": ONE["products"] * products}
        return httpx.post(f"{self.url}/v1/classify", json=body, headers={"X-API-Key": key}, timeout=60)

    def call(self, method: str, key: str | None = None) -> grpc.Call:
        """Any method, with an empty message; it has ended, or is cancelled after a second."""
        metadata = () if key is None else (("authorization", f"Bearer {key}"),)
        call = self.channel.stream_stream(method)(iter([b""]), metadata=metadata, timeout=1)
        for _ in _answers(call):
            pass
        return call

    def audited(self) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith('{"at"')]

    def outcomes(self) -> dict[str, float]:
        text = self.ask("/metrics", self.keys[Scope.METRICS]).text
        found = re.findall(r'^aisle_auth_total\{outcome="(\w+)"\} (\S+)', text, re.MULTILINE)
        return {outcome: float(count) for outcome, count in found}


def _answers(call: Any) -> Iterator[bytes]:
    try:
        yield from call
    except grpc.RpcError:
        return


def details(error: grpc.RpcError | grpc.Call) -> tuple[ErrorInfo, RetryInfo]:
    info, retry = ErrorInfo(), RetryInfo()
    for detail in Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"]).details:
        detail.Unpack(info)
        detail.Unpack(retry)
    return info, retry


@pytest.fixture(scope="module")
def server(own_tiny_home: Path) -> Iterator[Guarded]:
    server = Guarded(own_tiny_home)
    yield server
    server.channel.close()
    server.stop()


# No door is open by accident: what is served, as the code has it, against what is locked.


def grpc_methods(service: TinyService) -> set[str]:
    """Every method that a server with all its services was given."""
    given: list[Any] = []

    async def make() -> None:
        GrpcServer(
            lambda: service.desk,
            telemetry=service.desk.telemetry,
            held=HeldBytes(1),
            max_message_bytes=1,
            message_timeout_s=1,
            reflect=True,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "add_generic_rpc_handlers", lambda _, handlers: given.extend(handlers))
        asyncio.run(make())
    return {method for handler in given for method in handler._method_handlers}


def unused() -> NoReturn:
    raise AssertionError("nobody asks")


@pytest.fixture
def service(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder) -> TinyService:
    return TinyService(tiny_classifier(tiny_text_encoder, tiny_image_encoder))


def test_every_path_has_a_lock() -> None:
    assert set(METHODS) == set(HTTP)


def test_every_route_of_ours_has_a_lock(service: TinyService) -> None:
    telemetry = service.desk.telemetry
    paths = set(Doors(lambda: service.desk, unused, unused, telemetry=telemetry, beside=nothing).doors)
    assert len(paths) >= 10
    assert paths <= set(HTTP)
    assert set(METHODS) - paths == {"/livez", "/readyz", "/metrics", "/schema.json"}  # BentoML's


def test_every_method_over_grpc_has_a_lock(service: TinyService) -> None:
    methods = grpc_methods(service)
    assert len(methods) >= 11
    assert methods == set(GRPC)


def test_only_probes_are_open() -> None:
    assert {path for path, wanted in HTTP.items() if wanted == OPEN} == {"/livez", "/readyz"}
    assert {path for path, wanted in HTTP.items() if wanted == ANY_KEY} == {"/openapi.json", "/schema.json"}
    open_methods = {method for method, wanted in GRPC.items() if wanted == OPEN}
    assert {method.rpartition("/")[0] for method in open_methods} == {"/grpc.health.v1.Health"}


LOCKED = sorted(path for path in METHODS if HTTP[path] != OPEN)
LOCKED_CALLS = sorted(method for method, wanted in GRPC.items() if wanted != OPEN)


@pytest.mark.parametrize("path", sorted(set(METHODS) - set(LOCKED)))
def test_a_probe_needs_no_key(server: Guarded, path: str) -> None:
    assert server.ask(path).status_code == 200


@pytest.mark.parametrize("path", LOCKED)
def test_without_a_key_no_path_answers(server: Guarded, path: str) -> None:
    answer = server.ask(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="aisle"'
    told = answer.json()["error"]
    message = told if path.startswith("/v2") else told["message"]
    assert message == "Authorization: found no key, wanted Bearer KEY, or KEY in the header X-API-Key"


@pytest.mark.parametrize("path", [path for path in LOCKED if HTTP[path] != ANY_KEY])
def test_a_path_answers_its_scopes_alone(server: Guarded, path: str) -> None:
    statuses = {scope: server.ask(path, key).status_code for scope, key in server.keys.items()}
    assert {scope for scope, status in statuses.items() if status == 403} == set(Scope) - HTTP[path]
    assert not {401, 404, 405} & set(statuses.values())


@pytest.mark.parametrize("path", ["/openapi.json", "/schema.json"])
def test_a_description_wants_any_key(server: Guarded, path: str) -> None:
    assert [server.ask(path, key).status_code for key in server.keys.values()] == [200] * len(Scope)


@pytest.mark.parametrize("method", LOCKED_CALLS)
def test_without_a_key_no_method_answers(server: Guarded, method: str) -> None:
    call = server.call(method)
    assert call.code() is grpc.StatusCode.UNAUTHENTICATED
    assert call.details() == (
        "Authorization: found no key, wanted Bearer KEY, or KEY in the header X-API-Key"
    )
    assert details(call)[0].reason == "key_missing"


@pytest.mark.parametrize("method", LOCKED_CALLS)
def test_a_method_answers_one_scope_alone(server: Guarded, method: str) -> None:
    codes = {scope: server.call(method, key).code() for scope, key in server.keys.items()}
    [wanted] = GRPC[method]
    denied = {scope for scope, code in codes.items() if code is grpc.StatusCode.PERMISSION_DENIED}
    assert denied == set(Scope) - {wanted}
    assert codes[wanted] is not grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("method", sorted(set(GRPC) - set(LOCKED_CALLS)))
def test_health_needs_no_key(server: Guarded, method: str) -> None:
    wanted = grpc.StatusCode.DEADLINE_EXCEEDED if method.endswith("Watch") else grpc.StatusCode.OK
    assert server.call(method).code() is wanted


def test_reflection_shows_an_admin_the_services(server: Guarded) -> None:
    asked = ServerReflectionStub(server.channel).ServerReflectionInfo(
        iter([ServerReflectionRequest(list_services="")]),
        metadata=[("x-api-key", server.keys[Scope.ADMIN])],
        timeout=10,
    )
    names = {service.name for service in next(asked).list_services_response.service}
    pool = descriptor_pool.Default()
    methods = {f"/{name}/{m.name}" for name in names for m in pool.FindServiceByName(name).methods}
    assert methods == set(GRPC)


def test_the_openapi_page_says_which_doors_are_locked() -> None:
    page = specification()
    assert page["security"] == [{"bearer": []}, {"header": []}]
    assert page["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for path, operations in page["paths"].items():
        for operation in operations.values():
            assert (operation.get("security") == []) == (HTTP[path] == OPEN)
            assert ({"401", "403"} <= set(operation["responses"])) == (HTTP[path] != OPEN)


# Ways around.


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("//v1/classify", 404),
        ("/v1/classify/", 404),
        ("/V1/classify", 404),
        ("/v1/classify;x=/livez", 404),
        ("/livez/../v1/classify", 404),
        ("/livez%2f..%2fv1/classify", 404),
        ("/v1/classify%00", 404),
        ("/v1/%63lassify", 401),
        ("/v1/classify?x=/livez", 401),
        ("/v1/classify#/livez", 401),
        ("http://127.0.0.1/v1/classify", 401),
    ],
)
def test_no_spelling_of_a_path_goes_around_its_lock(server: Guarded, target: str, status: int) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(f"POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        assert client.recv(100).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override: GET", "X-Original-URL: /livez", "Upgrade: h2c"])
def test_no_header_goes_around_a_lock(server: Guarded, header: str) -> None:
    name, _, value = header.partition(": ")
    assert server.ask("/v1/classify", **{name: value}).status_code == 401


def test_a_request_behind_an_open_one_is_asked_too(server: Guarded) -> None:
    head = "GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(head.encode())
        said = b""
        while said.count(b"HTTP/1.1 ") < 2 and (more := client.recv(4_096)):
            said += more
    assert [part[:3] for part in said.split(b"HTTP/1.1 ")[1:]] == [b"200", b"401"]


# Clients that are not ours.


def test_bentomls_own_client_sends_a_key(server: Guarded) -> None:
    ask = (  # in a process of its own: it leaves a folder to be cleaned up, which pytest takes for an error
        "import bentoml, sys\n"
        "with bentoml.SyncHTTPClient(sys.argv[1], token=sys.argv[2]) as client:\n"
        "    answer = client.request('POST', '/v1/classify', json={'products': [{'title': 'a'}]})\n"
        "print(answer.status_code)"
    )
    words = [sys.executable, "-c", ask, server.url, server.keys[Scope.CLASSIFY]]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "200\n"


def test_tritons_client_sends_a_key(server: Guarded) -> None:
    client = InferenceServerClient(f"127.0.0.1:{server.port}")
    headers = {"Authorization": f"Bearer {server.keys[Scope.CLASSIFY]}"}
    assert client.is_model_ready("aisle-classifier", headers=headers)
    with pytest.raises(InferenceServerException, match="found no key"):
        client.get_model_metadata("aisle-classifier")
    client.close()


def test_prometheus_scrapes_with_its_key_and_not_with_another(server: Guarded, tmp_path: Path) -> None:
    jobs = []
    for scope in (Scope.METRICS, Scope.CLASSIFY):
        (tmp_path / scope).write_text(server.keys[scope] + "\n")
        jobs.append(
            {
                "job_name": str(scope),
                "static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}],
                "authorization": {"credentials_file": str(scope)},
            }
        )
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    here = f"127.0.0.1:{free_port()}"
    flags = [f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with (tmp_path / "log").open("wb") as log:
        command = [program("prometheus"), *flags, f"--web.listen-address={here}"]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        up: dict[str, str] = {}
        deadline = time.monotonic() + 30
        while len(up) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
            with contextlib.suppress(httpx.TransportError, ValueError):
                found = httpx.get(f"http://{here}/api/v1/query", params={"query": "up"}).json()
                up = {one["metric"]["job"]: one["value"][1] for one in found["data"]["result"]}
        assert up == {"metrics": "1", "classify": "0"}
    finally:
        process.kill()
        process.wait()


# What is not read.


def test_the_body_of_a_stranger_is_not_waited_for(server: Guarded) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Length: 60000000\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("request_line", [b"POST /v1/classify", b"POST /nowhere", b"PUT /v1/classify"])
def test_little_of_the_body_of_a_stranger_is_read(server: Guarded, request_line: bytes) -> None:
    head = request_line + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000000\r\n\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(head)
        with contextlib.suppress(ConnectionError):
            while sent < 1_000 * 2**20:
                client.sendall(bytes(2**20))
                sent += 2**20
    assert sent < 32 * 2**20  # a mebibyte, and what the kernel's buffers hold


def test_a_large_message_of_a_stranger_is_not_read(server: Guarded) -> None:
    large = pb.ClassifyRequest(products=[pb.Product(title="a", image=bytes(65 * 2**20))])
    with pytest.raises(grpc.RpcError) as caught:
        ClassifierStub(server.channel).Classify(large, timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # read, it would be too large


# Rates.


def test_two_workers_count_one_rate(server: Guarded) -> None:
    """A burst of 256: eight requests of 32, whoever they go to. A product more comes after 1,000 s."""
    _, key = server.book.add("slow", [Scope.CLASSIFY], rate=0.001)
    time.sleep(2.1)
    with ThreadPoolExecutor(8) as pool:
        first = list(pool.map(lambda _: server.classify_with(key, 32), range(8)))
        then = list(pool.map(lambda _: server.classify_with(key, 32), range(16)))
    assert [answer.status_code for answer in first + then] == [200] * 8 + [429] * 16
    assert {answer.json()["error"]["reason"] for answer in then} == {"rate_exceeded"}
    assert {0 < int(answer.headers["retry-after"]) <= 1_000 for answer in then} == {True}
    one = pb.ClassifyRequest(products=[pb.Product(title="a")])
    with pytest.raises(grpc.RpcError) as caught:
        ClassifierStub(server.channel).Classify(one, metadata=[("x-api-key", key)], timeout=30)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    info, retry = details(caught.value)
    assert (info.reason, info.metadata["wanted"]) == (
        "rate_exceeded",
        "at most 0.001 products a second, or a retry",
    )
    assert retry.retry_delay.seconds >= 1


# Revoked while it is in use.


def test_a_revoked_key_stops_in_every_worker_and_in_open_streams(server: Guarded) -> None:
    key, text = server.book.add("leaver", [Scope.CLASSIFY])
    time.sleep(2.1)
    one = pb.ClassifyRequest(products=[pb.Product(title="train bois")])
    answered = threading.Event()

    def messages() -> Iterator[pb.ClassifyRequest]:
        yield one
        assert answered.wait(60)
        server.book.revoke(key.id)
        time.sleep(2.1)
        yield one

    stream = ClassifierStub(server.channel).ClassifyStream(
        messages(), metadata=[("x-api-key", text)], timeout=120
    )
    first = next(stream)
    answered.set()
    second = next(stream)
    assert first.results[0].HasField("prediction")
    assert second.results[0].error.reason == "key_revoked"
    statuses = {server.classify_with(text).status_code for _ in range(10)}
    assert statuses == {401}


# What is written down.


def test_an_admin_is_written_down_with_name_and_address(server: Guarded) -> None:
    key = server.keys[Scope.ADMIN]
    asked = ServerReflectionStub(server.channel).ServerReflectionInfo(
        iter([ServerReflectionRequest(list_services="")]), metadata=[("x-api-key", key)], timeout=10
    )
    next(asked)
    [line] = [line for line in server.audited() if line["outcome"] == "allowed"][-1:]
    assert line.pop("at")
    line.pop("refusals_unwritten", None)
    assert line == {
        "outcome": "allowed",
        "protocol": "grpc",
        "method": "POST",
        "path": "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "key": key.split("_")[1],
        "name": "admin-client",
        "client": "127.0.0.1",
    }


@pytest.mark.parametrize("path", ["/v1/monitor", "/v1/predictions", "/v1/products"])
def test_an_admin_is_written_down_over_http_too(server: Guarded, path: str) -> None:
    server.ask(path, server.keys[Scope.ADMIN])
    [line] = [line for line in server.audited() if line["outcome"] == "allowed"][-1:]
    assert (line["protocol"], line["method"], line["path"]) == ("http", "GET", path)
    assert (line["name"], line["client"]) == ("admin-client", "127.0.0.1")


def test_a_client_cannot_write_into_the_log(server: Guarded) -> None:
    forged = '1.2.3.4", "outcome": "allowed'
    time.sleep(2.1)  # the log has room for refusals again
    headers = {"X-Forwarded-For": forged, "User-Agent": '{"at": "forged"}'}
    server.ask("/v1/classify", 'aisle_\t{"at": "forged"}', **headers)
    [line] = [line for line in server.audited() if line["outcome"] == "key_wrong"][-1:]
    assert (line["client"], line["key"], line["name"]) == ("unknown", None, None)


def test_every_outcome_is_counted(server: Guarded) -> None:
    before = server.outcomes()
    server.ask("/v1/classify")
    server.ask("/v1/classify", "aisle_" + "0" * 12 + "_" + "0" * 64)
    server.ask("/v1/labels", server.keys[Scope.CLASSIFY])
    after = server.outcomes()
    rise = {
        outcome: after[outcome] - before[outcome] for outcome in after if after[outcome] > before[outcome]
    }
    assert rise == {"key_missing": 1, "key_wrong": 1, "scope_missing": 1, "allowed": 1}


def test_no_secret_is_in_anything_that_it_said(server: Guarded) -> None:
    """The last test of `server`: its whole output, metrics and errors."""
    metrics = server.ask("/metrics", server.keys[Scope.METRICS]).text
    wrong = "aisle_" + "1" * 12 + "_" + "5" * 64
    answered = server.ask("/v1/classify", wrong).text
    server.stop()
    said = server.log.read_text() + metrics + answered
    assert "the ledger is away" in said
    for key in server.book.read():
        assert key.sha256 not in said
    for text in (*server.keys.values(), wrong):
        assert text.split("_")[2] not in said
    for password in PASSWORDS:
        assert password not in said


# What is refused before it starts.


def environment(home: Path, **settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AISLE_")}
    return {**kept, "AISLE_HOME": str(home), "BENTOML_HOME": str(home / "bentoml"), **settings}


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_without_keys_nothing_is_served_to_other_machines(tiny_home: Path, host: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "serve", "--host", host],
        cwd=ROOT,
        env=environment(tiny_home),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    told = " ".join(done.stderr.replace("│", " ").split())
    assert f"AISLE_AUTH: found off with --host '{host}', which other machines may reach" in told
    assert "wanted AISLE_AUTH=keys" in told


@pytest.mark.parametrize(
    ("host", "settings", "message"),
    [
        ("0.0.0.0", {}, "AISLE_AUTH: found off with a server on '0.0.0.0', which other machines may reach"),
        ("127.0.0.1", {"AISLE_GRPC_HOST": "0.0.0.0"}, "AISLE_AUTH: found off with AISLE_GRPC_HOST '0.0.0.0'"),
        ("127.0.0.1", {"TLS": "on"}, "AISLE_TLS_CERT: found a server that speaks no TLS over HTTP"),
    ],
)
def test_nor_by_a_worker_that_bentoml_starts_itself(
    tiny_home: Path, tmp_path: Path, host: str, settings: dict[str, str], message: str
) -> None:
    log = tmp_path / "log"
    if settings.pop("TLS", ""):
        cert, key = Authority(tmp_path).sign("server")
        settings |= {"AISLE_TLS_CERT": str(cert), "AISLE_TLS_KEY": str(key)}
    command = ["bentoml", "serve", "service.app:Aisle", "--host", host, "--port", str(free_port())]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment(tiny_home, AISLE_GRPC_PORT=str(free_port()), **settings),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while message not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert f"this worker cannot start: {message}" in log.read_text()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
