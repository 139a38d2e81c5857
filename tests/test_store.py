"""The model store: half entries of every kind, writers and readers at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore
from test_bundle import small_bundle

from aisle import store
from aisle.errors import BundleError
from aisle.image import ImageEncoder
from aisle.manifest import MANIFEST, write_manifest
from aisle.text import TextEncoder

ROOT = Path(__file__).parents[1]
CLASSIFIER = store.CLASSIFIER


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Path]:
    """An empty model store; BentoML would read BENTOML_HOME only once a process."""
    folder = tmp_path / "home" / "models"
    folder.mkdir(parents=True)
    BentoMLContainer.model_store_dir.set(str(folder))
    BentoMLContainer.model_store.set(ModelStore(folder))
    yield folder
    BentoMLContainer.model_store_dir.reset()
    BentoMLContainer.model_store.reset()


def register(folder: Path, version: str) -> Path:
    """A classifier in the store; the folder that it was registered from."""
    small_bundle().save(folder / version)
    store.save_bundle(folder / version, version, {"macro_f1": 0.5})
    return folder / version


DAMAGES = {
    "no model.yaml": "model.yaml",
    "no manifest": MANIFEST,
    "no weights": "head.safetensors",
}


@pytest.mark.parametrize("lost", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_broken_version_harms_no_other(models: Path, tmp_path: Path, lost: str) -> None:
    register(tmp_path, "v1")
    register(tmp_path, "v2")
    (models / CLASSIFIER / "v2" / lost).unlink()
    assert store.versions(CLASSIFIER) == ["v1"]
    assert store.resolve(store.LATEST) == f"{CLASSIFIER}:v1"
    assert store.load_bundle().metrics == {"macro_f1": 0.5}
    register(tmp_path, "v3")  # BentoML's `latest` still names v2
    assert store.versions(CLASSIFIER) == ["v1", "v3"]


@pytest.mark.parametrize("lost", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_broken_version_can_be_registered_again(models: Path, tmp_path: Path, lost: str) -> None:
    source = register(tmp_path, "v1")
    (models / CLASSIFIER / "v1" / lost).unlink()
    store.save_bundle(source, "v1", {})
    assert store.load_bundle(f"{CLASSIFIER}:v1").metrics == {"macro_f1": 0.5}
    assert not list(models.rglob("*.part"))


@pytest.mark.parametrize("lost", ["model.yaml", MANIFEST, "model.safetensors"])
def test_a_broken_encoder_is_repaired_by_saving_it_again(
    models: Path, tmp_path: Path, tiny_text_encoder: TextEncoder, lost: str
) -> None:
    tag = store.save_encoder(tiny_text_encoder, store.TEXT_ENCODER, tmp_path / "scratch")
    (models / tag.replace(":", "/") / lost).unlink()
    assert store.save_encoder(tiny_text_encoder, store.TEXT_ENCODER, tmp_path / "scratch") == tag
    assert store.load_text_encoder(tiny_text_encoder.revision).revision == tiny_text_encoder.revision


def test_an_encoder_that_is_there_is_not_written_again(
    models: Path, tmp_path: Path, tiny_text_encoder: TextEncoder
) -> None:
    tag = store.save_encoder(tiny_text_encoder, store.TEXT_ENCODER, tmp_path / "scratch")
    manifest = models / tag.replace(":", "/") / MANIFEST
    before = manifest.stat().st_mtime_ns
    store.save_encoder(tiny_text_encoder, store.TEXT_ENCODER, tmp_path / "scratch")
    assert manifest.stat().st_mtime_ns == before


def test_a_version_is_registered_once(models: Path, tmp_path: Path) -> None:
    source = register(tmp_path, "v1")
    with pytest.raises(BundleError, match="v1: is in the store already; a version is never written twice"):
        store.save_bundle(source, "v1", {})
    assert store.versions(CLASSIFIER) == ["v1"]


def test_latest_is_the_version_made_last_not_the_last_by_name(models: Path, tmp_path: Path) -> None:
    for version in ("b", "c", "a"):
        register(tmp_path, version)
    assert store.versions(CLASSIFIER) == ["b", "c", "a"]
    assert store.find(store.LATEST) == models / CLASSIFIER / "a"


def test_a_reader_waits_for_a_writer_half_way(models: Path, tmp_path: Path) -> None:
    register(tmp_path, "v1")
    entry = models / CLASSIFIER / "v1"
    (entry / MANIFEST).rename(tmp_path / "later")
    writer = threading.Timer(0.3, lambda: shutil.move(tmp_path / "later", entry / MANIFEST))
    writer.start()
    assert store.load_bundle(f"{CLASSIFIER}:v1").metrics == {"macro_f1": 0.5}
    writer.join()


def test_what_stays_damaged_is_named_once(models: Path, tmp_path: Path) -> None:
    register(tmp_path, "v1")
    (models / CLASSIFIER / "v1" / MANIFEST).write_text('{"sha256": {')  # as a full disk leaves it
    with pytest.raises(BundleError, match=rf"^{CLASSIFIER}:v1: v1/manifest.json: found JSONDecodeError"):
        store.load_bundle(f"{CLASSIFIER}:v1")


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    facts = json.loads(file.read_text())
    change(facts)
    file.write_text(json.dumps(facts))


STRANGE = {
    "no taxonomy": lambda folder: edit(folder / "bundle.json", lambda facts: facts.pop("taxonomy")),
    "a new setting": lambda folder: edit(folder / "bundle.json", lambda facts: facts["fusion"].update(new=1)),
    "a list": lambda folder: (folder / "bundle.json").write_text("[]"),
    "no JSON": lambda folder: (folder / "card.json").write_text("{"),
    "no tensors": lambda folder: (folder / "head.safetensors").write_bytes(b"\xff" * 50),
}


@pytest.mark.parametrize("change", STRANGE.values(), ids=STRANGE.keys())
def test_whole_files_that_make_no_sense_are_named_in_one_line(
    models: Path, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    register(tmp_path, "v1")
    folder = models / CLASSIFIER / "v1"
    change(folder)
    write_manifest(folder)
    with pytest.raises(BundleError, match=f"^{CLASSIFIER}:v1: found .*, wanted files"):
        store.load_bundle(f"{CLASSIFIER}:v1")


@pytest.mark.parametrize("kind", ["text", "image"])
def test_an_encoder_of_another_version_is_named_in_one_line(
    models: Path,
    tmp_path: Path,
    tiny_text_encoder: TextEncoder,
    tiny_image_encoder: ImageEncoder,
    kind: str,
) -> None:
    encoder = tiny_text_encoder if kind == "text" else tiny_image_encoder
    name = store.TEXT_ENCODER if kind == "text" else store.IMAGE_ENCODER
    folder = models / store.save_encoder(encoder, name, tmp_path / "scratch").replace(":", "/")
    edit(folder / "encoder.json", lambda facts: facts.clear())
    write_manifest(folder)
    load = store.load_text_encoder if kind == "text" else store.load_image_encoder
    with pytest.raises(BundleError, match=f"^{name}:{encoder.revision}: found KeyError.*, wanted files that"):
        load(encoder.revision)


def test_a_text_encoder_that_transformers_cannot_read_is_named_in_one_line(
    models: Path, tmp_path: Path, tiny_text_encoder: TextEncoder
) -> None:
    tag = store.save_encoder(tiny_text_encoder, store.TEXT_ENCODER, tmp_path / "scratch")
    folder = models / tag.replace(":", "/")
    (folder / "tokenizer.json").write_text("{}")
    write_manifest(folder)
    with pytest.raises(BundleError, match=f"^{tag}: .*: found .*, wanted a text encoder that transformers"):
        store.load_text_encoder(tiny_text_encoder.revision)


def test_an_absent_tag_is_told_at_once_and_once(models: Path, tmp_path: Path) -> None:
    register(tmp_path, "v1")
    start = time.monotonic()
    with pytest.raises(BundleError) as caught:
        store.load_bundle(f"{CLASSIFIER}:v9")
    assert str(caught.value) == (f"{CLASSIFIER}:v9: not in the model store; under {CLASSIFIER} it holds v1")
    assert time.monotonic() - start < store._RETRY_PAUSE_S


def test_an_empty_store_says_what_to_do(models: Path) -> None:
    wanted = "holds no aisle-classifier; make one: python -m training run CATALOG"
    with pytest.raises(BundleError, match=wanted):
        store.load_bundle()


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from aisle import store

copy, copied = shutil.copy2, []
def dying(source, target, **options):  # BentoML copies into the store with it, file by file
    if "models" in str(target):
        copied.append(target)
        if len(copied) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    return copy(source, target, **options)

shutil.copy2 = dying
shutil.copytree.__defaults__ = (False, None, dying, False, False)
store.save_bundle(Path(sys.argv[1]), "v1", {})
"""


def test_what_a_killed_writer_left_is_replaced(models: Path, tmp_path: Path) -> None:
    small_bundle().save(tmp_path / "bundle")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path / "bundle")],
        cwd=ROOT,
        env={**os.environ, "BENTOML_HOME": str(models.parent), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list((models / CLASSIFIER / "v1").iterdir())) == 2
    assert store.versions(CLASSIFIER) == []
    store.save_bundle(tmp_path / "bundle", "v1", {})
    assert store.load_bundle().metrics == {"macro_f1": 0.5}


def test_of_writers_at_once_one_registers_and_the_others_are_told(models: Path, tmp_path: Path) -> None:
    small_bundle().save(tmp_path / "bundle")

    def register_once(_: int) -> str:
        try:
            return store.save_bundle(tmp_path / "bundle", "v1", {})
        except BundleError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        said = sorted(pool.map(register_once, range(3)))
    refusal = f"{CLASSIFIER}:v1: is in the store already; a version is never written twice"
    assert said == [f"{CLASSIFIER}:v1", refusal, refusal]
    assert store.load_bundle().metrics == {"macro_f1": 0.5}
