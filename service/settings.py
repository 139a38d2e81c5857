"""Every `AISLE_*` variable of the service: name, default, check and meaning. Read once, at start."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from aisle.errors import SettingError

Check = tuple[Callable[[str], Any], str]  # text to value (ValueError where it is not), and what is wanted


def integer(least: int, most: int) -> Check:
    def parse(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise ValueError
        return value

    return parse, f"a whole number from {least:,} to {most:,}"


def seconds(least: float, most: float) -> Check:
    def parse(text: str) -> float:
        value = float(text)
        if not least <= value <= most:
            raise ValueError
        return value

    return parse, f"seconds from {least:g} to {most:g}"


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
        return text

    return parse, "a URL such as redis://host:6379, or nothing for a private development server"


def model_tag() -> Check:
    def parse(text: str) -> str:
        name, _, version = text.partition(":")
        if not name or not version:
            raise ValueError
        return text

    return parse, "name:version, for example aisle-classifier:latest"


def folder() -> Check:
    def parse(text: str) -> Path:
        if not text.strip():
            raise ValueError
        return Path(text)

    return parse, "a folder"


def variable(name: str, default: str, check: Check, meaning: str) -> dict[str, Any]:
    """Metadata of a field that is read from `name`; `default` is checked like any other value."""
    parse, wanted = check
    return {"name": name, "default": default, "parse": parse, "wanted": wanted, "meaning": meaning}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Facts about this deployment. Raises SettingError naming the variable, its value and what is wanted."""

    home: Path = field(
        metadata=variable("AISLE_HOME", ".aisle", folder(), "one shop: features, registry, development Redis")
    )
    redis_url: str = field(
        metadata=variable(
            "AISLE_REDIS_URL", "", redis_url(), "the online store; empty: a private development server"
        )
    )
    model: str = field(
        metadata=variable(
            "AISLE_MODEL",
            "aisle-classifier:latest",
            model_tag(),
            "which classifier of the model store to serve",
        )
    )
    device: str = field(
        metadata=variable(
            "AISLE_DEVICE",
            "auto",
            one_of("auto", "cpu", "cuda"),
            "where the model runs; auto: a GPU if there is one",
        )
    )
    workers: int = field(
        metadata=variable("AISLE_WORKERS", "1", integer(1, 64), "server processes, each with its own model")
    )
    model_threads: int = field(
        metadata=variable(
            "AISLE_MODEL_THREADS",
            "0",
            integer(0, 256),
            "CPU threads of one worker's model; 0: cores / workers",
        )
    )
    decode_threads: int = field(
        metadata=variable(
            "AISLE_DECODE_THREADS", "2", integer(1, 64), "threads of one worker that decode pictures"
        )
    )
    max_batch: int = field(
        metadata=variable("AISLE_MAX_BATCH", "32", integer(2, 1024), "most products in one batch")
    )
    max_latency_s: float = field(
        metadata=variable(
            "AISLE_MAX_LATENCY_S",
            "10",
            seconds(0.05, 300),
            "what would take longer to answer is shed with a 503",
        )
    )
    max_queue: int = field(
        metadata=variable(
            "AISLE_MAX_QUEUE",
            "2048",
            integer(1, 1_000_000),
            "most products that wait in one worker; more are shed",
        )
    )
    max_body_bytes: int = field(
        metadata=variable(
            "AISLE_MAX_BODY_BYTES", str(64 * 2**20), integer(1_024, 2**30), "longest request body"
        )
    )
    body_timeout_s: float = field(
        metadata=variable(
            "AISLE_BODY_TIMEOUT_S", "30", seconds(0.1, 600), "time a client has to send its body"
        )
    )
    request_timeout_s: float = field(
        metadata=variable(
            "AISLE_REQUEST_TIMEOUT_S",
            "30",
            seconds(0.1, 600),
            "time from a request's last byte to its answer",
        )
    )
    stop_timeout_s: int = field(
        metadata=variable(
            "AISLE_STOP_TIMEOUT_S",
            "20",
            integer(1, 600),
            "time for requests in flight when the server is stopped",
        )
    )
    features_deadline_s: float = field(
        metadata=variable(
            "AISLE_FEATURES_DEADLINE_S",
            "0.05",
            seconds(0.001, 10),
            "longest wait for the online store in a batch",
        )
    )
    write_back: bool = field(
        metadata=variable(
            "AISLE_WRITE_BACK", "1", yes_or_no(), "store the vectors that had to be computed for a product_id"
        )
    )
    access_log: bool = field(metadata=variable("AISLE_ACCESS_LOG", "0", yes_or_no(), "log a line a request"))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        values: dict[str, Any] = {}
        for item in fields(cls):
            facts = item.metadata
            text = environ.get(facts["name"], facts["default"])
            try:
                values[item.name] = facts["parse"](text)
            except ValueError as error:
                wanted = f"{facts['wanted']} (default {facts['default']!r})"
                raise SettingError(f"{facts['name']}: found {text!r}, wanted {wanted}") from error
        return cls(**values)


def describe() -> list[tuple[str, str, str]]:
    """(name, default, meaning) of every variable, for the README and `python -m service settings`."""
    return [(f.metadata["name"], f.metadata["default"], f.metadata["meaning"]) for f in fields(Settings)]
