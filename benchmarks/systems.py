"""The systems of `make bench`, each with the settings that are tried, and what is sent to whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.servers import Setting, aisle_service

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
OWN_THREADS = "1 worker, torch's own threads"
TWO_WORKERS = "2 workers, torch on 1 thread"
BULK_IDS = 128


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What one row of the figures is about: `bodies` is a folder of request bodies, `path` where they go to
    (None: the system's own), `products` how many each is about. `is_noop`: what answers does nothing."""

    name: str
    bodies: str
    clients: tuple[int, ...]
    path: str | None = None
    method: str = "POST"
    products: int = 1
    is_noop: bool = False


def _fastapi(workers: int, label: str, environ: Mapping[str, str]) -> Setting:
    app = "benchmarks.peers.fastapi_app:app"
    command = ["-m", "uvicorn", app, "--port", "{port}", "--log-level", "warning"]
    return Setting(
        system="fastapi",
        label=label,
        command=[*command, "--workers", str(workers)],
        ready_path="/health",
        path="/classify",
        environ=environ,
    )


def _litserve(workers: int, label: str, environ: Mapping[str, str]) -> Setting:
    return Setting(
        system="litserve",
        label=label,
        command=["-m", "benchmarks.peers.litserve_app", "--port", "{port}", "--workers", str(workers)],
        ready_path="/health",
        path="/predict",
        environ=environ,
    )


def _bentoml(workers: int, label: str, environ: Mapping[str, str]) -> Setting:
    app = "benchmarks.peers.bentoml_app:Documented"
    return Setting(
        system="bentoml",
        label=label,
        command=["-m", "bentoml", "serve", app, "--host", "127.0.0.1", "--port", "{port}"],
        ready_path="/readyz",
        path="/classify",
        environ={"PEER_WORKERS": str(workers), **environ},
    )


def _ray(replicas: int, label: str) -> Setting:
    return Setting(
        system="ray",
        label=label,
        command=["-m", "benchmarks.peers.ray_app", "--port", "{port}", "--replicas", str(replicas)],
        ready_path="/classify",
        path="/classify",
        environ={"RAY_USAGE_STATS_ENABLED": "0"},
        may_pause=False,  # its processes watch each other by the clock
    )


SETTINGS = {
    "aisle": [aisle_service(1, label="1 worker"), aisle_service(2, label="2 workers")],
    "fastapi": [_fastapi(1, OWN_THREADS, {}), _fastapi(2, TWO_WORKERS, ONE_THREAD)],
    "litserve": [_litserve(1, OWN_THREADS, {}), _litserve(2, TWO_WORKERS, ONE_THREAD)],
    "bentoml": [_bentoml(1, OWN_THREADS, {}), _bentoml(2, TWO_WORKERS, ONE_THREAD)],
    "ray": [_ray(1, "1 replica, torch on all cores"), _ray(2, "2 replicas, torch on 1 thread")],
}

CLIENTS = (1, 4, 16, 32, 64)
GRPC_PATH = "/aisle.v1.Classifier/Classify"
# `aisle`: id, text and photo; the text's vector is stored. `cold`: no id, so that all is computed, as it is
# by the peers. The first of a system is what it is tried with.
TRAFFIC = {
    "aisle": (
        Traffic(name="aisle", bodies="known", clients=CLIENTS),
        Traffic(name="aisle, cold", bodies="cold", clients=CLIENTS),
        Traffic(name="aisle, gRPC", bodies="grpc", clients=(16, 32), path=GRPC_PATH, method="GRPC"),
        Traffic(name="aisle, id only", bodies="id", clients=(32,)),
        Traffic(
            name="aisle, no-op",
            bodies="id",
            clients=(32,),
            path="/v2/health/live",
            method="GET",
            is_noop=True,
        ),
        Traffic(name="aisle, bulk", bodies="bulk", clients=(1, 4), products=BULK_IDS),
    ),
    "fastapi": (Traffic(name="fastapi", bodies="product", clients=CLIENTS),),
    "litserve": (Traffic(name="litserve", bodies="product", clients=CLIENTS),),
    "bentoml": (
        Traffic(name="bentoml", bodies="cold", clients=CLIENTS),
        # What an endpoint costs there that takes the same JSON and does nothing.
        Traffic(name="bentoml, no-op", bodies="id", clients=(32,), path="/nothing", is_noop=True),
    ),
    "ray": (Traffic(name="ray", bodies="product", clients=CLIENTS),),
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """`name` at `clients` at least `times` what `over` has there, by `figure` (products a second); or, for
    `cpu_ms`, at most."""

    name: str
    clients: int
    times: float
    over: str
    figure: str = "throughput"


OVERLOAD = TRAFFIC["aisle"][1]
LIMIT = "bare loop"
TARGETS = (
    Target(name="aisle", clients=32, times=8, over="fastapi"),
    Target(name="aisle", clients=32, times=4, over="litserve"),
    Target(name="aisle", clients=32, times=5, over="bentoml"),
    Target(name="aisle", clients=32, times=6, over="ray"),
    Target(name="aisle, cold", clients=32, times=1.3, over="litserve"),
    Target(name="aisle, gRPC", clients=32, times=1, over="aisle"),
    Target(name="aisle, id only", clients=32, times=0.7, over="aisle, no-op"),
    Target(name="aisle", clients=32, times=1.25, over=LIMIT, figure="cpu_ms"),
)
BULK_TARGET = 6_000  # products a second, at the better number of clients
