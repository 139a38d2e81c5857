"""Which addresses other machines reach. Without authentication only this host's own may be listened on."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from aisle.errors import SettingError


def resolve(host: str) -> list[str]:
    """The addresses that a host means, IPv4 first. Raises SettingError."""
    if not host.strip():  # "" is every address to a socket, and none to a resolver
        return ["0.0.0.0", "::"]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SettingError(f"host: found {host!r}, which no resolver knows, wanted an address") from error
    addresses = {str(address[0]): family for family, *_, address in found}
    return sorted(addresses, key=lambda one: addresses[one] != socket.AF_INET)


def is_loopback(host: str) -> bool:
    """Whether all that it means is this host's own. Raises SettingError."""
    return all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in resolve(host))


def listening() -> Iterator[str]:
    """The addresses of the TCP sockets that this process listens on, inherited ones too."""
    for path in list(Path("/dev/fd").iterdir()):
        try:
            with socket.socket(fileno=os.dup(int(path.name))) as one:
                if one.family in (socket.AF_INET, socket.AF_INET6) and one.getsockopt(
                    socket.SOL_SOCKET, socket.SO_ACCEPTCONN
                ):
                    yield str(one.getsockname()[0])
        except OSError:
            continue  # no socket, or the folder's own descriptor


def check_private(auth: str, host: str, name: str) -> None:
    """Raises SettingError where AISLE_AUTH is off and `host`, which `name` sets, is not loopback."""
    if auth == "off" and not is_loopback(host):
        raise SettingError(
            f"AISLE_AUTH: found off with {name} {host!r}, which other machines may reach, wanted "
            "AISLE_AUTH=keys (make one: python -m service keys add NAME --scope classify), or a loopback "
            "address such as 127.0.0.1"
        )
