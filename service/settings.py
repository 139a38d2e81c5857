"""Every `AISLE_*` variable of the service, and what it reads of BentoML's. Read once, at start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aisle.environment import (
    DATABASE_URL,
    DEVICE,
    HOME,
    REDIS_URL,
    days,
    describe_environment,
    integer,
    model_tag,
    one_of,
    optional_file,
    read_environment,
    seconds,
    share,
    text,
    variable,
    yes_or_no,
)
from aisle.prediction import Role
from service.tls import Tls, tls_of


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Facts about this deployment. Raises SettingError naming the variable, its value and what is wanted."""

    home: Path = field(metadata=HOME)
    redis_url: str = field(metadata=REDIS_URL, repr=False)  # both may hold a password
    model: str = field(
        metadata=variable(
            "AISLE_MODEL",
            Role.CHAMPION.value,
            model_tag(Role.CHAMPION.value),
            "champion: the newest deployment, followed while serving; or a fixed classifier",
        )
    )
    database_url: str = field(metadata=DATABASE_URL, repr=False)
    ledger_embeddings: float = field(
        metadata=variable(
            "AISLE_LEDGER_EMBEDDINGS", "1", share(), "share of predictions recorded with their embeddings"
        )
    )
    keep_days: float = field(
        metadata=variable(
            "AISLE_KEEP_DAYS",
            "0",
            days(0, 36_500),
            "predictions, labels and products older than so many days are deleted; 0: none",
        )
    )
    spool_bytes: int = field(
        metadata=variable(
            "AISLE_SPOOL_BYTES",
            str(2**30),
            integer(2**20, 2**40),
            "most of a worker that waits in AISLE_HOME/spool, in a file up to twice as long; more is dropped",
        )
    )
    device: str = field(metadata=DEVICE)
    grpc_host: str = field(
        metadata=variable(
            "AISLE_GRPC_HOST", "127.0.0.1", text("an address"), "where gRPC is served; `serve --host` sets it"
        )
    )
    grpc_port: int = field(
        metadata=variable("AISLE_GRPC_PORT", "3001", integer(0, 65_535), "port of gRPC; 0: none is served")
    )
    grpc_reflection: bool = field(
        metadata=variable("AISLE_GRPC_REFLECTION", "0", yes_or_no(), "tell gRPC clients what is served")
    )
    auth: str = field(
        metadata=variable(
            "AISLE_AUTH",
            "off",
            one_of("off", "keys"),
            "off: no key is asked for, and only this host's own address may be listened on; keys: API keys",
        )
    )
    keys: Path | None = field(
        metadata=variable("AISLE_KEYS", "", optional_file(), "the API keys; empty: keys.json in AISLE_HOME")
    )
    tls_cert: Path | None = field(
        metadata=variable(
            "AISLE_TLS_CERT",
            "",
            optional_file(),
            "certificate and chain (PEM) of both servers; empty: no TLS",
        )
    )
    tls_key: Path | None = field(
        metadata=variable("AISLE_TLS_KEY", "", optional_file(), "its private key (PEM, no password)")
    )
    tls_client_ca: Path | None = field(
        metadata=variable(
            "AISLE_TLS_CLIENT_CA",
            "",
            optional_file(),
            "who signs clients' certificates; empty: none is asked for",
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
    batches_at_once: int = field(
        metadata=variable(
            "AISLE_BATCHES_AT_ONCE",
            "0",
            integer(0, 8),
            "batches under way in a worker: one is read or fetched while another is computed; "
            "0: 2 on a GPU, else 1",
        )
    )
    decode_threads: int = field(
        metadata=variable(
            "AISLE_DECODE_THREADS", "2", integer(1, 64), "threads of one worker that decode pictures"
        )
    )
    max_batch: int = field(
        metadata=variable(
            "AISLE_MAX_BATCH",
            "256",
            integer(1, 1024),
            "most products in one batch; eight asked for by id alone count as one",
        )
    )
    batch_latency_s: float = field(
        metadata=variable(
            "AISLE_BATCH_LATENCY_S",
            "0.5",
            seconds(0.001, 60),
            "a batch holds no more than can be answered in this time, as measured at start",
        )
    )
    max_latency_s: float = field(
        metadata=variable(
            "AISLE_MAX_LATENCY_S",
            "10",
            seconds(0.05, 300),
            "what has waited this long for a batch is shed with a 429",
        )
    )
    max_queue: int = field(
        metadata=variable(
            "AISLE_MAX_QUEUE",
            "0",
            integer(0, 1_000_000),
            "most products under way in a worker, counted as in a batch; more get a 429; 0: four batches",
        )
    )
    max_bulk: int = field(
        metadata=variable(
            "AISLE_MAX_BULK",
            "4096",
            integer(1, 1_000_000),
            "most products of bulk requests in a worker, waiting or under way, counted as in a batch",
        )
    )
    max_body_bytes: int = field(
        metadata=variable(
            "AISLE_MAX_BODY_BYTES", str(64 * 2**20), integer(1_024, 2**30), "longest request body"
        )
    )
    max_held_bytes: int = field(
        metadata=variable(
            "AISLE_MAX_HELD_BYTES",
            str(512 * 2**20),
            integer(1_024, 2**40),
            "all bodies, and whole gRPC messages, that one worker holds at once; more are shed",
        )
    )
    body_timeout_s: float = field(
        metadata=variable(
            "AISLE_BODY_TIMEOUT_S",
            "30",
            seconds(0.1, 600),
            "time a client has to send its body, or over gRPC the message of a call that has one",
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
            integer(1, 25),  # BentoML's supervisor kills a worker 30 s after it has asked it to end
            "time for requests in flight when the server is stopped",
        )
    )
    features_deadline_s: float = field(
        metadata=variable(
            "AISLE_FEATURES_DEADLINE_S",
            "0.1",
            seconds(0.001, 10),
            "longest wait for the online store in a batch, and a millisecond a product",
        )
    )
    write_back: bool = field(
        metadata=variable(
            "AISLE_WRITE_BACK", "1", yes_or_no(), "store the vectors that had to be computed for a product_id"
        )
    )
    early_images: bool = field(
        metadata=variable(
            "AISLE_EARLY_IMAGES",
            "0",
            yes_or_no(),
            "encode pictures while Redis is asked, on a CPU too: for one that answers 10 ms late or more",
        )
    )
    access_log: bool = field(metadata=variable("AISLE_ACCESS_LOG", "0", yes_or_no(), "log a line a request"))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        return read_environment(cls, environ)

    @property
    def keys_file(self) -> Path:
        return self.keys or self.home / "keys.json"

    def tls(self) -> Tls | None:
        """None where there is none. Raises SettingError where its files cannot be used."""
        return tls_of(self.tls_cert, self.tls_key, self.tls_client_ca)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where BentoML keeps what the processes of one service share, as its own variables say: the model store
    in `bentoml_home`, the workers' metrics in `metrics` (None in a process that is no worker)."""

    bentoml_home: Path
    metrics: Path | None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Places:
        metrics = environ.get("PROMETHEUS_MULTIPROC_DIR")
        return cls(
            bentoml_home=Path(environ.get("BENTOML_HOME", "~/bentoml")).expanduser(),  # BentoML's default
            metrics=Path(metrics) if metrics else None,
        )


def describe() -> list[tuple[str, str, str]]:
    """(name, default, meaning) of every variable, for the README and `python -m service settings`."""
    return describe_environment(Settings)
