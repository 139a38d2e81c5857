"""TLS for both servers, from PEM files; checked when the service starts."""

from __future__ import annotations

import codecs
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import PublicKeyAlgorithmOID

from aisle.errors import SettingError

CERT, KEY, CLIENT_CA = "AISLE_TLS_CERT", "AISLE_TLS_KEY", "AISLE_TLS_CLIENT_CA"
_LEAST_RSA_BITS = 2_048


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Certificate with its chain, private key, and who may be a client (None: anybody). Raises SettingError
    where they cannot be used."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def __post_init__(self) -> None:
        certificate = _certificates(CERT, self.cert)[0]
        self._check_dates(certificate)
        self._check_algorithm(certificate)
        _read(KEY, self.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert, self.key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise SettingError(
                f"{KEY}: found {self.key}, wanted the private key of {self.cert}, in PEM and without a "
                "password"
            ) from error
        if self.client_ca is not None:
            _certificates(CLIENT_CA, self.client_ca)

    def _check_dates(self, certificate: x509.Certificate) -> None:
        now, until = datetime.now(UTC), certificate.not_valid_after_utc
        if now >= until or now < certificate.not_valid_before_utc:
            days = f"{certificate.not_valid_before_utc:%Y-%m-%d} to {until:%Y-%m-%d}"
            raise SettingError(f"{CERT}: found a certificate for {days}, wanted one that is valid now")

    def _check_algorithm(self, certificate: x509.Certificate) -> None:
        """OpenSSL, which serves HTTP, takes more than BoringSSL, which serves gRPC."""
        key = certificate.public_key()
        if certificate.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5:
            assert isinstance(key, rsa.RSAPublicKey)
            is_served, found = key.key_size >= _LEAST_RSA_BITS, f"RSA of {key.key_size:,} bits"
        elif isinstance(key, ec.EllipticCurvePublicKey):
            is_served, found = isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1), key.curve.name
        else:
            is_served, found = False, certificate.public_key_algorithm_oid._name
        if not is_served:
            wanted = f"RSA of {_LEAST_RSA_BITS:,} bits or more, P-256 or P-384, which gRPC can serve"
            raise SettingError(f"{CERT}: found {self.cert} for a key of {found}, wanted {wanted}")

    def bentoml_options(self) -> list[str]:
        """Options of `bentoml serve`."""
        options = ["--ssl-certfile", str(self.cert), "--ssl-keyfile", str(self.key)]
        if self.client_ca is not None:
            options += ["--ssl-ca-certs", str(self.client_ca), "--ssl-cert-reqs", str(int(ssl.CERT_REQUIRED))]
        return options

    def grpc_credentials(self) -> grpc.ServerCredentials:
        roots = None if self.client_ca is None else self.client_ca.read_bytes()
        pair = (self.key.read_bytes(), self.cert.read_bytes())
        return grpc.ssl_server_credentials([pair], roots, require_client_auth=roots is not None)


def tls_of(cert: Path | None, key: Path | None, client_ca: Path | None) -> Tls | None:
    """None where there is none. Raises SettingError."""
    if cert is not None and key is not None:
        return Tls(cert=cert, key=key, client_ca=client_ca)
    if cert is not None or key is not None or client_ca is not None:
        alone = CERT if cert else KEY if key else CLIENT_CA
        raise SettingError(f"{alone}: found without the others, wanted {CERT} and {KEY}, or none of them")
    return None


def _certificates(name: str, file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(name, file))
    except ValueError as error:
        raise SettingError(f"{name}: found {file}, wanted a certificate in PEM") from error


def _read(name: str, file: Path) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SettingError(
            f"{name}: found {file}, of which the system says {error.strerror!r}, wanted a file in PEM"
        ) from error
    if data.startswith(codecs.BOM_UTF8):  # OpenSSL reads on, BoringSSL finds nothing
        raise SettingError(f"{name}: found {file} with a byte order mark, wanted a file in PEM without one")
    return data


def _no_password() -> str:
    raise ValueError("a key with a password")  # instead of asking the terminal
