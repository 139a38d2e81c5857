"""`make bench`: our service beside a FastAPI app, LitServe and the bare loop, in one run on one machine.

All answer with the same model, about the same products, in JSON with the photo in base64; before a
server is measured, its answers are compared with the bare loop's. Each peer runs in the best of its
settings, found by a trial. Systems take turns, so that a busy neighbour hits all alike; the figures
are medians over rounds. Writes out/bench/serving.json.
"""

from __future__ import annotations

import base64
import json
import os
import platform
import signal
import statistics
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

import httpx
import psutil
import redis
import typer
from rich.console import Console
from rich.table import Table

from aisle.development_redis import ensure_development_redis
from aisle.product import Product
from benchmarks.products import make_products
from benchmarks.servers import HOST, Server, Setting, aisle_service, running, work_alone

PRODUCTS = 128
CHECKED = 16  # products whose answers are compared before each measurement
TOLERANCE = 1e-3  # of the confidence: batches of different sizes round differently
WARM_S = 1.0
TRIAL_CONCURRENCY = 16
TRIAL_SECONDS = 2.0
TRIALS = 3
EXPECTED = {"fastapi": 6.0, "litserve": 3.0}  # times their throughput, from concurrency 16 on
OUT = Path("out/bench")
PACKAGES = ("torch", "torchvision", "transformers", "bentoml", "feast", "fastapi", "uvicorn", "litserve")
QUIET = {
    "BENTOML_DO_NOT_TRACK": "true",
    "DO_NOT_TRACK": "1",
    "ANONYMIZED_TELEMETRY": "False",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}

BEGAN = time.monotonic()

console = Console(width=None if sys.stdout.isatty() else 120)


def _aisle(workers: int) -> Setting:
    return aisle_service(workers, label="1 worker" if workers == 1 else f"{workers} workers")


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


SETTINGS = {
    "aisle": [_aisle(1), _aisle(2)],
    "fastapi": [
        _fastapi(1, "1 worker, torch's own threads", {}),
        _fastapi(2, "2 workers, torch on 1 thread", ONE_THREAD),
    ],
    "litserve": [
        _litserve(1, "1 worker, torch's own threads", {}),
        _litserve(2, "2 workers, torch on 1 thread", ONE_THREAD),
    ],
}
# What is sent to whom. `known`: id, text and photo; the text's vector is stored. `new`: no id, so that
# all is computed, as it is by the peers.
TRAFFIC = {"aisle": ("known", "new"), "fastapi": ("product",), "litserve": ("product",)}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a run needs: the shop's folder, request bodies by traffic, environment, and true answers."""

    home: Path
    environ: Mapping[str, str]
    redis_pid: int
    answers: Sequence[tuple[str, float]]
    seconds: float

    def bodies(self, traffic: str) -> Path:
        return self.home / "bodies" / traffic


def main(
    seconds: Annotated[float, typer.Option(min=0.5, max=60, help="Measured time of each figure.")] = 4.0,
    concurrency: Annotated[str, typer.Option(help="Clients at once, between commas.")] = "1,16,64",
    systems: Annotated[str, typer.Option(help="Which, between commas.")] = "aisle,fastapi,litserve",
    rounds: Annotated[int, typer.Option(min=1, max=20)] = 2,
) -> None:
    # BentoML's use of pathspec, which it shows in spite of its being BentoML's to mend.
    warnings.filterwarnings("ignore", message="GitWildMatchPattern", category=DeprecationWarning)
    for stop in (signal.SIGINT, signal.SIGTERM):  # either way it stops its servers
        signal.signal(stop, signal.default_int_handler)
    clients = [int(part) for part in concurrency.split(",")]
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
        measured = measure(stage, list(best.values()), clients, rounds)
    rows = merge(measured)
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
        "ratios": ratios(rows),
        "seconds": round(time.monotonic() - BEGAN, 1),
    }
    (OUT / "serving.json").write_text(json.dumps(report, indent=1) + "\n")
    show(report)
    if any(row["errors"] for row in rows):
        raise SystemExit("there were errors; the servers' logs are in out/bench")


def prepare(home: Path, seconds: float) -> tuple[Stage, dict[str, Any]]:
    """Make the model and the request bodies below `home`; run the bare loop, whose answers are true."""
    environ = {**os.environ, **QUIET, "AISLE_HOME": str(home), "BENTOML_HOME": str(home / "bentoml")}
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


def write_bodies(products: Sequence[Product], folder: Path) -> None:
    """One file a request, in a folder a traffic."""
    for traffic in ("product", "known", "new"):
        (folder / traffic).mkdir(parents=True)
    for product in products:
        assert product.image is not None  # the benchmark's own products have one
        flat = {
            "title": product.title,
            "description": product.description,
            "image": base64.b64encode(product.image).decode(),
        }
        known = {"product_id": product.product_id, **flat}
        bodies = {"product": flat, "known": {"products": [known]}, "new": {"products": [flat]}}
        for traffic, body in bodies.items():
            (folder / traffic / f"{product.product_id}.json").write_text(json.dumps(body))


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


def measure(
    stage: Stage, settings: Sequence[Setting], clients: Sequence[int], rounds: int
) -> list[dict[str, Any]]:
    """One row a round, concurrency, system and traffic. All servers are up, but one at a time runs."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running(setting, stage.environ, OUT / f"{setting.system}.log"))
            for setting in settings
        ]
        sent = [(server, traffic) for server in servers for traffic in TRAFFIC[server.setting.system]]
        for server, traffic in sent:
            check(stage, server, traffic)
        rows = []
        for number in range(rounds):
            for concurrency in clients:
                say(f"round {number + 1} of {rounds}, {concurrency} clients")
                for server, traffic in sent:
                    work_alone(server, servers)
                    name = server.setting.system + (" new" if traffic == "new" else "")
                    figures = load(stage, server, traffic, concurrency, stage.seconds)
                    rows.append({"system": name, "concurrency": concurrency, **figures})
        return rows


def check(stage: Stage, server: Server, traffic: str) -> None:
    """Raise SystemExit unless the server answers as the bare loop does, from the vectors that are meant."""
    paths = sorted(stage.bodies(traffic).glob("*.json"))[:CHECKED]
    url = f"http://{HOST}:{server.port}{server.setting.path}"
    with httpx.Client(timeout=60, trust_env=False) as client:
        for path, (code, confidence) in zip(paths, stage.answers, strict=False):
            response = client.post(
                url, content=path.read_bytes(), headers={"Content-Type": "application/json"}
            )
            response.raise_for_status()
            found_code, found_confidence = answer_of(response.json(), traffic)
            if found_code != code or abs(found_confidence - confidence) > TOLERANCE:
                raise SystemExit(
                    f"{server.setting.system} files {path.stem} under {found_code} ({found_confidence:.4f}), "
                    f"the bare loop under {code} ({confidence:.4f}): they do not serve the same model"
                )


def answer_of(body: dict[str, Any], traffic: str) -> tuple[str, float]:
    """Category code and confidence of a peer's answer or of ours."""
    if traffic == "product":
        return body["code"], body["confidence"]
    [result] = body["results"]
    wanted = {"text": "stored" if traffic == "known" else "computed", "image": "computed"}
    if result["vectors"] != wanted:
        raise SystemExit(f"aisle, {traffic} products: found vectors {result['vectors']}, wanted {wanted}")
    return result["category"]["code"], result["confidence"]


def load(stage: Stage, server: Server, traffic: str, concurrency: int, seconds: float) -> dict[str, Any]:
    """Figures of benchmarks.load, in a process of its own. Redis counts as a part of our server."""
    pids = [server.pid] + [stage.redis_pid] * (server.setting.system == "aisle")
    command = ["-m", "benchmarks.load", HOST, str(server.port), server.setting.path]
    command += [str(stage.bodies(traffic)), "--concurrency", str(concurrency), "--warm", str(WARM_S)]
    for pid in pids:
        command += ["--pid", str(pid)]
    return _python(command, stage.environ, seconds)


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


def merge(measured: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of all rounds to one a system and concurrency: medians, all errors, each round's throughput."""
    keys = list(dict.fromkeys((row["system"], row["concurrency"]) for row in measured))
    rows = []
    for system, concurrency in keys:
        own = [row for row in measured if (row["system"], row["concurrency"]) == (system, concurrency)]
        medians = {
            name: round(statistics.median(row[name] for row in own if row[name] is not None), 2)
            for name in ("throughput", "p50_ms", "p99_ms", "cpu_ms")
            if any(row[name] is not None for row in own)
        }
        rows.append(
            {
                "system": system,
                "concurrency": concurrency,
                **medians,
                "answers": sum(row["answers"] for row in own),
                "errors": sum(sum(row["errors"].values()) for row in own),
                "rounds": [round(row["throughput"], 1) for row in own],
            }
        )
    return rows


def ratios(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How many times a peer's throughput ours is, and how many times our CPU time a product a peer
    takes, which a busy neighbour changes less."""
    by_key = {(row["system"], row["concurrency"]): row for row in rows}
    return [
        {
            "peer": peer,
            "concurrency": concurrency,
            "ratio": round(by_key["aisle", concurrency]["throughput"] / row["throughput"], 2),
            "cpu_ratio": round(row["cpu_ms"] / by_key["aisle", concurrency]["cpu_ms"], 2),
            "expected": EXPECTED[peer] if concurrency >= 16 else None,
        }
        for (peer, concurrency), row in by_key.items()
        if peer in EXPECTED and row["answers"] and by_key.get(("aisle", concurrency), {}).get("answers")
    ]


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": [round(value, 2) for value in os.getloadavg()],  # ours too: 1, 5 and 15 minutes
    }


def stage_facts() -> dict[str, Any]:
    products = make_products(8)
    sizes = [len(product.image or b"") for product in products]
    return {"products": PRODUCTS, "photo": "JPEG, 500 x 500", "photo_bytes": sum(sizes) // len(sizes)}


def show(report: Mapping[str, Any]) -> None:
    table = Table(title="products a second, one product a request")
    for column in (
        "system",
        "clients",
        "products/s",
        "p50 ms",
        "p99 ms",
        "server CPU ms",
        "errors",
        "ours is",
    ):
        table.add_column(column, justify="left" if column == "system" else "right")
    times = {(r["peer"], r["concurrency"]): f"{r['ratio']:.1f}x" for r in report["ratios"]}
    for row in report["rows"]:
        cells = [
            f"{row.get(name, float('nan')):.1f}" for name in ("throughput", "p50_ms", "p99_ms", "cpu_ms")
        ]
        key = (row["system"], row["concurrency"])
        table.add_row(row["system"], str(key[1]), *cells, str(row["errors"]), times.get(key, ""))
    console.print(table)
    limit = report["limit"]
    console.print(
        f"bare loop, batches of 32, {limit['threads']} threads: {limit['stored_texts']:.0f} products/s with "
        f"stored texts, {limit['computed_texts']:.0f} with computed ones"
    )
    for name, label in (("milliseconds", limit["threads"]), ("milliseconds_on_one_thread", 1)):
        stages = ", ".join(f"{stage} {value:.2f}" for stage, value in limit[name].items())
        console.print(f"milliseconds a product, model on {label} thread(s): {stages}")
    for name, label in report["settings"].items():
        console.print(f"{name}: {label}")
    for row in report["ratios"]:
        if row["expected"] is not None:
            met = "met" if row["ratio"] >= row["expected"] else "NOT met"
            console.print(
                f"{row['concurrency']} clients: {row['ratio']:.1f} times {row['peer']}, expected "
                f"{row['expected']:g}: {met} (CPU a product: {row['cpu_ratio']:.1f} times)"
            )
    console.print(f"{report['seconds']:.0f} s in all; {OUT / 'serving.json'}")


if __name__ == "__main__":
    typer.run(main)
