"""Encoding a catalogue: counts, order, resuming, and what is skipped."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from feature_fixtures import (
    TEXT_DIM,
    ColourImageEncoder,
    HashTextEncoder,
    text_vector,
    write_catalog,
)

from aisle.errors import FeatureStoreError, ProductError
from aisle.features import load_specs
from aisle.image import decode_image
from aisle.text import TextSettings, clean_text, text_hash
from training import shards
from training.catalog import read_catalog
from training.embeddings import BATCH, encode_images, encode_texts

ROOT = Path(__file__).parents[1]
VIEW = "text_embedding__aaaa0001"


def rows_of(features: Path, view: str = VIEW) -> dict[str, np.ndarray]:
    """Product id to vector, through the index, as training and publishing read it."""
    index = pq.read_table(features / view / "index.parquet").to_pandas()
    found = {}
    for row in index.itertuples():
        table = pq.read_table(features / view / f"shard-{row.shard:05d}.parquet")
        assert table["product_id"][row.row].as_py() == row.product_id
        found[row.product_id] = np.array(table["embedding"][row.row].as_py(), dtype=np.float32)
    return found


def test_every_text_comes_out_under_its_own_id(tmp_path: Path) -> None:
    catalog = read_catalog(write_catalog(tmp_path / "c", products=100))
    report = encode_texts(catalog, HashTextEncoder(), tmp_path / "f")
    assert (report.wanted, report.encoded, report.unchanged) == (100, 100, 0)
    found = rows_of(tmp_path / "f")
    for row in catalog.products.itertuples():
        text = clean_text(row.title, row.description, TextSettings())
        assert found[row.product_id].tobytes() == text_vector(text).tobytes()


def test_texts_of_a_batch_are_of_like_length(tmp_path: Path) -> None:
    catalog = read_catalog(write_catalog(tmp_path / "c", products=200))
    encoder = HashTextEncoder()
    encode_texts(catalog, encoder, tmp_path / "f")
    lengths = [len(text) for batch in encoder.calls for text in batch]
    assert lengths == sorted(lengths)
    assert len(encoder.calls) > 1


def test_a_second_run_encodes_only_what_changed(tmp_path: Path) -> None:
    folder = write_catalog(tmp_path / "c", products=50)
    encode_texts(read_catalog(folder), HashTextEncoder(), tmp_path / "f")
    lines = (folder / "products.csv").read_text().splitlines()
    lines[8] = lines[8].replace("train 7", "boat 7")
    (folder / "products.csv").write_text("\n".join(lines) + "\n")
    encoder = HashTextEncoder()
    report = encode_texts(read_catalog(folder), encoder, tmp_path / "f")
    assert (report.encoded, report.unchanged, encoder.calls) == (1, 49, [["boat 7"]])
    assert rows_of(tmp_path / "f")["p7"].tobytes() == text_vector("boat 7").tobytes()


def test_an_undecodable_picture_is_named_and_its_neighbours_are_encoded(tmp_path: Path) -> None:
    folder = write_catalog(tmp_path / "c", products=20)
    (folder / "images" / "7.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    encoder = ColourImageEncoder()
    report = encode_images(read_catalog(folder), encoder, tmp_path / "f")
    assert (report.wanted, report.encoded, list(report.unreadable)) == (10, 9, ["p7"])
    assert encoder.pictures == 9
    assert sorted(rows_of(tmp_path / "f", "image_embedding__bbbb0001")) == sorted(
        f"p{i}" for i in range(1, 20, 2) if i != 7
    )
    again = ColourImageEncoder()
    assert encode_images(read_catalog(folder), again, tmp_path / "f").unchanged == 9
    assert again.pictures == 0


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_pictures_keep_their_products_however_they_are_read(tmp_path: Path, device: str) -> None:
    """On what is no CPU a batch is read while the one before is encoded."""
    catalog = read_catalog(write_catalog(tmp_path / "c", products=5 * BATCH))
    encode_images(catalog, ColourImageEncoder(device), tmp_path / "f")
    rows = rows_of(tmp_path / "f", "image_embedding__bbbb0001")
    alone = ColourImageEncoder()
    for row in range(1, len(catalog.products), 2):
        pixels_HWC = decode_image(catalog.product(row).image or b"", alone.settings)
        assert rows[f"p{row}"].tolist() == alone.encode(pixels_HWC[None])[0].tolist()


def test_an_encoder_of_another_width_is_refused(tmp_path: Path) -> None:
    encoder = HashTextEncoder()
    encoder.dim = TEXT_DIM + 1
    encoder.encode = lambda texts: np.zeros((len(texts), TEXT_DIM), dtype=np.float32)  # type: ignore[method-assign]
    with pytest.raises(FeatureStoreError, match=r"gave \[10, 8\].*wanted finite \[10, 9\]"):
        encode_texts(read_catalog(write_catalog(tmp_path / "c", products=10)), encoder, tmp_path / "f")
    assert load_specs(tmp_path / "f") == []


def test_a_vector_that_is_not_finite_is_refused_by_its_product(tmp_path: Path) -> None:
    catalog, encoder = read_catalog(write_catalog(tmp_path / "c", products=3)), HashTextEncoder()
    lost = np.zeros((3, TEXT_DIM), dtype=np.float32)
    lost[1, 2] = np.nan
    encoder.encode = lambda texts: lost  # type: ignore[method-assign]
    with pytest.raises(FeatureStoreError, match="no finite vector of 1 products, among them 'p"):
        encode_texts(catalog, encoder, tmp_path / "f")


def test_braces_in_an_id_are_refused(tmp_path: Path) -> None:
    catalog = read_catalog(write_catalog(tmp_path / "c", products=3))
    catalog.products["product_id"] = ["p0", "p{1}", "p2"]
    with pytest.raises(ProductError, match="an id without { and }"):
        encode_texts(catalog, HashTextEncoder(), tmp_path / "f")


def test_a_changed_shard_is_refused(tmp_path: Path) -> None:
    catalog = read_catalog(write_catalog(tmp_path / "c", products=5))
    encode_texts(catalog, HashTextEncoder(), tmp_path / "f")
    shard = tmp_path / "f" / VIEW / "shard-00000.parquet"
    shard.write_bytes(shard.read_bytes() + b"x")
    with pytest.raises(FeatureStoreError, match="shard-00000: changed since it was written"):
        encode_texts(catalog, HashTextEncoder(), tmp_path / "f")


@pytest.mark.parametrize("deleted", [0, 1, 3])
def test_after_a_deleted_shard_every_product_has_its_own_vector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deleted: int
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", BATCH)
    catalog = read_catalog(write_catalog(tmp_path / "c", products=250))
    encode_texts(catalog, HashTextEncoder(), tmp_path / "f")
    before = rows_of(tmp_path / "f")
    folder = tmp_path / "f" / VIEW
    assert len(list(folder.glob("shard-*.parquet"))) == 4
    for suffix in ("parquet", "json"):
        (folder / f"shard-{deleted:05d}.{suffix}").unlink()
    report = encode_texts(catalog, HashTextEncoder(), tmp_path / "f")
    assert report.encoded in (64, 250 - 3 * 64)
    after = rows_of(tmp_path / "f")
    assert {i: v.tobytes() for i, v in after.items()} == {i: v.tobytes() for i, v in before.items()}
    assert sorted(p.stem for p in folder.glob("shard-*.json")) == [
        f"shard-{number:05d}" for number in range(5) if number != deleted
    ]


def test_a_shard_that_another_run_wrote_is_not_overwritten(tmp_path: Path) -> None:
    catalog = read_catalog(write_catalog(tmp_path / "c", products=10))
    encoder, overtaking = HashTextEncoder(), HashTextEncoder()
    encode = encoder.encode

    def overtaken(texts: Sequence[str]) -> np.ndarray:
        encode_texts(catalog, overtaking, tmp_path / "f")
        return encode(texts)

    encoder.encode = overtaken  # type: ignore[method-assign]
    with pytest.raises(FeatureStoreError, match="shard-00000: found, wanted a free number"):
        encode_texts(catalog, encoder, tmp_path / "f")
    assert len(rows_of(tmp_path / "f")) == 10


def test_a_shard_without_its_vectors_is_refused(tmp_path: Path) -> None:
    catalog = read_catalog(write_catalog(tmp_path / "c", products=5))
    encode_texts(catalog, HashTextEncoder(), tmp_path / "f")
    (tmp_path / "f" / VIEW / "shard-00000.parquet").unlink()
    with pytest.raises(FeatureStoreError, match="shard-00000: gone since it was written; delete"):
        encode_texts(catalog, HashTextEncoder(), tmp_path / "f")


KILLED = """
import os, signal, sys
from pathlib import Path
from feature_fixtures import HashTextEncoder
from training.catalog import read_catalog
from training import embeddings, shards

shards.SHARD_ROWS = embeddings.BATCH  # a shard a batch

class Killed(HashTextEncoder):
    def encode(self, texts):
        if len(self.calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(texts)

embeddings.encode_texts(read_catalog(Path(sys.argv[1])), Killed(), Path(sys.argv[2]))
"""


def test_a_killed_run_loses_at_most_a_shard(tmp_path: Path) -> None:
    folder = write_catalog(tmp_path / "c", products=400)
    features = tmp_path / "f"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(features)],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert load_specs(features) == []  # unfinished: nobody reads it
    kept = 3 * BATCH
    assert sum(json.loads(p.read_text())["rows"] for p in (features / VIEW).glob("shard-*.json")) == kept
    encoder = HashTextEncoder()
    report = encode_texts(read_catalog(folder), encoder, features)
    assert (report.unchanged, report.encoded) == (kept, 400 - kept)
    assert len(rows_of(features)) == 400
    assert not list(features.rglob("*.part"))


def test_a_product_without_text_has_no_row(tmp_path: Path) -> None:
    folder = write_catalog(tmp_path / "c", products=4)
    with (folder / "products.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["bare", "", "", "images/1.png", "0"])
    report = encode_texts(read_catalog(folder), HashTextEncoder(), tmp_path / "f")
    assert report.wanted == 4
    assert "bare" not in rows_of(tmp_path / "f")


def test_the_index_names_the_hash_of_the_cleaned_text(tmp_path: Path) -> None:
    encode_texts(read_catalog(write_catalog(tmp_path / "c", products=2)), HashTextEncoder(), tmp_path / "f")
    index = pq.read_table(tmp_path / "f" / VIEW / "index.parquet").to_pydict()
    assert dict(zip(index["product_id"], index["source_hash"], strict=True)) == {
        "p0": text_hash("train 0"),
        "p1": text_hash("train 1. wood"),
    }
