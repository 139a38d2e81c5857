"""Vectors of one view on disk: sharded Parquet that survives a kill and grows by what changed.

A shard is finished when its manifest is there (written last); a run keeps finished shards. The index is made
anew from all shards.

Shapes: N products, B of them a batch, D embedding width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aisle.errors import FeatureStoreError
from aisle.features import ViewSpec
from aisle.manifest import sha256_of_file
from aisle.product import check_product_id
from training.progress import progress

SHARD_ROWS = 2_048  # what a kill loses at most
INDEX = "index.parquet"

INDEX_SCHEMA = pa.schema(
    [
        ("product_id", pa.string()),
        ("shard", pa.int64()),
        ("row", pa.int64()),
        ("source_hash", pa.string()),
        ("event_timestamp", pa.timestamp("us", tz="UTC")),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What came of a batch: vectors float32 [B, D] with the product and the source hash of each. `unchanged`
    products are in the view already, under the same hash; `unreadable` ones have no vector."""

    product_ids: Sequence[str]
    hashes: Sequence[str]
    vectors_BD: np.ndarray
    unchanged: Sequence[str] = ()
    unreadable: Sequence[str] = ()

    @property
    def looked_at(self) -> int:
        return len(self.product_ids) + len(self.unchanged) + len(self.unreadable)


class Shards:
    """The shards of one view: what they hold already, and new ones."""

    def __init__(self, spec: ViewSpec, features: Path) -> None:
        self.spec = spec
        self.folder = spec.folder(features)
        self.features = features
        self.folder.mkdir(parents=True, exist_ok=True)
        finished = self._finished()
        self._index = [_read_shard_index(self.folder, number) for number in finished]
        # A number is never given twice, not even that of a deleted shard: until `close`, the old index
        # still sends its readers there.
        self._next = max([*finished, *_numbers_in_index(self.folder)], default=-1) + 1
        self.latest: dict[str, str] = {}  # product id -> source hash of its newest row
        for table in self._index:
            self.latest.update(
                zip(table["product_id"].to_pylist(), table["source_hash"].to_pylist(), strict=True)
            )

    def _finished(self) -> list[int]:
        numbers = sorted(int(path.stem.split("-")[1]) for path in self.folder.glob("shard-*.json"))
        for number in numbers:
            path = shard_path(self.folder, number)
            facts = json.loads(path.with_suffix(".json").read_text())
            if not path.is_file() or sha256_of_file(path) != facts["sha256"]:
                raise FeatureStoreError(
                    f"{self.folder.name}/{path.stem}: {'changed' if path.is_file() else 'gone'} since it was "
                    "written; delete its two files and encode again"
                )
        return numbers

    def write_all(self, batches: Iterator[Encoded], *, total: int, label: str) -> None:
        """Gather batches into shards of SHARD_ROWS rows and write each as it fills."""
        ids: list[str] = []
        hashes: list[str] = []
        vectors: list[np.ndarray] = []
        with progress() as bar:
            task = bar.add_task(label, total=total)
            for batch in batches:
                self._check(batch.product_ids, batch.vectors_BD)
                ids += batch.product_ids
                hashes += batch.hashes
                vectors.append(batch.vectors_BD)
                bar.advance(task, batch.looked_at)
                if len(ids) >= SHARD_ROWS:
                    self.write(ids, hashes, np.concatenate(vectors))
                    ids, hashes, vectors = [], [], []
            if ids:
                self.write(ids, hashes, np.concatenate(vectors))

    def _check(self, ids: Sequence[str], vectors_BD: np.ndarray) -> None:
        for product_id in ids:
            check_product_id(product_id)
        wanted = f"wanted finite [{len(ids)}, {self.spec.dim}]"
        if vectors_BD.shape != (len(ids), self.spec.dim):
            raise FeatureStoreError(
                f"{self.spec.embedding_view}: the encoder gave {list(vectors_BD.shape)}, {wanted}"
            )
        lost = np.flatnonzero(~np.isfinite(vectors_BD).all(axis=1))
        if len(lost):
            raise FeatureStoreError(
                f"{self.spec.embedding_view}: the encoder gave no finite vector of {len(lost)} products, "
                f"among them {ids[lost[0]]!r}, {wanted}"
            )

    def write(self, ids: Sequence[str], hashes: Sequence[str], vectors_ND: np.ndarray) -> None:
        """One shard more. Raises FeatureStoreError where another run took its number."""
        number, self._next = self._next, self._next + 1
        path = shard_path(self.folder, number)
        if path.with_suffix(".json").exists():
            raise FeatureStoreError(
                f"{self.folder.name}/{path.stem}: found, wanted a free number; is another run encoding too?"
            )
        now = pa.array([datetime.now(UTC)] * len(ids), pa.timestamp("us", tz="UTC"))
        flat = pa.array(np.ascontiguousarray(vectors_ND, dtype=np.float32).ravel())
        offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * self.spec.dim)
        table = pa.table(
            {
                "product_id": pa.array(ids, pa.string()),
                "source_hash": pa.array(hashes, pa.string()),
                "embedding": pa.ListArray.from_arrays(offsets, flat),
                "event_timestamp": now,
            }
        )
        part = path.with_suffix(".part")
        # Float bytes do not compress; dictionary pages would only slow the gather.
        pq.write_table(table, part, compression="none", use_dictionary=False)
        part.replace(path)
        facts = {"rows": len(ids), "sha256": sha256_of_file(path)}
        part.write_text(json.dumps(facts))
        part.replace(path.with_suffix(".json"))
        self._index.append(_read_shard_index(self.folder, number))
        self.latest.update(zip(ids, hashes, strict=True))

    def close(self, wanted: dict[str, str]) -> None:
        """Write index and view; fail unless every wanted product is there under its hash."""
        missing = [
            product_id for product_id, digest in wanted.items() if self.latest.get(product_id) != digest
        ]
        if missing:
            raise FeatureStoreError(
                f"{self.spec.embedding_view}: {len(wanted):,} products went in, {len(missing):,} did not "
                f"come out, among them {missing[:3]}"
            )
        index = pa.concat_tables(self._index) if self._index else INDEX_SCHEMA.empty_table()
        part = self.folder / "index.part"
        pq.write_table(index, part)
        part.replace(self.folder / INDEX)
        self.spec.write(self.features)


def shard_path(folder: Path, number: int) -> Path:
    """The Parquet file of shard `number`."""
    return folder / f"shard-{number:05d}.parquet"


def _numbers_in_index(folder: Path) -> list[int]:
    if not (folder / INDEX).is_file():
        return []
    numbers: list[int] = pq.read_table(folder / INDEX, columns=["shard"])["shard"].unique().to_pylist()
    return numbers


def _read_shard_index(folder: Path, number: int) -> pa.Table:
    columns = ["product_id", "source_hash", "event_timestamp"]
    table = pq.read_table(shard_path(folder, number), columns=columns)
    rows = len(table)
    table = table.append_column("shard", pa.array(np.full(rows, number, dtype=np.int64)))
    table = table.append_column("row", pa.array(np.arange(rows, dtype=np.int64)))
    return table.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA)
