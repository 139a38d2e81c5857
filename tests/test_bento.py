"""`bentoml build`: what the bento holds, and the service served from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from live_server import ROOT, LiveServer

ROOMS = ("aisle", "service", "feature_repo", "monitoring", "training")


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("bentos")
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "build", "--version", "test"],
        cwd=ROOT,
        env={**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return home / "bentos" / "aisle" / "test"


def tracked(*suffixes: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", *ROOMS], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.split() if name.endswith(suffixes)}


def test_it_holds_every_module_of_every_room_and_nothing_else(bento: Path) -> None:
    src = bento / "src"
    files = [file for file in src.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    held = {str(file.relative_to(src)) for file in files}
    assert {name for name in held if name.endswith(".py")} == tracked(".py")
    others = {name for name in held if not name.endswith(".py")}
    pages = {"training/page.css", "training/page.html"}
    assert others == {"bentofile.yaml", "feature_repo/feature_store.yaml", "pyproject.toml"} | pages


def test_its_packages_are_the_locked_ones(bento: Path) -> None:
    assert (bento / "env/python/requirements.txt").read_text().count("--hash=sha256:") == (
        ROOT / "requirements.lock"
    ).read_text().count("--hash=sha256:")


def test_the_image_makes_the_folder_of_the_volume(bento: Path) -> None:
    [script] = (bento / "env" / "docker").glob("script__*")
    made = script.read_text()
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    [volume] = compose["services"]["service"]["volumes"]
    assert made.rstrip().endswith(volume.partition(":")[2])
    dockerfile = (bento / "env/docker/Dockerfile").read_text()
    assert f"WORKDIR {Path(compose['services']['service']['working_dir']).parent}" in (
        dockerfile.replace("$BENTO_PATH", "/home/bentoml/bento")
    )


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with our packages, but without this checkout, which is installed among them."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    [site] = folder.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def server(bento: Path, own_tiny_home: Path, python: str) -> Iterator[LiveServer]:
    server = LiveServer(own_tiny_home, root=bento / "src", python=python)
    yield server
    server.stop()


def test_it_is_served_from_its_own_files(server: LiveServer, bento: Path) -> None:
    assert server.classify([{"title": "train bois"}]).status_code == 200


@pytest.fixture(scope="module")
def carrying(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bento with a model in it, as it is exported and as an image holds it."""
    folder = tmp_path_factory.mktemp("carrying")
    places = {"AISLE_HOME": str(tiny_home), "BENTOML_HOME": str(tiny_home / "bentoml")}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**os.environ, **places, "BENTOML_DO_NOT_TRACK": "true"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    (folder / "bentofile.yaml").write_text(run("service", "bentofile"))
    run("bentoml", "build", "-f", str(folder / "bentofile.yaml"), "--version", "carrying", ".")
    run("bentoml", "export", "aisle:carrying", str(folder / "aisle.bento"))
    with tarfile.open(folder / "aisle.bento") as archive:
        archive.extractall(folder / "aisle", filter="data")
    return folder / "aisle"


def test_where_the_store_is_empty_the_model_in_the_bento_is_served(
    carrying: Path, tiny_home: Path, python: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(
        tiny_home, home, ignore=shutil.ignore_patterns("bentoml", "redis", "ledger.db*", "server.log")
    )
    server = LiveServer(home, root=carrying / "src", python=python)
    try:
        [manifest] = (carrying / "models" / "aisle-classifier").glob("*/manifest.json")
        answer = server.classify([{"title": "train bois"}]).json()
        assert answer["model"] == f"aisle-classifier:{manifest.parent.name}"
        assert "the model store is empty, so the bento's model is served" in server.log.read_text()
    finally:
        server.stop()


def test_the_checkout_is_out_of_its_reach(python: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [python, "-c", "import bentoml, aisle"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "No module named 'aisle'" in done.stderr


def test_the_monitor_and_training_start_from_it(bento: Path, python: str) -> None:
    for module in ("monitoring", "training"):
        subprocess.run([python, "-m", module, "--help"], cwd=bento / "src", check=True, capture_output=True)
