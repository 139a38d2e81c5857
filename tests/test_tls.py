"""TLS: what is checked before the start, and a real service that speaks it on both ports."""

from __future__ import annotations

import asyncio
import codecs
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from certificates import Authority, Key
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from live_server import LiveServer
from typer.testing import CliRunner

from aisle.errors import SettingError
from service.__main__ import cli
from service.protos import classifier_pb2 as pb
from service.protos.classifier_pb2_grpc import ClassifierStub
from service.settings import Settings
from service.tls import Tls

Files = dict[str, tuple[Path, Path]]
ONE = pb.ClassifyRequest(products=[pb.Product(title="train bois")])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def files(authority: Authority) -> Files:
    return {
        "server": authority.sign("server"),
        "client": authority.sign("client"),
        "old": authority.sign("old", days=-0.5),
        "locked": authority.sign("locked", password=b"secret"),
    }


# Before the start.


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"CERT": "server"},
            "AISLE_TLS_CERT: found without the others, wanted AISLE_TLS_CERT and AISLE_TLS_KEY",
        ),
        ({"KEY": "server"}, "AISLE_TLS_KEY: found without the others"),
        ({"CLIENT_CA": "server"}, "AISLE_TLS_CLIENT_CA: found without the others"),
        (
            {"CERT": "none", "KEY": "server"},
            "AISLE_TLS_CERT: found .*none.pem, of which the system says 'No such",
        ),
        (
            {"CERT": "server", "KEY": "none"},
            "AISLE_TLS_KEY: found .*none.key, of which the system says 'No such",
        ),
        ({"CERT": "server", "KEY": "client"}, "AISLE_TLS_KEY: found .*client.key, wanted the private key of"),
        ({"CERT": "locked", "KEY": "locked"}, "AISLE_TLS_KEY: found .*locked.key, .* without a password"),
        (
            {"CERT": "old", "KEY": "old"},
            "AISLE_TLS_CERT: found a certificate for .*, wanted one that is valid now",
        ),
        ({"CERT": "text", "KEY": "server"}, "AISLE_TLS_CERT: found .*text.pem, wanted a certificate in PEM"),
        (
            {"CERT": "server", "KEY": "server", "CLIENT_CA": "text"},
            "AISLE_TLS_CLIENT_CA: found .*text.pem, wanted a certificate in PEM",
        ),
    ],
)
def test_files_that_cannot_be_used_are_refused(
    authority: Authority, files: Files, variables: dict[str, str], message: str
) -> None:
    (authority.folder / "text.pem").write_text("no certificate")
    ends = {"KEY": ".key"}
    environ = {
        f"AISLE_TLS_{name}": str(authority.folder / f"{value}{ends.get(name, '.pem')}")
        for name, value in variables.items()
    }
    with pytest.raises(SettingError) as caught:
        Settings.from_environment(environ).tls()
    assert re.match(message, str(caught.value)), str(caught.value)


@pytest.mark.parametrize(("name", "end"), [("CERT", ".pem"), ("KEY", ".key"), ("CLIENT_CA", ".pem")])
def test_a_byte_order_mark_is_refused(authority: Authority, files: Files, name: str, end: str) -> None:
    plain = authority.folder / f"server{end}"
    marked = authority.folder / f"marked{end}"
    marked.write_bytes(codecs.BOM_UTF8 + plain.read_bytes())
    environ = {
        f"AISLE_TLS_{kind}": str(file) for kind, file in zip(("CERT", "KEY"), files["server"], strict=True)
    }
    with pytest.raises(SettingError, match=f"AISLE_TLS_{name}: found {marked} with a byte order mark"):
        Settings.from_environment({**environ, f"AISLE_TLS_{name}": str(marked)}).tls()


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
        (ec.generate_private_key(ec.SECP521R1()), "secp521r1"),
        (ed25519.Ed25519PrivateKey.generate(), "ed25519"),
        (rsa.generate_private_key(65_537, 1_024), "RSA of 1,024 bits"),
    ],
)
def test_a_key_that_grpc_cannot_serve_is_refused(authority: Authority, key: Key, found: str) -> None:
    cert, key_file = authority.sign("odd", key=key)
    with pytest.raises(SettingError, match=rf"AISLE_TLS_CERT: found .*odd.pem for a key of {found}, wanted"):
        Tls(cert=cert, key=key_file)


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65_537, 2_048)]
)
def test_a_key_that_grpc_can_serve_opens_its_port(authority: Authority, key: Key) -> None:
    cert, key_file = authority.sign("usual", key=key)

    async def run() -> int:
        server = grpc.aio.server()
        return server.add_secure_port("127.0.0.1:0", Tls(cert=cert, key=key_file).grpc_credentials())

    assert asyncio.run(run()) > 0


def test_the_command_ends_with_one_line_where_tls_cannot_be_spoken(files: Files) -> None:
    done = CliRunner().invoke(cli, ["serve"], env={"AISLE_TLS_CERT": str(files["server"][0])})
    assert done.exit_code == 2
    assert "AISLE_TLS_CERT: found without the others" in " ".join(done.stderr.replace("│", " ").split())


def test_bentoml_asks_for_clients_certificates_only_where_somebody_signs_them(files: Files) -> None:
    cert, key = files["server"]
    plain = ["--ssl-certfile", str(cert), "--ssl-keyfile", str(key)]
    assert Tls(cert=cert, key=key).bentoml_options() == plain
    both = Tls(cert=cert, key=key, client_ca=cert).bentoml_options()
    assert both == [*plain, "--ssl-ca-certs", str(cert), "--ssl-cert-reqs", "2"]


# A service that speaks it, to clients with a certificate.


@pytest.fixture(scope="module")
def server(authority: Authority, files: Files, own_tiny_home: Path) -> Iterator[LiveServer]:
    cert, key = map(str, files["server"])
    server = LiveServer(
        own_tiny_home,
        trust=authority.trust(files["client"]),
        AISLE_TLS_CERT=cert,
        AISLE_TLS_KEY=key,
        AISLE_TLS_CLIENT_CA=str(authority.file),
    )
    yield server
    server.client.close()  # TLS ends with words of both sides, and the server waits for its client's
    server.stop()


def classify_over_grpc(server: LiveServer, credentials: grpc.ChannelCredentials) -> int:
    with grpc.secure_channel(f"127.0.0.1:{server.grpc_port}", credentials) as channel:
        return len(ClassifierStub(channel).Classify(ONE, timeout=20).results)


def test_http_is_answered_over_tls(server: LiveServer) -> None:
    answer = server.client.post("/v1/classify", json={"products": [{"title": "train bois"}]})
    assert (answer.status_code, answer.url.scheme) == (200, "https")


def test_grpc_is_answered_over_tls(authority: Authority, files: Files, server: LiveServer) -> None:
    cert, key = files["client"]
    credentials = grpc.ssl_channel_credentials(
        authority.file.read_bytes(), key.read_bytes(), cert.read_bytes()
    )
    assert classify_over_grpc(server, credentials) == 1


def test_a_client_without_a_certificate_is_not_heard_over_http(
    authority: Authority, server: LiveServer
) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{server.url}/livez", verify=authority.trust(), timeout=10)


def test_a_client_without_a_certificate_is_not_heard_over_grpc(
    authority: Authority, server: LiveServer
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        classify_over_grpc(server, grpc.ssl_channel_credentials(authority.file.read_bytes()))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_who_signs_for_itself_is_not_heard(files: Files, server: LiveServer, tmp_path: Path) -> None:
    stranger = Authority(tmp_path)
    context = ssl.create_default_context(cafile=files["server"][0].parent / "ca.pem")
    context.load_cert_chain(*stranger.sign("stranger"))
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{server.url}/livez", verify=context, timeout=10)


def test_plain_words_are_not_answered(server: LiveServer) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{server.port}/livez", timeout=10)
    with (
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        ClassifierStub(channel).Classify(ONE, timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_tls_is_not_spoken(
    authority: Authority, files: Files, server: LiveServer, version: ssl.TLSVersion
) -> None:
    context = authority.trust(files["client"])
    context.minimum_version = context.maximum_version = version
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{server.url}/livez", verify=context, timeout=10)
