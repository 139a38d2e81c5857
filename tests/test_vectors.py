"""Vectors for training: the ones of each label's time, in the order asked for, without much memory."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from feature_fixtures import TEXT_DIM, FeatureShop, HashTextEncoder, text_vector, write_catalog

from aisle.errors import FeatureStoreError
from aisle.features import ViewSpec
from training.catalog import read_catalog
from training.embeddings import encode_texts
from training.vectors import read_vectors

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> FeatureShop:
    return FeatureShop(tmp_path_factory.mktemp("shop"), products=60)


def test_vectors_come_in_the_order_of_the_ids(shop: FeatureShop) -> None:
    vectors_ND, hash_N = read_vectors(shop.store, shop.text, shop.features, ["p14", "nobody", "p0", "p14"])
    assert [digest is not None for digest in hash_N] == [True, False, True, True]
    assert vectors_ND.dtype == np.float32
    for row, text in ((0, "train 14"), (2, "train 0"), (3, "train 14")):
        assert vectors_ND[row].tobytes() == text_vector(text).tobytes()
    assert vectors_ND[1].tolist() == [0.0] * TEXT_DIM


def test_products_without_a_picture_are_not_found(shop: FeatureShop) -> None:
    _, hash_N = read_vectors(shop.store, shop.image, shop.features, [f"p{i}" for i in range(6)])
    assert [digest is not None for digest in hash_N] == [False, True, False, True, False, True]


def test_a_label_gets_the_vector_of_its_own_time(shop: FeatureShop) -> None:
    before = datetime.now(UTC)
    renamed = read_catalog(write_catalog(shop.environment.home / "renamed", products=60, title="boat"))
    encode_texts(renamed, HashTextEncoder(), shop.features)
    times = [before, datetime.now(UTC), before - timedelta(days=9)]
    vectors_ND, hash_N = read_vectors(shop.store, shop.text, shop.features, ["p7"] * 3, times)
    assert [digest is not None for digest in hash_N] == [True, True, False]
    assert vectors_ND[0].tobytes() == text_vector("train 7").tobytes()
    assert vectors_ND[1].tobytes() == text_vector("boat 7").tobytes()


def test_a_view_that_was_not_applied_is_named(shop: FeatureShop) -> None:
    other = ViewSpec(modality="text", revision="cccc0001", encoder="other", dim=TEXT_DIM)
    with pytest.raises(FeatureStoreError, match="text_index__cccc0001: not in the feature registry"):
        read_vectors(shop.store, other, shop.features, ["p1"])


MANY = """
import json, sys, time
from pathlib import Path
import numpy as np
from aisle.features import ViewSpec
from benchmarks.memory import peak_memory_bytes
from training.feature_store import apply_definitions, open_feature_store
from training.settings import Settings
from training.shards import SHARD_ROWS, Shards
from training.vectors import read_vectors

N, D = 100_000, 384
environment = Settings(home=Path(sys.argv[1]), redis_url="redis://127.0.0.1:1")
spec = ViewSpec(modality="text", revision="aaaa0001", encoder="random", dim=D)
ids = [f"p{i}" for i in range(N)]
vectors_ND = np.random.default_rng(27).random((N, D), dtype=np.float32)
shards = Shards(spec, environment.features)
for start in range(0, N, SHARD_ROWS):
    part = slice(start, start + SHARD_ROWS)
    shards.write(ids[part], ["0" * 16] * len(ids[part]), vectors_ND[part])
shards.close({})
order = np.random.default_rng(28).permutation(N)
store = open_feature_store(environment)
apply_definitions(store)
started = time.perf_counter()
read_ND, hash_N = read_vectors(store, spec, environment.features, [ids[i] for i in order])
seconds = time.perf_counter() - started
print(json.dumps({
    "seconds": seconds,
    "peak_bytes": peak_memory_bytes(),
    "found": sum(digest is not None for digest in hash_N),
    "equal": bool((read_ND == vectors_ND[order]).all()),
}))
"""


def test_100_000_products_take_under_20_s_and_2_gb(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MANY, str(tmp_path)],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["found"], figures["equal"]) == (100_000, True)
    assert figures["seconds"] < 20
    assert figures["peak_bytes"] < 2 * 10**9
