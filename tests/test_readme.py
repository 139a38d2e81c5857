"""The README runs: its quick commands, its tree, its settings and its links."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from monitoring.exporter import Exporter
from monitoring.settings import describe as describe_monitoring
from service.settings import describe as describe_service
from service.telemetry import Telemetry
from training.settings import describe as describe_training

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SETTINGS = {*describe_service(), *describe_monitoring(), *describe_training()}
QUICK = re.findall(r"<!-- test -->\n```bash\n(.*?)```", README, re.DOTALL)


def tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


def tree_paths() -> set[str]:
    block = re.search(r"## The tree\n\n```\n(.*?)```", README, re.DOTALL)
    assert block is not None
    paths, room = set(), ""
    for line in block[1].splitlines():
        name = line.split()[0]
        if line.startswith("  "):
            paths.add(room + name)
        elif name.endswith("/"):
            room = name
        else:
            paths.add(name)
    return paths


@pytest.mark.parametrize("block", QUICK)
def test_quick_commands_run(block: str) -> None:
    for command in block.strip().splitlines():
        words = command.split()
        assert words[0] == "python"
        done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_there_are_quick_commands() -> None:
    assert len(QUICK) >= 1


def test_the_tree_names_every_file_and_no_other() -> None:
    made = ("__init__.py", "_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
    untold = {f for f in tracked() if f.startswith("tests/") or f.endswith(made)}
    assert tree_paths() == tracked() - untold - {"README.md", ".gitignore"}


def test_every_setting_is_told_with_its_default() -> None:
    for name, default, meaning in SETTINGS:
        shown = f"`{default}`" if default else "(none)"
        assert f"| `{name}` | {shown} | {meaning} |" in README
    assert set(re.findall(r"AISLE_[A-Z_]+", README)) == {name for name, _, _ in SETTINGS}


def test_make_knows_every_chore_that_is_told() -> None:
    chores = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)", README)) <= chores


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_every_metric_is_told() -> None:
    registry = CollectorRegistry()
    Telemetry(max_batch=32, registry=registry)
    Exporter(registry)
    kinds = {"counter": "_total"}
    names = {metric.name + kinds.get(metric.type, "") for metric in registry.collect()}
    told = {
        name
        for row in re.findall(r"^\| (`(?:aisle|bentoml)_.*?) \|", README, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert {name for name in told if name.startswith("aisle_")} == names
