from __future__ import annotations

import socket

import pytest

from aisle.errors import SettingError
from service.address import check_private, is_loopback, listening, resolve


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "127.1", "localhost", "::1"])
def test_this_hosts_own_addresses_are_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "0", "::", "", " ", "10.0.0.1", "192.0.2.7", "2001:db8::1"])
def test_others_are_not(host: str) -> None:
    assert not is_loopback(host)


def test_a_name_is_one_of_its_addresses_ipv4_first() -> None:
    assert resolve("localhost")[0] == "127.0.0.1"


def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(SettingError, match="host: found 'shop.invalid', which no resolver knows"):
        resolve("shop.invalid")


def test_without_keys_only_loopback_is_listened_on() -> None:
    check_private("off", "127.0.0.1", "--host")
    check_private("keys", "0.0.0.0", "--host")
    with pytest.raises(SettingError) as caught:
        check_private("off", "0.0.0.0", "--host")
    assert str(caught.value) == (
        "AISLE_AUTH: found off with --host '0.0.0.0', which other machines may reach, wanted "
        "AISLE_AUTH=keys (make one: python -m service keys add NAME --scope classify), or a loopback address "
        "such as 127.0.0.1"
    )


def test_a_listening_socket_is_seen_and_a_connected_one_is_not() -> None:
    before = sorted(listening())
    with socket.create_server(("127.0.0.2", 0)) as listener:
        assert sorted(listening()) == sorted([*before, "127.0.0.2"])
        with socket.create_connection(listener.getsockname()):
            assert sorted(listening()) == sorted([*before, "127.0.0.2"])
    assert sorted(listening()) == before
