"""Certificates that the tests make themselves: an authority, and what it signs."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption
from cryptography.hazmat.primitives.serialization import PrivateFormat as Format
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


class Authority:
    """Signs certificates for 127.0.0.1 into `folder`; its own is `folder`/ca.pem."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("Aisle's tests")
        self.file = folder / "ca.pem"
        certificate = self._builder(self._name, self._key.public_key(), 1)
        certificate = certificate.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.file.write_bytes(certificate.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def sign(
        self, name: str, *, days: float = 1, password: bytes | None = None, key: Key | None = None
    ) -> tuple[Path, Path]:
        """Certificate, valid for so many days from yesterday on, and private key."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        own = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = self._builder(_named(name), key.public_key(), days).add_extension(own, critical=False)
        cert_file, key_file = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert_file.write_bytes(certificate.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        how = BestAvailableEncryption(password) if password else NoEncryption()
        key_file.write_bytes(key.private_bytes(Encoding.PEM, Format.PKCS8, how))
        return cert_file, key_file

    def trust(self, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """What a client that trusts this authority speaks TLS with, and who it is."""
        context = ssl.create_default_context(cafile=self.file)
        if client is not None:
            context.load_cert_chain(*client)
        return context

    def _builder(
        self, name: x509.Name, key: CertificatePublicKeyTypes, days: float
    ) -> x509.CertificateBuilder:
        start = datetime.now(UTC) - timedelta(days=1)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(start)
        return builder.not_valid_after(start + timedelta(days=days + 1))


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
