"""Encoding on Ray's workers: what one process makes, to the byte, and whoever is killed meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from feature_fixtures import ColourImageEncoder, HashTextEncoder, write_catalog

from aisle.errors import EncoderError
from benchmarks.kill import shard_hashes
from training.catalog import Catalog, read_catalog
from training.embeddings import Batch, Engine, encode_images, encode_texts, image_vectors, text_vectors
from training.ray_engine import LOCAL, PORTION, RayEngine, ray_cluster
from training.shards import Encoded

pytestmark = [
    pytest.mark.long,  # a cluster of five processes, and workers that import torch
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),  # its own use of its options
]

ROOT = Path(__file__).parent.parent
WORKERS = 2
PRODUCTS = 1_500  # six portions


class DyingEngine:
    """Notes who it is; the first to be given its `dying_at`th batch is killed there, with SIGKILL."""

    def __init__(self, notes: Path, dying_at: int) -> None:
        self.notes = notes
        self.dying_at = dying_at
        self.seen = 0
        (notes / str(os.getpid())).touch()

    def __call__(self, batches: Sequence[Batch]) -> Iterator[Encoded]:
        for done in text_vectors(HashTextEncoder(), batches):
            self.seen += 1
            if self.seen == self.dying_at and self._is_first():
                os.kill(os.getpid(), signal.SIGKILL)
            yield done

    def _is_first(self) -> bool:
        try:
            (self.notes / "killed").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def load_pictures() -> Engine:
    return partial(image_vectors, ColourImageEncoder())


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    # Ray's workers find the modules of tests by the environment.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
        with ray_cluster(LOCAL, WORKERS):
            yield


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return read_catalog(write_catalog(tmp_path_factory.mktemp("catalogue"), products=PRODUCTS))


def test_a_killed_worker_loses_nothing(cluster: None, catalog: Catalog, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    load = partial(DyingEngine, notes, PORTION + PORTION // 2)  # in the middle of its second portion
    engine = RayEngine(load=load, dim=HashTextEncoder.dim, workers=WORKERS)
    report = encode_texts(catalog, HashTextEncoder(), tmp_path / "ray", engine=engine)
    encode_texts(catalog, HashTextEncoder(), tmp_path / "local")
    assert (report.wanted, report.encoded) == (PRODUCTS, PRODUCTS)
    assert shard_hashes(tmp_path / "ray") == shard_hashes(tmp_path / "local")
    assert (notes / "killed").exists()
    assert len(list(notes.iterdir())) == 1 + WORKERS + 1  # one of them was started anew


def test_a_picture_that_cannot_be_read_is_named(cluster: None, tmp_path: Path) -> None:
    catalog = read_catalog(write_catalog(tmp_path / "c", products=20))
    (tmp_path / "c" / "images" / "7.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    engine = RayEngine(load=load_pictures, dim=ColourImageEncoder.dim, workers=1)
    report = encode_images(catalog, ColourImageEncoder(), tmp_path / "ray", engine=engine)
    encode_images(catalog, ColourImageEncoder(), tmp_path / "local")
    assert (report.encoded, list(report.unreadable)) == (9, ["p7"])
    assert shard_hashes(tmp_path / "ray") == shard_hashes(tmp_path / "local")


def test_an_error_of_a_worker_is_told_as_one_of_ours(cluster: None, tmp_path: Path) -> None:
    catalog = read_catalog(write_catalog(tmp_path / "c", products=4))
    (tmp_path / "c" / "images" / "3.png").unlink()
    engine = RayEngine(load=load_pictures, dim=ColourImageEncoder.dim, workers=1)
    with pytest.raises(EncoderError, match=r"a worker of Ray: .*3\.png: No such file"):
        encode_images(catalog, ColourImageEncoder(), tmp_path / "f", engine=engine)


def test_nothing_is_reported_to_rays_makers(cluster: None) -> None:
    from ray._common.usage import usage_lib

    assert not usage_lib.usage_stats_enabled()


def test_the_command_makes_what_one_process_makes(own_tiny_home: Path) -> None:
    wanted = shard_hashes(own_tiny_home / "features")
    shutil.rmtree(own_tiny_home / "features")
    words = ["encode", str(own_tiny_home / "catalogue"), "--engine", "ray", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "training", *words],
        cwd=ROOT,
        env={**os.environ, "AISLE_HOME": str(own_tiny_home), "BENTOML_HOME": str(own_tiny_home / "bentoml")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert "120 encoded" in done.stderr
    assert len(wanted) == 4  # a shard and an index of either kind
    assert shard_hashes(own_tiny_home / "features") == wanted
