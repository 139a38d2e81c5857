"""`training encode`, killed at moments by lot: a rerun ends with the same bytes.

Ten kills of the whole command on the demo's catalogue: `make kill`.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest
from feature_fixtures import write_catalog

from aisle.image import ImageEncoder
from aisle.text import TextEncoder
from benchmarks.kill import shard_hashes
from training import shards
from training.catalog import read_catalog
from training.embeddings import BATCH, encode_images, encode_texts

PRODUCTS = 256
KILLS = 3
LIMIT_S = 240.0


def encode(folder: Path) -> None:
    """A shard a batch, so that there is something to keep."""
    shards.SHARD_ROWS = BATCH
    catalog = read_catalog(folder / "catalogue")
    encode_texts(catalog, TextEncoder.load(folder / "text"), folder / "features")
    encode_images(catalog, ImageEncoder.load(folder / "image"), folder / "features")


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServerContext]:
    """Processes that begin with torch imported, which takes longer than their work."""
    context = multiprocessing.get_context("forkserver")
    # This module lies where a fork server does not look: it is told of what takes long alone.
    context.set_forkserver_preload(["training.embeddings", "aisle.image"])
    yield context
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


@pytest.mark.long
@pytest.mark.timeout(900)  # on a machine with a load of 18 it took 382 s
def test_a_killed_encode_is_run_again_to_the_same_bytes(
    forks: ForkServerContext,
    tmp_path: Path,
    tiny_text_encoder: TextEncoder,
    tiny_image_encoder: ImageEncoder,
) -> None:
    write_catalog(tmp_path / "catalogue", products=PRODUCTS)
    tiny_text_encoder.save(tmp_path / "text")
    tiny_image_encoder.save(tmp_path / "image")
    features = tmp_path / "features"

    def start() -> ForkServerProcess:
        process = forks.Process(target=encode, args=(tmp_path,))
        process.start()
        return process

    def run() -> dict[str, str]:
        process = start()
        process.join(LIMIT_S)
        assert process.exitcode == 0
        return shard_hashes(features)

    began = time.monotonic()
    wanted = run()
    seconds = time.monotonic() - began
    assert len(wanted) == PRODUCTS // BATCH + PRODUCTS // 2 // BATCH + 2  # shards of either kind, indexes
    shutil.rmtree(features)
    chance, killed = random.Random(27), 0
    while killed < KILLS:
        process = start()
        process.join(chance.uniform(0, seconds))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            killed += 1
        else:  # it had ended already
            assert process.exitcode == 0
            assert shard_hashes(features) == wanted
            shutil.rmtree(features)
    assert run() == wanted
