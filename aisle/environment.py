"""Environment variables as frozen dataclasses: each field with its variable, default, check and meaning.

A room declares its variables in one file (`settings.py`) and reads them once, when it starts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from aisle.errors import SettingError

_ESCAPED = " (@ : / ? # and % of a password as %40 and so on)"
_HOSTS = re.compile(r"((\[[0-9A-Fa-f:.]+\]|[^\[\]:,]*)(:\d+)?(,|$))*")

# BentoML, Evidently and Feast report usage to their makers unless told not to.
QUIET = {"BENTOML_DO_NOT_TRACK": "true", "DO_NOT_TRACK": "1", "ANONYMIZED_TELEMETRY": "False"}

T = TypeVar("T")
Check = tuple[Callable[[str], Any], str]  # text to value (ValueError where it is not), and what is wanted


def text(wanted: str) -> Check:
    return str.strip, wanted


def integer(least: int, most: int) -> Check:
    return _between(int, least, most), f"a whole number from {least:,} to {most:,}"


def seconds(least: float, most: float) -> Check:
    return _between(float, least, most), f"seconds from {least:g} to {most:g}"


def days(least: float, most: float) -> Check:
    return _between(float, least, most), f"days from {least:g} to {most:g}"


def share(least: float = 0.0, most: float = 1.0) -> Check:
    return _between(float, least, most), f"a share from {least:g} to {most:g}"


def _between(kind: type[int] | type[float], least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not least <= value <= most:
            raise ValueError
        return value

    return parse


def one_of(*choices: str) -> Check:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError
        return text

    return parse, " or ".join(choices)


def yes_or_no() -> Check:
    values = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}

    def parse(text: str) -> bool:
        if text.lower() not in values:
            raise ValueError
        return values[text.lower()]

    return parse, "1 or 0"


def redis_url() -> Check:
    def parse(text: str) -> str:
        scheme = text.partition("://")[0]
        if text and (not scheme.startswith("redis") or "://" not in text):
            raise ValueError
        return _whole_url(text)

    return parse, f"a URL such as redis://host:6379{_ESCAPED}, or nothing for a private development server"


def database_url() -> Check:
    def parse(text: str) -> str:
        if text and not text.startswith(("sqlite:///", "postgresql://")):
            raise ValueError
        return text if text.startswith("sqlite") else _whole_url(text)

    return (
        parse,
        f"postgresql://user@host/name{_ESCAPED}, sqlite:///file, or nothing for ledger.db in AISLE_HOME",
    )


def _whole_url(text: str) -> str:
    """Raises ValueError where a password has a character that ends it: its rest would be taken for a host,
    and hosts are logged."""
    rest = text.partition("://")[2]
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    hosts = authority.rpartition("@")[2]
    if rest.count("@") > 1 or "@" in rest[len(authority) :] or not _HOSTS.fullmatch(hosts):
        raise ValueError
    return text


def model_tag(*others: str) -> Check:
    """A tag of the model store, or one of `others`."""

    def parse(text: str) -> str:
        name, _, version = text.partition(":")
        if text not in others and not (name and version):
            raise ValueError
        return text

    return parse, " or ".join([*others, "name:version, for example aisle-classifier:latest"])


def optional_file() -> Check:
    def parse(text: str) -> Path | None:
        return Path(text).absolute() if text.strip() else None

    return parse, "a file, or nothing"


def folder() -> Check:
    def parse(text: str) -> Path:
        if not text.strip():
            raise ValueError
        return Path(text).absolute()

    return parse, "a folder"


def variable(name: str, default: str, check: Check, meaning: str) -> dict[str, Any]:
    """Metadata of a field that is read from `name`; `default` is checked like any other value."""
    parse, wanted = check
    return {"name": name, "default": default, "parse": parse, "wanted": wanted, "meaning": meaning}


# The variables that more than one room reads.
HOME = variable("AISLE_HOME", ".aisle", folder(), "one shop: models, features, ledger, reports")
REDIS_URL = variable(
    "AISLE_REDIS_URL", "", redis_url(), "the online store; empty: a private development server"
)
DATABASE_URL = variable("AISLE_DATABASE_URL", "", database_url(), "the ledger; empty: SQLite in AISLE_HOME")
DEVICE = variable(
    "AISLE_DEVICE",
    "auto",
    one_of("auto", "cpu", "cuda"),
    "where models run and are trained; auto: a GPU if there is one",
)


def read_environment(kind: type[T], environ: Mapping[str, str] = os.environ) -> T:
    """A dataclass whose fields are all made by `variable`. Raises SettingError naming the variable, its
    value and what is wanted."""
    values: dict[str, Any] = {}
    for item in fields(kind):  # type: ignore[arg-type]
        facts = item.metadata
        text = environ.get(facts["name"], facts["default"])
        try:
            values[item.name] = facts["parse"](text)
        except ValueError as error:
            wanted = f"{facts['wanted']} (default {facts['default']!r})"
            if "://" in text or "@" in text:
                text = text.partition("://")[0] + "://..."  # what follows may hold a password
            raise SettingError(f"{facts['name']}: found {text!r}, wanted {wanted}") from error
    return kind(**values)


def describe_environment(kind: type) -> list[tuple[str, str, str]]:
    """(name, default, meaning) of every variable, for the README and the `settings` commands."""
    return [(f.metadata["name"], f.metadata["default"], f.metadata["meaning"]) for f in fields(kind)]
