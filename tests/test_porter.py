"""What the porter asks of a caller, call by call: a real key file, real rates, no server."""

from __future__ import annotations

import hmac
import logging
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from service.audit import Audit
from service.errors import RequestError
from service.keys import KeyBook, KeyRing, Scope
from service.metrics import AUTH_OUTCOMES
from service.porter import VISIT, Porter
from service.rates import Rates

CLASSIFY = "/v1/classify"


class Gatehouse:
    """A porter with a shop's keys, and what it counted."""

    def __init__(self, folder: Path) -> None:
        self.book = KeyBook(folder / "keys.json")
        self.outcomes: list[str] = []
        self.now = 100.0
        self.rates = Rates(folder / "rates", lambda: self.now)
        self.ring = KeyRing(self.book.file, on_change=lambda count, fault: None, clock=lambda: self.now)
        self.porter = Porter(self.ring, rates=self.rates, audit=Audit(), on_outcome=self.outcomes.append)

    def key(self, *scopes: Scope, **facts: Any) -> str:
        text = self.book.add("shop", scopes or [Scope.CLASSIFY], **facts)[1]
        self.now += 1  # the ring looks again
        return text

    def admit(self, *headers: tuple[str, str], path: str = CLASSIFY) -> None:
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        scope = {"type": "http", "method": "POST", "path": path, "headers": raw, "client": ("10.0.0.7", 1)}
        self.porter.admit(scope)

    def refused(self, *headers: tuple[str, str], path: str = CLASSIFY) -> RequestError:
        with pytest.raises(RequestError) as caught:
            self.admit(*headers, path=path)
        return caught.value


@pytest.fixture
def house(tmp_path: Path) -> Gatehouse:
    return Gatehouse(tmp_path)


def bearer(key: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {key}")


def test_a_key_of_the_right_scope_passes(house: Gatehouse) -> None:
    house.admit(bearer(house.key()))
    assert house.outcomes == ["allowed"]


@pytest.mark.parametrize(
    "header", ["authorization: bearer {}", "X-API-Key: {}", "Authorization: BEARER   {} "]
)
def test_a_key_may_stand_in_either_header(house: Gatehouse, header: str) -> None:
    name, _, value = header.partition(": ")
    house.admit((name, value.format(house.key())))
    assert house.outcomes == ["allowed"]


def test_the_same_key_may_stand_in_both(house: Gatehouse) -> None:
    key = house.key()
    house.admit(bearer(key), ("X-API-Key", key))
    assert house.outcomes == ["allowed"]


def test_two_keys_are_none(house: Gatehouse) -> None:
    error = house.refused(bearer(house.key()), ("X-API-Key", house.key()))
    assert (error.status, error.reason) == (401, "key_wrong")


def test_no_key_is_told_where_one_goes(house: Gatehouse) -> None:
    error = house.refused()
    assert str(error) == "Authorization: found no key, wanted Bearer KEY, or KEY in the header X-API-Key"
    assert (error.status, error.reason) == (401, "key_missing")
    assert error.headers == {"WWW-Authenticate": 'Bearer realm="aisle"'}


UNKNOWN = "aisle_" + "0" * 12 + "_" + "0" * 64


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer secret",
        "Basic dXNlcjpwYXNz",
        f"Bearer {UNKNOWN}",
        f"Bearer {UNKNOWN} ",
        f"Bearer {UNKNOWN.upper()}",
        f"Bearer {UNKNOWN}0",
        "Bearer " + "a" * 100_000,
        "Bearer é\x00",
        UNKNOWN,
    ],
)
def test_what_is_no_key_is_refused_and_not_repeated(house: Gatehouse, value: str) -> None:
    house.key()
    error = house.refused(("Authorization", value))
    assert (error.status, error.reason) == (401, "key_wrong")
    assert error.found in ("what is no key, or several", "a key that is not known")
    assert error.headers == {"WWW-Authenticate": 'Bearer realm="aisle", error="invalid_token"'}


@pytest.mark.parametrize("digit", [20, 50, -1])
def test_one_wrong_digit_of_the_secret_is_enough(house: Gatehouse, digit: int) -> None:
    key = list(house.key())
    key[digit] = "0" if key[digit] != "0" else "1"
    assert house.refused(bearer("".join(key))).reason == "key_wrong"


def test_the_secret_of_another_key_is_wrong(house: Gatehouse) -> None:
    one, other = house.key().split("_"), house.key().split("_")
    assert house.refused(bearer("_".join([*one[:2], other[2]]))).reason == "key_wrong"


def test_a_hash_out_of_the_file_is_no_secret(house: Gatehouse) -> None:
    house.key()
    [key] = house.book.read()
    assert house.refused(bearer(f"aisle_{key.id}_{key.sha256}")).reason == "key_wrong"


def test_a_revoked_key_works_no_longer_a_second_later(house: Gatehouse) -> None:
    key = house.key()
    house.admit(bearer(key))
    house.book.revoke(key.split("_")[1])
    house.now += 1
    error = house.refused(bearer(key))
    assert (error.status, error.reason) == (401, "key_revoked")


def test_only_who_holds_the_secret_is_told_that_it_is_revoked(house: Gatehouse) -> None:
    key = house.key()
    house.book.revoke(key.split("_")[1])
    house.now += 1
    assert house.refused(bearer(key[:-64] + "0" * 64)).reason == "key_wrong"


def test_an_expired_key_is_told_so(house: Gatehouse) -> None:
    error = house.refused(bearer(house.key(expires_s=time.time() - 1)))
    assert (error.reason, error.found) == ("key_expired", "a key that is expired")


def test_another_scope_is_told_both(house: Gatehouse) -> None:
    error = house.refused(bearer(house.key(Scope.LABEL, Scope.METRICS)))
    assert (error.status, error.reason) == (403, "scope_missing")
    assert str(error) == "Authorization: found a key for label, metrics, wanted one for classify"
    challenge = 'Bearer realm="aisle", error="insufficient_scope", scope="classify"'
    assert error.headers == {"WWW-Authenticate": challenge}


def test_a_path_that_is_named_nowhere_wants_admin(house: Gatehouse) -> None:
    error = house.refused(bearer(house.key(Scope.CLASSIFY)), path="/v1/new")
    assert error.wanted == "one for admin"


def test_a_file_that_is_damaged_lets_nobody_in(house: Gatehouse) -> None:
    key = house.key()
    house.book.file.write_text("{")
    house.now += 1
    error = house.refused(bearer(key))
    assert (error.status, error.reason) == (503, "keys_unavailable")


def test_a_rate_is_charged_by_products_before_they_are_worked_on(house: Gatehouse) -> None:
    key = house.key(rate=1.0)
    house.admit(bearer(key))
    house.porter.charge(200)  # the door took one, the desk the others
    house.admit(bearer(key))
    with pytest.raises(RequestError) as caught:
        house.porter.charge(57)
    error = caught.value
    assert (error.status, error.reason) == (429, "rate_exceeded")
    assert str(
        error
    ) == "key: found 56 more than its rate has room for, wanted at most 1 products a second, " + (
        "or a retry"
    )
    assert error.headers == {"Retry-After": "1"}
    house.porter.charge(55)


def test_who_has_used_up_the_rate_is_refused_at_the_door(house: Gatehouse) -> None:
    key = house.key(rate=1.0)
    house.admit(bearer(key))
    house.porter.charge(256)
    assert house.refused(bearer(key)).reason == "rate_exceeded"
    house.now += 1
    house.admit(bearer(key))
    assert house.outcomes == ["allowed", "rate_exceeded", "allowed"]


def test_every_message_of_a_stream_is_charged_whole_but_the_first(house: Gatehouse) -> None:
    key = house.key(rate=1.0)
    house.admit(bearer(key))
    house.porter.charge(100)
    house.porter.charge(100)
    with pytest.raises(RequestError, match="found 57 more"):
        house.porter.charge(57)
    house.porter.charge(56)


def test_a_key_that_is_revoked_in_the_middle_of_a_stream_is_refused_then(house: Gatehouse) -> None:
    key = house.key()
    house.admit(bearer(key))
    house.porter.charge(1)
    house.book.revoke(key.split("_")[1])
    house.now += 1
    with pytest.raises(RequestError, match="a key that is revoked"):
        house.porter.charge(1)
    assert house.outcomes == ["allowed", "key_revoked"]


def test_an_open_door_asks_nothing_and_forgets_who_came_before(house: Gatehouse) -> None:
    house.admit(bearer(house.key()))
    house.admit(path="/livez")
    assert VISIT.get() is None
    assert house.outcomes == ["allowed"]


def steps(house: Gatehouse, key: str) -> list[str]:
    """Every function that is called to refuse a key, ours and those in C, in order."""
    called: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            called.append(frame.f_code.co_qualname)
        elif event == "c_call":
            called.append(argument.__qualname__)

    scope = {"type": "http", "method": "POST", "path": CLASSIFY, "headers": [(b"x-api-key", key.encode())]}
    sys.setprofile(note)
    try:
        house.porter.admit(scope)
    except RequestError as error:
        refusal = error
    finally:
        sys.setprofile(None)
    assert refusal.reason == "key_wrong"
    return called


def test_an_unknown_id_takes_the_same_steps_as_a_wrong_secret(house: Gatehouse) -> None:
    logging.getLogger("aisle.audit").setLevel(logging.CRITICAL)
    key = house.key()
    wrong_first, wrong_last = (key[:-64] + _other(key[-64:], at) for at in (0, 63))
    steps(house, UNKNOWN)  # the ring looks at its file
    unknown = steps(house, UNKNOWN)
    assert unknown == steps(house, wrong_first) == steps(house, wrong_last)
    assert unknown.count(hmac.compare_digest.__qualname__) == 1
    assert unknown.count("openssl_sha256") == 1


def _other(digits: str, at: int) -> str:
    return digits[:at] + ("1" if digits[at] == "0" else "0") + digits[at + 1 :]


def test_every_outcome_is_a_series_from_the_start(house: Gatehouse) -> None:
    live, revoked, ended = house.key(), house.key(), house.key(expires_s=1.0)
    house.book.revoke(revoked.split("_")[1])
    slow, label = house.key(rate=1.0), house.key(Scope.LABEL)
    house.admit(bearer(live))
    for headers in ([], [bearer(UNKNOWN)], [bearer(revoked)], [bearer(ended)], [bearer(label)]):
        house.refused(*headers)
    house.admit(bearer(slow))
    with pytest.raises(RequestError):
        house.porter.charge(300)
    house.book.file.write_text("{")
    house.now += 1
    house.refused(bearer(live))
    assert set(house.outcomes) == set(AUTH_OUTCOMES)
