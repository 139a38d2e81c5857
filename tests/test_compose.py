"""docker-compose.yml, without an engine: valid, and everything that it names is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import monitoring.commands
import service.__main__
import training.commands
from monitoring.settings import Settings as MonitoringSettings
from service.address import check_private, is_loopback
from service.settings import Settings as ServiceSettings
from training.settings import Settings as TrainingSettings

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docker-compose.yml"
GIVEN = {
    "AISLE_CATALOG_FOLDER": "/data/catalogue",
    "AISLE_METRICS_KEY_FILE": "/data/key",
    "GRAFANA_PASSWORD_FILE": "/data/password",
}
ROOMS = {
    "service": (service.__main__.cli, ServiceSettings),
    "monitoring": (monitoring.commands.app, MonitoringSettings),
    "training": (training.commands.app, TrainingSettings),
}


def interpolated(text: str) -> str:
    """As `docker compose` fills in ${NAME:-default} and ${NAME:?message}."""

    def value(match: re.Match[str]) -> str:
        name, sign, rest = match.groups()
        if name in GIVEN:
            return GIVEN[name]
        assert sign == ":-", f"{name} is required and not given: {rest}"
        return rest

    return re.sub(r"\$\{(\w+)(:-|:\?)([^}]*)\}", value, text)


TEXT = "\n".join(line for line in FILE.read_text().splitlines() if not line.lstrip().startswith("#"))
COMPOSE: dict[str, Any] = yaml.safe_load(interpolated(TEXT))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, one in SERVICES.items() if one["image"].startswith("aisle")]


def settings_of(name: str) -> Any:
    """The settings that a process of ours reads from its environment."""
    module = SERVICES[name]["command"][2]
    environ = {key: value or "" for key, value in SERVICES[name]["environment"].items()}
    return ROOMS[module][1].from_environment(environ)


def bind_mounts(name: str) -> list[tuple[str, str]]:
    mounts = []
    for mount in SERVICES[name].get("volumes", []):
        if isinstance(mount, str):
            source, target = mount.split(":")[:2]
            if source.startswith("."):
                mounts.append((source, target))
    return mounts


def test_it_has_all_parts() -> None:
    assert set(SERVICES) == {
        "redis",
        "service",
        "monitor",
        "retrainer",
        "prometheus",
        "alertmanager",
        "grafana",
    }
    assert OURS == ["service", "monitor", "retrainer"]


def test_it_is_valid_against_the_compose_specification() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_a_wrong_file_is_not_valid(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(FILE.read_text().replace("healthcheck:", "healthchek:"))
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(wrong)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "healthchek" in done.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_each_part_is_pinned_checked_and_started_again(name: str) -> None:
    part = SERVICES[name]
    tag = part["image"].rpartition(":")[2]
    assert tag == "latest" if name in OURS else re.search(r"\d+\.\d+\.\d+", tag)
    assert part["healthcheck"]["test"][0] == "CMD"
    assert part["restart"] == "unless-stopped"
    assert "no-new-privileges:true" in part["security_opt"]


@pytest.mark.parametrize("name", SERVICES)
def test_only_this_hosts_own_address_is_published(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


def test_mounted_files_are_in_the_tree() -> None:
    mounts = [mount for name in SERVICES for mount in bind_mounts(name)]
    assert len(mounts) == 4
    for source, _ in mounts:
        assert (ROOT / source).is_dir()


def test_named_volumes_are_declared_and_used() -> None:
    named = {
        mount.split(":")[0]
        for part in SERVICES.values()
        for mount in part.get("volumes", [])
        if isinstance(mount, str) and not mount.startswith(".")
    }
    assert named == set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting_and_its_value_is_accepted(name: str) -> None:
    known = {
        facts.metadata["name"]
        for _, settings in ROOMS.values()
        for facts in settings.__dataclass_fields__.values()
    }
    given = {key for key in SERVICES[name]["environment"] if key.startswith("AISLE_")}
    assert given <= known
    settings = settings_of(name)
    assert str(settings.home) == "/home/bentoml/shop"


@pytest.mark.parametrize("name", OURS)
def test_every_command_of_ours_is_there_and_takes_its_options(name: str) -> None:
    for words in (SERVICES[name]["command"], SERVICES[name]["healthcheck"]["test"][1:]):
        if words[:2] == ["python", "-m"]:
            app = typer.main.get_command(ROOMS[words[2]][0])
            command = app.commands[words[3]]  # type: ignore[attr-defined]
            options = {option for parameter in command.params for option in parameter.opts}
            assert {word for word in words[4:] if word.startswith("--")} <= options


def test_documented_commands_of_ours_are_there() -> None:
    found = re.findall(r"python -m (\w+) ([\w-]+)", FILE.read_text())
    assert ("training", "run") in found
    for module, command in found:
        assert command in typer.main.get_command(ROOMS[module][0]).commands  # type: ignore[attr-defined]


def test_ports_are_those_of_the_settings_the_scraper_and_the_board() -> None:
    command = SERVICES["service"]["command"]
    port = command[command.index("--port") + 1]
    grpc_port, monitor_port = settings_of("service").grpc_port, settings_of("monitor").port
    assert SERVICES["service"]["ports"] == [f"127.0.0.1:{p}:{p}" for p in (port, grpc_port)]
    scraped = yaml.safe_load((ROOT / "monitoring/prometheus/prometheus.yml").read_text())
    targets = {
        target
        for job in scraped["scrape_configs"]
        for config in job["static_configs"]
        for target in config["targets"]
    }
    assert targets == {f"service:{port}", f"monitor:{monitor_port}", "localhost:9090"}
    [alertmanager] = scraped["alerting"]["alertmanagers"]
    assert alertmanager["static_configs"] == [{"targets": ["alertmanager:9093"]}]
    source = yaml.safe_load((ROOT / "monitoring/grafana/provisioning/datasources/prometheus.yml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    assert f":{port}/readyz" in SERVICES["service"]["healthcheck"]["test"][-1]
    assert f":{monitor_port}/metrics" in SERVICES["monitor"]["healthcheck"]["test"][-1]


def test_configuration_is_mounted_where_it_is_read() -> None:
    mounts = {target: source for name in SERVICES for source, target in bind_mounts(name)}
    prometheus = dict(word.split("=", 1) for word in SERVICES["prometheus"]["command"])
    alertmanager = dict(word.split("=", 1) for word in SERVICES["alertmanager"]["command"])
    boards = yaml.safe_load((ROOT / "monitoring/grafana/provisioning/dashboards/aisle.yml").read_text())
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    for path in (
        prometheus["--config.file"],
        alertmanager["--config.file"],
        boards["providers"][0]["options"]["path"] + "/aisle.json",
        home,
        "/etc/grafana/provisioning/datasources/prometheus.yml",
    ):
        [source] = [source for target, source in mounts.items() if path.startswith(target + "/")]
        target = next(target for target in mounts if path.startswith(target + "/"))
        assert (ROOT / source / path.removeprefix(target + "/")).is_file()


def test_the_service_may_listen_where_it_listens() -> None:
    command = SERVICES["service"]["command"]
    host = command[command.index("--host") + 1]
    check_private(settings_of("service").auth, host, "--host")
    assert not is_loopback(host)


def test_prometheus_finds_its_key_where_it_is_mounted() -> None:
    [secret] = SERVICES["prometheus"]["secrets"]
    [config] = [mount for mount in bind_mounts("prometheus") if mount[1] == "/etc/prometheus"]
    jobs = yaml.safe_load((ROOT / config[0] / "prometheus.yml").read_text())["scrape_configs"]
    files = {job["authorization"]["credentials_file"] for job in jobs if "authorization" in job}
    assert {f"{config[1]}/{file}" for file in files} == {secret["target"]}
    # A file is mounted over a file that is there: the folder is read-only.
    assert (ROOT / config[0] / "metrics.key").read_text() == "no-key\n"


def test_the_service_has_time_to_stop() -> None:
    grace_s = int(SERVICES["service"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > settings_of("service").stop_timeout_s


def test_no_secret_is_in_it() -> None:
    for name, part in SERVICES.items():
        for key, value in part.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN|KEY", key):
                assert key.endswith("__FILE"), f"{name}: {key}"
                assert value == "/run/secrets/grafana_password"
    assert COMPOSE["secrets"] == {
        "grafana_password": {"file": GIVEN["GRAFANA_PASSWORD_FILE"]},
        "metrics_key": {"file": GIVEN["AISLE_METRICS_KEY_FILE"]},
    }
    assert "://redis:6379" in SERVICES["service"]["environment"]["AISLE_REDIS_URL"]
