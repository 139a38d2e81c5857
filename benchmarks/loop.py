"""`make loop`: the whole circle on the demo shop. Serve, watch, drift, label, retrain, promote.

Needs a shop that `make demo` has made. Normal traffic raises no alarm; then the market moves (restyled
photos and new words in a third of the categories), the monitor sees it, labels arrive for a share of the
answers, the retrainer trains a challenger and promotes it, and the workers follow while requests go on.
Writes out/loop.json and out/loop.png.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import typer
from rich.console import Console

from aisle.ledger import Event, Ledger, ledger_url
from benchmarks.loop_figure import draw_timeline
from benchmarks.servers import HOST, Server, Setting, aisle_service, process, running
from training.catalog import Catalog, read_catalog

NORMAL, BEFORE, AFTER, MEANWHILE = 2_000, 1_000, 600, 1_000  # products of each phase
LABELLED = 0.5  # share of the first shifted answers that get a label
WINDOW = 200
CLIENTS = 16
PACE_S = 0.1  # between requests while the loop waits for the monitor and the retrainer
ALARM_TIMEOUT_S, RETRAIN_TIMEOUT_S, SWAP_TIMEOUT_S = 60, 240, 30
OUT = Path("out")

console = Console(width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One request: when it was answered, and how. `model` is "" where it failed."""

    at_s: float
    model: str
    correct: bool
    label: dict[str, str]


@dataclass(kw_only=True)
class Traffic:
    """Sends products one a request, and keeps every answer."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    is_stopped: bool = False

    def send(self, catalog: Catalog, rows: Sequence[int]) -> list[Answer]:
        """CLIENTS at a time."""
        with ThreadPoolExecutor(CLIENTS) as pool, httpx.Client(base_url=self.url, timeout=60) as client:
            try:
                return list(pool.map(lambda row: self.ask(client, catalog, row), rows))
            except KeyboardInterrupt:  # the service stops too, and what is under way fails
                self.is_stopped = True
                raise

    @contextmanager
    def going_on(self, catalog: Catalog, rows: Sequence[int]) -> Iterator[None]:
        """One request after the other beside the block, round and round."""
        stop = threading.Event()

        def work() -> None:
            with httpx.Client(base_url=self.url, timeout=60) as client:
                for i in range(10**9):
                    if stop.wait(PACE_S):
                        return
                    self.ask(client, catalog, rows[i % len(rows)])

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def ask(self, client: httpx.Client, catalog: Catalog, row: int) -> Answer:
        product, truth = catalog.product(row), str(catalog.products.category.iloc[row])
        given = {"product_id": f"{catalog.image_root.name}-{product.product_id}", "title": product.title}
        given["description"] = product.description
        if product.image is not None:
            given["image"] = base64.b64encode(product.image).decode()
        model, code, prediction_id = "", "", ""
        try:
            response = client.post("/v1/classify", json={"products": [given]})
            if response.status_code == 200:
                body = response.json()
                model, [result] = body["model"], body["results"]
                code, prediction_id = result["category"]["code"], result["prediction_id"]
        except httpx.HTTPError as error:
            if not self.is_stopped:
                console.print(f"[red]a request failed:[/red] {error!r}")
        answer = Answer(
            at_s=time.time(),
            model=model,
            correct=code == truth,
            label={"prediction_id": prediction_id, "category": truth},
        )
        self.answers.append(answer)
        return answer


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # either way the servers are stopped
    started = time.time()
    home = Path(os.environ["AISLE_HOME"])
    model = demo_model(home)
    work = home / "loop"
    work.mkdir(exist_ok=True)
    for old in [*work.glob("ledger.db*"), *OUT.glob("loop-*.log")]:
        old.unlink()
    environ = {**os.environ, **loop_environment(home, work)}
    normal = traffic_catalog(work / "normal", NORMAL, seed=101, shifted=False)
    shifted = traffic_catalog(work / "shifted", BEFORE + AFTER + MEANWHILE, seed=202, shifted=True)
    ledger = Ledger.open(ledger_url(home, environ["AISLE_DATABASE_URL"]))
    ledger.create_tables()
    ledger.deploy(model, "the loop begins with the demo's model")
    with ExitStack() as stack:
        service = stack.enter_context(running(aisle_service(2), environ, OUT / "loop-service.log"))
        monitor = stack.enter_context(running(MONITOR, environ, OUT / "loop-monitor.log"))
        stack.enter_context(process(["-m", "monitoring", "retrain"], environ, OUT / "loop-retrain.log"))
        ratios = stack.enter_context(watching(monitor))
        figures, marks, traffic = run(ledger, service, monitor, normal, shifted, model)
    figures["seconds"] = round(time.time() - started, 1)
    (OUT / "loop.json").write_text(json.dumps(figures, indent=1) + "\n")
    draw_timeline(
        OUT / "loop.png",
        answers=[(answer.at_s, answer.correct) for answer in traffic.answers],
        ratios=ratios,
        marks=marks,
    )
    console.print(figures)
    console.print(f"{OUT / 'loop.json'}, {OUT / 'loop.png'}, {home / 'reports'}")
    if figures["failed"] or figures["false_alarms"] or not figures["promoted"]:
        raise SystemExit("the loop did not close as it should; the logs are out/loop-*.log")


MONITOR = Setting(
    system="monitor",
    label="",
    command=["-m", "monitoring", "watch"],
    ready_path="/metrics",
    path="/metrics",
    environ={"AISLE_MONITOR_PORT": "{port}"},
)


def demo_model(home: Path) -> str:
    """The classifier that `make demo` registered last."""
    report = OUT / "demo.json"
    if not report.is_file() or not (home / "catalog" / "products.csv").is_file():
        raise SystemExit(f"{report}: not found, wanted the report of `make demo EXIT=1`; run that first")
    model: str = json.loads(report.read_text())["model"]
    return model


def loop_environment(home: Path, work: Path) -> dict[str, str]:
    return {
        "AISLE_DATABASE_URL": f"sqlite:///{work.resolve() / 'ledger.db'}",
        "AISLE_MODEL": "champion",
        "AISLE_CATALOG": str(home / "catalog"),
        "AISLE_WINDOW": str(WINDOW),
        "AISLE_MONITOR_INTERVAL_S": "1",
        "AISLE_RETRAIN_MIN_LABELS": str(int(BEFORE * LABELLED * 0.8)),
        "AISLE_RETRAIN_COOLDOWN_S": "0",
    }


def traffic_catalog(folder: Path, products: int, *, seed: int, shifted: bool) -> Catalog:
    """Listings that no model was trained on; drawn once."""
    command = [
        "-m",
        "training",
        "demo-catalog",
        str(folder),
        "--products",
        str(products),
        "--seed",
        str(seed),
    ]
    subprocess.run([sys.executable, *command, *["--shifted"] * shifted], check=True)
    return read_catalog(folder)


def run(
    ledger: Ledger, service: Server, monitor: Server, normal: Catalog, shifted: Catalog, model: str
) -> tuple[dict[str, Any], list[tuple[float, str]], Traffic]:
    """The loop itself: its figures, when what happened, and the traffic."""
    traffic = Traffic(url=f"http://{HOST}:{service.port}")
    marks = [(time.time(), "normal traffic")]

    def say(what: str) -> None:
        marks.append((time.time(), what))
        console.print(f"{marks[-1][0] - marks[0][0]:5.0f} s  {what}")

    # A monitor that starts amid traffic begins with the last full window.
    looked = "aisle_monitor_last_success_timestamp_seconds"
    wait_for(lambda: value_of(monitor, looked) > 0, "the monitor to look", ALARM_TIMEOUT_S)
    console.print(f"    0 s  {NORMAL:,} requests of normal traffic")
    usual = traffic.send(normal, range(NORMAL))
    windows = "aisle_monitor_windows_total"
    wait_for(lambda: value_of(monitor, windows) >= NORMAL // WINDOW, "the monitor to see it", ALARM_TIMEOUT_S)
    false_alarms = len(ledger.events("drift.alarm"))
    shift_number = ledger.last_predictions(1)[0].number
    say("shift")
    first = traffic.send(shifted, range(BEFORE))
    meanwhile = range(BEFORE + AFTER, BEFORE + AFTER + MEANWHILE)
    with traffic.going_on(shifted, meanwhile):
        alarm = wait_for_event(ledger, "drift.alarm", false_alarms, ALARM_TIMEOUT_S)
        marks.append((alarm.at_s, "alarm"))
        console.print(f"{alarm.at_s - marks[0][0]:5.0f} s  alarm: {', '.join(alarm.detail['streams'])}")
        send_labels(traffic.url, [answer.label for answer in first[: int(BEFORE * LABELLED)]])
        say("labels")
        finished = wait_for_event(ledger, "retrain.finished", 0, RETRAIN_TIMEOUT_S)
        console.print(f"{finished.at_s - marks[0][0]:5.0f} s  {finished.detail['why']}")
        promotion = ledger.champion()
        swap_s = None
        if finished.detail["promoted"] and promotion is not None:
            marks.append((promotion.at_s, "promotion"))
            swap_s = followed(traffic, promotion.model) - promotion.at_s
        last = traffic.send(shifted, range(BEFORE, BEFORE + AFTER))
    say("end")
    alarmed_at = alarm.detail["window"][1]
    return (
        {
            "false_alarms": false_alarms,
            "windows_to_alarm": -(-(alarmed_at - shift_number) // WINDOW),
            "accuracy_normal": accuracy(usual),
            "accuracy_before": accuracy(first),
            "accuracy_after": accuracy(last),
            "labels": int(BEFORE * LABELLED),
            "promoted": finished.detail["promoted"],
            "requests": len(traffic.answers),
            "failed": sum(answer.model == "" for answer in traffic.answers),
            "swap_seconds": None if swap_s is None else round(swap_s, 1),
            "champion": model,
            "challenger": finished.detail["challenger"],
            "why": finished.detail["why"],
        },
        marks,
        traffic,
    )


def accuracy(answers: Sequence[Answer]) -> float:
    return round(statistics.fmean(answer.correct for answer in answers), 4)


def followed(traffic: Traffic, model: str) -> float:
    """When both workers had followed: the last answer of another model, once none has come for 20 answers."""
    last = 20
    wait_for(
        lambda: {answer.model for answer in traffic.answers[-last:]} == {model}, "the swap", SWAP_TIMEOUT_S
    )
    return max((a.at_s for a in traffic.answers if a.model != model), default=traffic.answers[0].at_s)


def send_labels(url: str, labels: Sequence[Mapping[str, str]]) -> None:
    for start in range(0, len(labels), 500):
        body = {"labels": [dict(label, source="audit") for label in labels[start : start + 500]]}
        response = httpx.post(f"{url}/v1/labels", json=body, timeout=60)
        response.raise_for_status()
        faults = [result for result in response.json()["results"] if "error" in result]
        if faults:
            raise SystemExit(f"{len(faults)} labels were not recorded: {faults[0]}")


def wait_for(true: Callable[[], bool], what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {timeout_s:g} s for {what}; the logs are out/loop-*.log")
        time.sleep(0.2)


def wait_for_event(ledger: Ledger, kind: str, already: int, timeout_s: float) -> Event:
    wait_for(lambda: len(ledger.events(kind)) > already, f"an event {kind}", timeout_s)
    return ledger.events(kind)[already]


def metrics_of(monitor: Server) -> str:
    return httpx.get(f"http://{HOST}:{monitor.port}/metrics", timeout=10, trust_env=False).text


def value_of(monitor: Server, metric: str) -> float:
    found = re.search(rf"^{metric} (\S+)", metrics_of(monitor), re.MULTILINE)
    return float(found[1]) if found else 0.0


@contextmanager
def watching(monitor: Server) -> Iterator[dict[str, list[tuple[float, float]]]]:
    """Each stream's drift ratio over time, read from the monitor each second."""
    ratios: dict[str, list[tuple[float, float]]] = {}
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(1.0):
            for stream, value in re.findall(
                r'^aisle_drift_ratio\{stream="([^"]+)"\} (\S+)', metrics_of(monitor), re.MULTILINE
            ):
                ratios.setdefault(stream, []).append((time.time(), float(value)))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield ratios
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    typer.run(main)
