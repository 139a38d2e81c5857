"""Rules, alerts and the board: as Prometheus's own tools judge them, and against what really is exported.

A real Prometheus scrapes a real service of two workers and a real monitor: a metric that a rule or a panel
names, and that nothing exports, fails here.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from live_server import ROOT, LiveServer, free_port
from programs import program

from service.features import FAILURES
from service.metrics import FAULTS, FAULTY_CODES, FAULTY_STATUSES, METHODS, PATHS, SECONDS, STAGES
from service.protos import classifier_pb2 as pb
from service.protos.classifier_pb2_grpc import ClassifierStub
from service.terms import PROMISED_S

MONITORING = ROOT / "monitoring"
PROMETHEUS = MONITORING / "prometheus"
ALERTMANAGER = MONITORING / "alertmanager" / "alertmanager.yml"
PROVISIONING = MONITORING / "grafana" / "provisioning"
BOARD = json.loads((MONITORING / "grafana" / "dashboards" / "aisle.json").read_text())
WAIT_S = 40.0


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def rules_of(name: str) -> list[dict[str, Any]]:
    return [rule for group in read_yaml(PROMETHEUS / name)["groups"] for rule in group["rules"]]


RULES, ALERTS = rules_of("rules.yml"), rules_of("alerts.yml")
RECORDED = {rule["record"] for rule in RULES}
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
# (where it is, the expression)
PANEL_EXPRESSIONS = [
    (panel["title"], target["expr"].replace("$__rate_interval", "1m"))
    for panel in PANELS
    for target in panel["targets"]
]
EXPRESSIONS = [
    *((rule["record"], rule["expr"]) for rule in RULES),
    *((alert["alert"], alert["expr"]) for alert in ALERTS),
    *PANEL_EXPRESSIONS,
    *((note["name"], note["expr"]) for note in BOARD["annotations"]["list"] if "expr" in note),
]


def names_in(expression: str) -> tuple[set[str], set[str]]:
    """The metrics that an expression names, and the recorded rules."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    return set(re.findall(r"\b(?:aisle|bentoml)_\w+|\bup\b", bare)), set(re.findall(r"\baisle:[\w:]+", bare))


METRICS = set().union(*(names_in(expression)[0] for _, expression in EXPRESSIONS))


# As Prometheus's own tools judge them.


def judged(*command: str, cwd: Path = PROMETHEUS) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "words", ["check config prometheus.yml", "check rules rules.yml alerts.yml", "test rules tests.yml"]
)
def test_promtool_is_content(words: str) -> None:
    judged(program("promtool"), *words.split())


def test_amtool_is_content() -> None:
    judged(program("amtool"), "check-config", str(ALERTMANAGER))


@pytest.mark.parametrize("severity", ["page", "ticket"])
def test_an_alert_goes_to_the_receiver_of_its_severity(severity: str) -> None:
    routes = ["config", "routes", "test", f"--config.file={ALERTMANAGER}"]
    assert judged(program("amtool"), *routes, f"severity={severity}").strip() == severity


def test_inhibitions_name_alerts_that_there_are() -> None:
    names = {alert["alert"] for alert in ALERTS}
    for rule in read_yaml(ALERTMANAGER)["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            for pattern in matcher.split('"')[1].split("|"):
                assert any(re.fullmatch(pattern, name) for name in names), pattern


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_urgent_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert set(alert["annotations"]) == {"summary", "description"}
    assert alert["annotations"]["description"].rstrip(")").endswith((".", "?"))


@pytest.mark.parametrize("name", [alert["alert"] for alert in ALERTS])
def test_an_alert_is_tested_firing_and_quiet(name: str) -> None:
    fires = quiet = False
    for case in read_yaml(PROMETHEUS / "tests.yml")["tests"]:
        for check in case["promql_expr_test"]:
            asked = re.search(r'alertname=~"([^"]+)"', check["expr"])
            if asked and re.fullmatch(asked[1], name):
                fired = any(f'alertname="{name}"' in sample["labels"] for sample in check["exp_samples"])
                fires, quiet = fires or fired, quiet or not fired
    assert fires
    assert quiet


@pytest.mark.parametrize(("place", "expression"), EXPRESSIONS)
def test_what_is_named_with_colons_is_recorded(place: str, expression: str) -> None:
    assert names_in(expression)[1] <= RECORDED


def test_the_latency_objective_is_a_bucket_of_the_service() -> None:
    limits = {float(le) for _, e in EXPRESSIONS for le in re.findall(r'le="([\d.]+)"', e)}
    assert limits == {1.0}
    assert limits <= set(SECONDS)
    assert min(limits) > PROMISED_S  # nobody is promised more than the objective says


def test_reasons_that_rules_ask_for_begin_at_zero() -> None:
    asked = {
        reason
        for rule in RULES
        for reasons in re.findall(r'reason=~?"([^"]+)"', rule["expr"])
        for reason in reasons.split("|")
    }
    assert asked | set(FAILURES.values()) <= set(FAULTS)


def test_calls_that_rules_ask_for_begin_at_zero() -> None:
    asked = [rule["expr"] for rule in RULES if "aisle_grpc" in rule["expr"]]
    patterns = {pattern for expression in asked for pattern in re.findall(r'method=~"([^"]+)"', expression)}
    codes = {codes for expression in asked for codes in re.findall(r'code=~"([A-Z_|]+)"', expression)}
    assert codes == {"|".join(FAULTY_CODES)}
    for pattern in patterns:
        assert all(re.fullmatch(pattern, method) for method in METHODS)
        assert not re.fullmatch(pattern, "/inference.GRPCInferenceService/ModelReady")


def test_requests_that_rules_ask_for_begin_at_zero() -> None:
    asked = " ".join(rule["expr"] for rule in RULES)
    patterns = set(re.findall(r'aisle_http_requests_total\{endpoint=~"([^"]+)"', asked))
    timed = set(re.findall(r'aisle_http_request_seconds_\w+\{endpoint=~"([^"]+)"', asked))
    assert len(patterns) == len(timed) == 1
    for pattern in patterns | timed:
        assert all(re.fullmatch(pattern, path) for path in PATHS)
        assert not re.fullmatch(pattern, "/v2/health/ready")
    [statuses] = set(re.findall(r'code=~"(5[^"]*)"', asked))
    assert all(re.fullmatch(statuses, status) for status in FAULTY_STATUSES)


# The board.


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        assert min(at["x"], at["y"]) >= 0
        assert at["x"] + at["w"] <= 24
    for one, other in itertools.combinations(BOARD["panels"], 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or apart, (one["title"], other["title"])


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    wanted = {"type": "prometheus", "uid": "prometheus"}
    assert [panel["datasource"], *(target["datasource"] for target in panel["targets"])] == [wanted] * (
        1 + len(panel["targets"])
    )
    assert all(target["legendFormat"] for target in panel["targets"])
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_titles_are_unique() -> None:
    titles = [panel["title"] for panel in BOARD["panels"]]
    assert len(set(titles)) == len(titles)


def test_drift_alarms_above_a_line_at_one() -> None:
    [drift] = [panel for panel in PANELS if "aisle_drift_ratio" in panel["targets"][0]["expr"]]
    defaults = drift["fieldConfig"]["defaults"]
    assert defaults["custom"]["thresholdsStyle"]["mode"] == "line"
    assert [step["value"] for step in defaults["thresholds"]["steps"]] == [None, 1]


def test_what_alerts_send_people_to_is_on_the_board() -> None:
    titles = {panel["title"] for panel in PANELS}
    for alert in ALERTS:
        assert set(re.findall(r'"([^"]+)"', alert["annotations"]["description"])) <= titles


def test_grafana_is_provisioned_with_what_the_board_asks_for() -> None:
    [source] = read_yaml(PROVISIONING / "datasources" / "prometheus.yml")["datasources"]
    assert (source["uid"], source["type"], source["url"]) == (
        "prometheus",
        "prometheus",
        "http://prometheus:9090",
    )
    scrapes = read_yaml(PROMETHEUS / "prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrapes
    [provider] = read_yaml(PROVISIONING / "dashboards" / "aisle.yml")["providers"]
    # docker-compose.yml mounts the folder of that name beside provisioning.
    assert Path(provider["options"]["path"]).name == (MONITORING / "grafana" / "dashboards").name


# Against what really is exported.


@contextmanager
def running(command: list[str], log: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environ}, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()


class Plant:
    """A service and its monitor, as a Prometheus sees them that scrapes each second."""

    def __init__(self, server: LiveServer, url: str) -> None:
        self.server = server
        self.url = url
        self.called = 0  # over gRPC

    def get(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=10)
        body = answer.json()
        assert body["status"] == "success", f"{parameters}: {body.get('error')}"
        assert "warnings" not in body, f"{parameters}: {body['warnings']}"
        return body["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def value(self, expression: str) -> float:
        [sample] = self.query(expression)
        return float(sample["value"][1])

    def names(self) -> set[str]:
        return set(self.get("label/__name__/values"))

    def ask(self) -> None:
        """Good requests, and some of what people send."""
        products = [{"title": "wooden train"}, {"title": "livre roman poche"}, {}]
        assert self.server.classify(products).status_code == 200
        assert self.server.classify([{}]).status_code == 422
        with grpc.insecure_channel(f"127.0.0.1:{self.server.grpc_port}") as channel:
            classify = ClassifierStub(channel).Classify
            classify(pb.ClassifyRequest(products=[pb.Product(title="wooden train")]), timeout=30)
        self.called += 1
        label = {"product_id": "1", "category": "10"}
        for path, body in (("/v1/labels", {"labels": [label]}), ("/v1/classify", []), ("/nothing", {})):
            self.server.client.post(path, json=body)

    def ask_until_all_is_there(self, missing: Callable[[], Collection[object]]) -> None:
        deadline = time.monotonic() + WAIT_S
        while left := missing():
            assert time.monotonic() < deadline, f"never seen: {left}"
            self.ask()
            time.sleep(0.3)


def quick_config(targets: dict[str, str]) -> dict[str, Any]:
    """prometheus.yml with other targets, every second, and nobody to be told."""
    config = read_yaml(PROMETHEUS / "prometheus.yml")
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    del config["alerting"]
    assert {job["job_name"] for job in config["scrape_configs"]} == set(targets)
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
        if "authorization" in job:
            job["authorization"]["credentials_file"] = str(PROMETHEUS / "metrics.key")
    return config


@pytest.fixture(scope="module")
def plant(own_tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    prometheus = program("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    places = {"AISLE_HOME": str(own_tiny_home), "BENTOML_HOME": str(own_tiny_home / "bentoml")}
    watching = {"AISLE_MONITOR_PORT": str(free_port()), "AISLE_MONITOR_INTERVAL_S": "0.5"}
    monitor = [sys.executable, "-m", "monitoring", "watch"]
    with running(monitor, folder / "monitor.log", **places, **watching):
        server = LiveServer(own_tiny_home, workers=2, AISLE_MAX_BATCH="8")
        try:
            here = f"127.0.0.1:{free_port()}"
            targets = {
                "aisle-service": f"127.0.0.1:{server.port}",
                "aisle-monitor": f"127.0.0.1:{watching['AISLE_MONITOR_PORT']}",
                "prometheus": here,
            }
            config = folder / "prometheus.yml"
            config.write_text(yaml.safe_dump(quick_config(targets)))
            flags = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
            with running([prometheus, *flags, f"--web.listen-address={here}"], folder / "prometheus.log"):
                yield ready(Plant(server, f"http://{here}"), folder)
        finally:
            server.stop()


def ready(plant: Plant, folder: Path) -> Plant:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            if len(plant.query("up == 1")) == 3:
                return plant
        except (httpx.TransportError, json.JSONDecodeError):
            pass
        logs = "".join((folder / name).read_text()[-2_000:] for name in ("monitor.log", "prometheus.log"))
        assert time.monotonic() < deadline, f"not every target is up; the logs end: {logs}"
        time.sleep(0.1)


def test_every_metric_that_is_named_exists(plant: Plant) -> None:
    assert len(METRICS) > 30
    plant.ask_until_all_is_there(lambda: METRICS - plant.names())


def test_every_rule_is_healthy_and_records_something(plant: Plant) -> None:
    plant.ask_until_all_is_there(lambda: RECORDED - plant.names())
    groups = plant.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(RULES) + len(ALERTS)
    assert {(rule["health"], rule.get("lastError", "")) for rule in rules} == {("ok", "")}


@pytest.mark.parametrize(("place", "expression"), EXPRESSIONS)
def test_every_expression_is_evaluated(plant: Plant, place: str, expression: str) -> None:
    plant.query(expression)


def test_every_panel_shows_something(plant: Plant) -> None:
    plant.ask_until_all_is_there(lambda: [(panel, e) for panel, e in PANEL_EXPRESSIONS if not plant.query(e)])


def test_recorded_values_are_those_of_the_traffic(plant: Plant) -> None:
    assert plant.value("aisle:unavailable:ratio_rate1h") == 0
    assert plant.value("aisle:slow_answers:ratio_rate1h") == 0  # 1 if the bucket were not found
    assert 0 < plant.value("aisle:request_duration_seconds:p99_5m") < 1
    assert plant.value('aisle:stored_vectors:ratio_rate5m{modality="text"}') == 0
    assert 1 <= plant.value("aisle:batch_products:mean5m") <= 8
    assert plant.value("aisle:requests:rate5m") > 0


def test_calls_over_grpc_are_the_sum_of_both_workers(plant: Plant) -> None:
    for _ in range(8):  # a connection each: the kernel spreads them over the workers
        plant.ask()
    name = 'aisle_grpc_requests_total{code="OK",method="/aisle.v1.Classifier/Classify"}'
    assert {plant.server.metrics()[name] for _ in range(10)} == {plant.called}  # whichever worker is asked


def test_every_stage_began_at_zero_and_no_other_came(plant: Plant) -> None:
    stages = plant.query("count by (stage) (aisle_stage_seconds_count)")
    assert {sample["metric"]["stage"] for sample in stages} == set(STAGES)


def test_nothing_pages_while_all_is_well(plant: Plant) -> None:
    assert plant.query('ALERTS{severity="page"}') == []


def test_what_feast_registers_for_a_server_of_its_own_is_not_kept(plant: Plant) -> None:
    assert not [name for name in plant.names() if name.startswith("feast_")]
