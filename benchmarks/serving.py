"""`make bench`: our service beside FastAPI, LitServe, BentoML, Ray Serve and the bare loop, in one run.

All answer with the same model, about the same products, in JSON with the photo in base64 (ours over gRPC
too); before a server is measured, its answers are compared with the bare loop's. Each system runs in the best
of its settings, found by a trial. Systems take turns, so that a busy neighbour hits all alike; the figures
are medians over rounds. At the end our service is offered more than it can take. Writes
out/bench/serving.json and docs/serving.png.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import grpc
import httpx
import redis
import typer
from google.protobuf.json_format import MessageToDict

from aisle.development_redis import ensure_development_redis
from aisle.environment import QUIET
from aisle.product import Product
from benchmarks.bodies import write_bodies
from benchmarks.products import make_products
from benchmarks.servers import HOST, Server, Setting, running, work_alone
from benchmarks.serving_report import (
    console,
    faults,
    machine,
    merge,
    merge_offered,
    show,
    verdicts,
)
from benchmarks.systems import LIMIT, OVERLOAD, SETTINGS, TRAFFIC, Traffic
from service.protos import classifier_pb2

PRODUCTS = 128
CHECKED = 16  # products whose answers are compared before each measurement
TOLERANCE = 1e-3  # of the confidence: batches of different sizes round differently
WARM_S = 1.0
TRIAL_CONCURRENCY = 16
TRIAL_SECONDS = 2.0
TRIALS = 2
OFFERED = (0.5, 1.0, 1.5, 2.0, 3.0)  # times the capacity
DEADLINE_MS = 1_000  # that clients tell when more is offered than can be answered
OPEN_CONNECTIONS = 512
OUT = Path("out/bench")
PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "bentoml",
    "feast",
    "fastapi",
    "uvicorn",
    "litserve",
    "ray",
)
VECTORS = {  # where ours must come from, for the figures to be about what they say
    "known": {"text": "stored", "image": "computed"},
    "grpc": {"text": "stored", "image": "computed"},
    "cold": {"text": "computed", "image": "computed"},
    "id": {"text": "stored", "image": "stored"},
    "bulk": {"text": "stored", "image": "stored"},
}

BEGAN = time.monotonic()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a run needs: the shop's folder, environment, true answers, and seconds of each figure."""

    home: Path
    environ: Mapping[str, str]
    redis_pid: int
    answers: Sequence[tuple[str, float]]
    seconds: float

    def bodies(self, traffic: Traffic) -> Path:
        return self.home / "bodies" / traffic.bodies


def main(
    seconds: Annotated[float, typer.Option(min=0.5, max=60, help="Measured time of each figure.")] = 4.0,
    systems: Annotated[str, typer.Option(help="Which, between commas.")] = ",".join(SETTINGS),
    rounds: Annotated[int, typer.Option(min=1, max=20)] = 2,
) -> None:
    # BentoML's use of pathspec, which it shows in spite of its being BentoML's to mend.
    warnings.filterwarnings("ignore", message="GitWildMatchPattern", category=DeprecationWarning)
    for stop in (signal.SIGINT, signal.SIGTERM):  # either way it stops its servers
        signal.signal(stop, signal.default_int_handler)
    chosen = systems.split(",")
    if unknown := set(chosen) - set(SETTINGS):
        raise typer.BadParameter(f"systems: found {sorted(unknown)}, wanted of {sorted(SETTINGS)}")
    Path(".aisle").mkdir(exist_ok=True)
    OUT.mkdir(parents=True, exist_ok=True)
    for log in OUT.glob("*.log"):
        log.unlink()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=".aisle") as folder:
        stage, limit = prepare(Path(folder).resolve(), seconds)
        trials = [try_setting(stage, setting) for name in chosen for setting in SETTINGS[name]]
        best = {name: _best(trials, name) for name in chosen}
        rows = merge([*measure(stage, list(best.values()), rounds), *limit_rows(limit)])
        offered = merge_offered(overload(stage, best["aisle"], rows, rounds)) if "aisle" in best else []
    report = {
        "machine": machine(),
        "versions": {name: version(name) for name in PACKAGES},
        "requests": stage_facts(),
        "seconds_a_figure": seconds,
        "rounds": rounds,
        "settings": {name: setting.label for name, setting in best.items()},
        "limit": {name: value for name, value in limit.items() if name != "answers"},
        "trials": trials,
        "rows": rows,
        "overload": {"deadline_ms": DEADLINE_MS, "rows": offered},
        "targets": verdicts(rows, offered, DEADLINE_MS),
        "seconds": round(time.monotonic() - BEGAN, 1),
    }
    (OUT / "serving.json").write_text(json.dumps(report, indent=1) + "\n")
    show(report)
    if set(chosen) == set(SETTINGS):
        from benchmarks.serving_figure import draw

        draw(report, Path("docs/serving.png"))
    if found := faults(rows, offered):
        raise SystemExit("\n".join([*found, "the servers' logs are in out/bench"]))


def prepare(home: Path, seconds: float) -> tuple[Stage, dict[str, Any]]:
    """Make the model and the request bodies below `home`; run the bare loop, whose answers are true."""
    environ = {
        **os.environ,
        **QUIET,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "AISLE_HOME": str(home),
        "BENTOML_HOME": str(home / "bentoml"),
    }
    os.environ.update(environ)
    environ["AISLE_REDIS_URL"] = url = ensure_development_redis(home / "redis")
    # Photos come again and again here; written back, their vectors would be stored from the second time.
    environ["AISLE_WRITE_BACK"] = "0"
    products = make_products(PRODUCTS)
    write_bodies(products, home / "bodies")
    say("making the model")
    make_model(home, url, products)
    say("measuring the bare loop")
    limit = _python(["-m", "benchmarks.limit", str(home / "bodies" / "product")], environ, seconds)
    facts: Any = redis.Redis.from_url(url).info("server")
    stage = Stage(
        home=home,
        environ=environ,
        redis_pid=int(facts["process_id"]),
        answers=limit["answers"],
        seconds=seconds,
    )
    return stage, limit


def say(what: str) -> None:
    console.print(f"{time.monotonic() - BEGAN:4.0f} s  {what}")


def make_model(home: Path, redis_url: str, products: Sequence[Product]) -> None:
    from benchmarks.model import make_model as make
    from training.settings import Settings
    from training.shop import Shop

    make(Shop.open(Settings(home=home, redis_url=redis_url)), products)


def limit_rows(limit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The bare loop as rows beside the others'."""
    nothing: dict[str, Any] = {"p50_ms": None, "p99_ms": None, "answers": 0, "refused": 0, "errors": {}}
    named = ((LIMIT, "stored_texts"), (f"{LIMIT}, cold", "computed_texts"))
    return [{"name": name, "clients": None, **nothing, **limit[figures]} for name, figures in named]


def try_setting(stage: Stage, setting: Setting) -> dict[str, Any]:
    """Throughput of one setting at TRIAL_CONCURRENCY: the best of TRIALS, since a busy neighbour or an uneven
    spread of connections over workers only ever takes away."""
    say(f"trial: {setting.system}, {setting.label}")
    with running(setting, stage.environ, OUT / f"{setting.system}.log") as server:
        traffic = TRAFFIC[setting.system][0]
        check(stage, server, traffic)
        tried = [load(stage, server, traffic, TRIAL_CONCURRENCY, TRIAL_SECONDS) for _ in range(TRIALS)]
    figures = max(tried, key=lambda one: float(one["throughput"]))
    kept = {name: figures[name] for name in ("throughput", "p50_ms", "p99_ms", "errors")}
    return {"system": setting.system, "setting": setting.label, **kept}


def _best(trials: Sequence[Mapping[str, Any]], system: str) -> Setting:
    own = [trial for trial in trials if trial["system"] == system]
    best = max(range(len(own)), key=lambda number: own[number]["throughput"])
    return SETTINGS[system][best]


def measure(stage: Stage, settings: Sequence[Setting], rounds: int) -> list[dict[str, Any]]:
    """One row a round, traffic and number of clients. Servers that may be paused are all up, but one at a
    time runs; the others are started for their turn."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running(setting, stage.environ, OUT / f"{setting.system}.log"))
            for setting in settings
            if setting.may_pause
        ]
        for server in servers:
            work_alone(server, servers)
            for traffic in TRAFFIC[server.setting.system]:
                check(stage, server, traffic)
        rows = []
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            clients = sorted({c for setting in settings for t in TRAFFIC[setting.system] for c in t.clients})
            for count in clients:
                for server in servers:
                    work_alone(server, servers)
                    rows += _turn(stage, server, count)
            work_alone(None, servers)
            for setting in settings:
                if not setting.may_pause:
                    with running(setting, stage.environ, OUT / f"{setting.system}.log") as server:
                        check(stage, server, TRAFFIC[setting.system][0])
                        rows += [row for count in clients for row in _turn(stage, server, count)]
        return rows


def _turn(stage: Stage, server: Server, clients: int) -> list[dict[str, Any]]:
    """What is measured of a server with so many clients."""
    return [
        {"name": traffic.name, "clients": clients, **load(stage, server, traffic, clients, stage.seconds)}
        for traffic in TRAFFIC[server.setting.system]
        if clients in traffic.clients
    ]


def overload(
    stage: Stage, setting: Setting, rows: Sequence[Mapping[str, Any]], rounds: int
) -> list[dict[str, Any]]:
    """Our service in an open loop, offered OFFERED times what it answered at most in the closed one."""
    traffic = OVERLOAD
    capacity = max(row["throughput"] for row in rows if row["name"] == traffic.name)
    with running(setting, stage.environ, OUT / "overload.log") as server:
        check(stage, server, traffic)
        load(stage, server, traffic, TRIAL_CONCURRENCY, TRIAL_SECONDS)  # the server learns its pace
        offered = []
        for times in OFFERED * rounds:
            say(f"offering {times:g} times the capacity")
            options = ["--rate", str(times * capacity), "--deadline-ms", str(DEADLINE_MS)]
            figures = load(stage, server, traffic, OPEN_CONNECTIONS, 2 * stage.seconds, options)
            offered.append({"times": times, "offered": round(times * capacity, 1), **figures})
        return offered


def check(stage: Stage, server: Server, traffic: Traffic) -> None:
    """Raise SystemExit unless the server answers as the bare loop does, from the vectors that are meant."""
    if traffic.is_noop:
        return
    paths = sorted(stage.bodies(traffic).iterdir())[: CHECKED if traffic.products == 1 else 1]
    for number, path in enumerate(paths):
        answers = ask(server, traffic, path.read_bytes())
        wanted = stage.answers[number : number + len(answers)]
        for (code, confidence), (found_code, found_confidence) in zip(wanted, answers, strict=False):
            if found_code != code or abs(found_confidence - confidence) > TOLERANCE:
                raise SystemExit(
                    f"{traffic.name} files {path.name} under {found_code} ({found_confidence:.4f}), "
                    f"the bare loop under {code} ({confidence:.4f}): they do not serve the same model"
                )


def ask(server: Server, traffic: Traffic, body: bytes) -> list[tuple[str, float]]:
    """Category code and confidence of each product, from a peer or from ours."""
    path = traffic.path or server.setting.path
    if traffic.method == "GRPC":
        with grpc.insecure_channel(f"{HOST}:{server.other_port}") as channel:
            message = channel.unary_unary(path, None, None)(body, timeout=60)
        told = MessageToDict(
            classifier_pb2.ClassifyResponse.FromString(message), preserving_proto_field_name=True
        )
        results = [result["prediction"] for result in told["results"]]
    else:
        response = httpx.post(
            f"http://{HOST}:{server.port}{path}",
            content=body,
            headers={"Content-Type": "application/json"},
            timeout=60,
            trust_env=False,
        )
        response.raise_for_status()
        told = response.json()
        if server.setting.system != "aisle":
            peer = told if isinstance(told, list) else [told]
            return [(answer["code"], answer["confidence"]) for answer in peer]
        results = told["results"]
    for result in results:
        vectors = {name: source.rpartition("_")[2].lower() for name, source in vectors_of(result).items()}
        if vectors != VECTORS[traffic.bodies]:
            raise SystemExit(f"{traffic.name}: found vectors {vectors}, wanted {VECTORS[traffic.bodies]}")
    return [(result["category"]["code"], result["confidence"]) for result in results]


def vectors_of(result: Mapping[str, Any]) -> dict[str, str]:
    """Where the vectors of an answer came from, as JSON or gRPC tells it."""
    if "vectors" in result:
        return dict(result["vectors"])
    return {"text": result["text_vector"], "image": result["image_vector"]}


def load(
    stage: Stage, server: Server, traffic: Traffic, clients: int, seconds: float, options: Sequence[str] = ()
) -> dict[str, Any]:
    """Figures of benchmarks.load, a product, in a process of its own. Redis counts as a part of our
    server."""
    pids = [server.pid] + [stage.redis_pid] * (server.setting.system == "aisle")
    port = server.other_port if traffic.method == "GRPC" else server.port
    command = ["-m", "benchmarks.load", HOST, str(port), traffic.path or server.setting.path]
    command += [str(stage.bodies(traffic)), "--method", traffic.method, "--concurrency", str(clients)]
    command += ["--warm", str(WARM_S), *options]
    for pid in pids:
        command += ["--pid", str(pid)]
    figures = _python(command, stage.environ, seconds)
    if figures["answers"]:
        figures["throughput"] *= traffic.products
        figures["cpu_ms"] /= traffic.products
    return figures


def _python(command: Sequence[str], environ: Mapping[str, str], seconds: float) -> dict[str, Any]:
    """The JSON that a module of ours prints when it is run for `seconds`."""
    with (OUT / f"{command[1]}.log").open("ab") as log:
        done = subprocess.run(
            [sys.executable, *command, "--seconds", str(seconds)],
            env=dict(environ),
            stdout=subprocess.PIPE,
            stderr=log,
            timeout=120 + 10 * seconds,
            check=True,
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def stage_facts() -> dict[str, Any]:
    products = make_products(8)
    sizes = [len(product.image or b"") for product in products]
    return {"products": PRODUCTS, "photo": "JPEG, 500 x 500", "photo_bytes": sum(sizes) // len(sizes)}


if __name__ == "__main__":
    typer.run(main)
