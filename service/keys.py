"""API keys, and the file they are kept in: no database, so that doors stay guarded while it is away.

A key is `aisle_ID_SECRET`: 12 hex digits that name it in lists and logs, and 64 that prove it. The file
holds the SHA-256 of the secret. A slow hash protects what people choose; of 256 random bits nobody tries
enough, and the check is made once a request.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from aisle.errors import KeysError

LEAST_RATE, MOST_RATE = 0.001, 999_999_999.0  # products a second; with the least, one in a quarter of an hour
_RATES = f"{LEAST_RATE:g} to {MOST_RATE:,.0f} products a second, or none for any"
MAX_KEYS = 10_000  # of one file, revoked ones included; each has a number for its rate
_SHAPE = re.compile(r"aisle_([0-9a-f]{12})_([0-9a-f]{64})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}")
_VERSION = 1
_LAST_S = 2.5e11  # in the year 9892: dates end soon after
_FOR_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_LOOK_S = 1.0  # between looks at the file: a revoked key works no longer


class Scope(StrEnum):
    """What a key opens. None implies another."""

    CLASSIFY = "classify"
    INGEST = "ingest"
    LABEL = "label"
    METRICS = "metrics"
    ADMIN = "admin"


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A key without its secret. `rate` is products a second, None for any; times are seconds since 1970.
    Raises KeysError where it makes no sense."""

    id: str
    name: str
    sha256: str
    scopes: frozenset[Scope]
    rate: float | None = None
    created_s: float
    expires_s: float | None = None
    revoked_s: float | None = None

    def __post_init__(self) -> None:
        if not (_NAME.fullmatch(self.name) and self.scopes):
            raise KeysError(
                f"key: found the name {self.name[:64]!r} and {len(self.scopes)} scopes, wanted 1 to 64 "
                "letters, digits or any of ._:@- and one scope or more"
            )
        if self.rate is not None and not 0 < self.rate <= MOST_RATE:
            raise KeysError(f"key {self.name}: found a rate of {self.rate:g}, wanted {_RATES}")
        for at_s in (self.created_s, self.expires_s, self.revoked_s):
            if at_s is not None and not 0 <= at_s < _LAST_S:  # nor NaN, before which no clock stands
                raise KeysError(f"key {self.name}: found the time {at_s:g}, wanted seconds since 1970")

    def state(self, now_s: float) -> str:
        """live, revoked or expired."""
        if self.revoked_s is not None:
            return "revoked"
        return "expired" if self.expires_s is not None and now_s >= self.expires_s else "live"


def split_key(text: str) -> tuple[str, str] | None:
    """Id and secret of `aisle_ID_SECRET`; None where it is no key at all. Its shape is no secret."""
    match = _SHAPE.fullmatch(text)
    return (match[1], match[2]) if match else None


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class KeyBook:
    """The key file as people write it. Writers take turns; readers see the old file or the new one."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self) -> list[Key]:
        """All keys in the order they were made. Raises KeysError; a file that is not there has none."""
        try:
            return read_keys(self.file)
        except FileNotFoundError:
            return []

    def add(
        self, name: str, scopes: Sequence[Scope], *, rate: float | None = None, expires_s: float | None = None
    ) -> tuple[Key, str]:
        """A new key, and the text that is shown this once. Raises KeysError."""
        if rate is not None and rate < LEAST_RATE:  # files may hold such, as long as this was not refused
            raise KeysError(f"key {name}: found a rate of {rate:g}, wanted {_RATES}")
        secret = secrets.token_hex(32)
        with self._alone() as keys:
            if len(keys) >= MAX_KEYS:
                raise KeysError(f"{self.file}: found {len(keys):,} keys, wanted fewer than {MAX_KEYS:,}")
            taken = {key.id for key in keys}
            key_id = next(one for one in iter(lambda: secrets.token_hex(6), "") if one not in taken)
            key = Key(
                id=key_id,
                name=name,
                sha256=digest_of(secret),
                scopes=frozenset(scopes),
                rate=rate,
                created_s=round(time.time(), 3),
                expires_s=expires_s,
            )
            self._write([*keys, key])
        return key, f"aisle_{key_id}_{secret}"

    def revoke(self, key_id: str) -> Key:
        """The key, revoked now or before; it stays in the file. Raises KeysError."""
        with self._alone() as keys:
            found = next((key for key in keys if key.id == key_id), None)
            if found is None:
                raise KeysError(
                    f"key: found no {key_id[:40]!r} in {self.file}, wanted an id that "
                    "`python -m service keys list` shows"
                )
            if found.revoked_s is not None:
                return found
            revoked = replace(found, revoked_s=round(time.time(), 3))
            self._write([revoked if key is found else key for key in keys])
        return revoked

    @contextlib.contextmanager
    def _alone(self) -> Iterator[list[Key]]:
        """The keys, while no other process writes them. The lock is another file: this one is replaced."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.file.with_name(f"{self.file.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _unwritable(self.file, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.read()
        finally:
            os.close(lock)

    def _write(self, keys: Sequence[Key]) -> None:
        text = json.dumps({"version": _VERSION, "keys": [_to_json(key) for key in keys]}, indent=1)
        part = self.file.with_name(f"{self.file.name}.part")
        try:
            part.unlink(missing_ok=True)  # of a writer that was killed
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.file)
        except OSError as error:
            raise _unwritable(self.file, error) from error


def read_keys(file: Path) -> list[Key]:
    """Raises FileNotFoundError, and KeysError where the file is damaged or others may write it."""
    try:
        if (mode := file.stat().st_mode) & _FOR_OTHERS:
            found = f"mode {stat.S_IMODE(mode):04o}"
            raise KeysError(f"{file}: found {found}, wanted a file that nobody else may write: chmod 600")
        data = json.loads(file.read_bytes())
        if data["version"] != _VERSION:
            raise KeysError(f"{file}: found version {data['version']!r}, wanted {_VERSION}")
        keys = [_from_json(one) for one in data["keys"]]
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KeysError(
            f"{file}: found a file that cannot be read ({error.strerror}), wanted keys"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise KeysError(
            f"{file}: found a damaged file ({type(error).__name__}), wanted keys as "
            "`python -m service keys add` writes them"
        ) from error
    if len(keys) > MAX_KEYS or len({key.id for key in keys}) < len(keys):
        raise KeysError(f"{file}: found {len(keys):,} keys, wanted at most {MAX_KEYS:,} with an id each")
    return keys


def _to_json(key: Key) -> dict[str, Any]:
    return {**asdict(key), "scopes": sorted(key.scopes)}


def _from_json(data: dict[str, Any]) -> Key:
    """Raises ValueError, TypeError or KeyError."""
    if set(data) != {item.name for item in fields(Key)} or not split_key(
        f"aisle_{data['id']}_{data['sha256']}"
    ):
        raise ValueError("fields of a key")  # a digest has the shape of a secret
    times = (data["created_s"], data["expires_s"], data["revoked_s"], data["rate"])
    if data["created_s"] is None or any(
        isinstance(value, bool) or not isinstance(value, int | float | None) for value in times
    ):
        raise TypeError("numbers of a key")
    return Key(**{**data, "scopes": frozenset(map(Scope, data["scopes"]))})


def _unwritable(file: Path, error: OSError) -> KeysError:
    return KeysError(
        f"{file}: found a place that cannot be written ({error.strerror}), wanted a folder where this "
        "process may replace the file"
    )


class KeyRing:
    """The keys as a worker holds them: read again within a second or so of each change. `on_change` is told
    how many keys there are, or why there are none."""

    def __init__(
        self,
        file: Path,
        *,
        on_change: Callable[[int, KeysError | None], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.file = file
        self.is_damaged = False
        self._on_change = on_change
        self._clock = clock
        self._held: dict[str, tuple[int, Key]] = {}
        self._seen: tuple[int, ...] | None = (0,)  # no file's
        self._look_again = 0.0
        self._refresh()

    def find(self, key_id: str) -> tuple[int, Key] | None:
        """A key and its number in the file, which stays; None where there is none of this id."""
        if self._clock() >= self._look_again:
            self._refresh()
        return self._held.get(key_id)

    def _refresh(self) -> None:
        self._look_again = self._clock() + _LOOK_S
        try:
            facts = self.file.stat()
            seen: tuple[int, ...] | None = (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_mode)
        except OSError:
            seen = None
        if seen == self._seen:
            return
        self._seen = seen
        fault = None
        try:
            keys = KeyBook(self.file).read()
        except KeysError as error:
            keys, fault = [], error
        self.is_damaged = fault is not None
        self._held = {key.id: (number, key) for number, key in enumerate(keys)}
        self._on_change(len(keys), fault)
