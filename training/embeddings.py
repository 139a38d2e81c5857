"""Texts and pictures to vectors on disk: sharded Parquet that survives a kill and grows by what changed.

A shard is finished when its manifest is there (written last); a run keeps finished shards and encodes
only products whose source is not in them. The index is made anew from all shards.

Shapes: N products, D embedding width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aisle.errors import FeatureStoreError, ProductError
from aisle.features import ViewSpec
from aisle.image import ImageSettings, decode_image, image_hash
from aisle.manifest import sha256_of_file
from aisle.product import check_product_id
from aisle.text import TextSettings, clean_text, text_hash
from training.catalog import Catalog
from training.progress import progress

SHARD_ROWS = 2_048  # what a kill loses at most
_BATCH = 64
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


class TextModel(Protocol):
    """What encoding needs of a text encoder."""

    revision: str
    name: str
    dim: int
    settings: TextSettings

    def encode(self, texts: Sequence[str]) -> np.ndarray: ...


class ImageModel(Protocol):
    """What encoding needs of an image encoder."""

    revision: str
    backbone: str
    dim: int
    settings: ImageSettings

    def encode(self, pixels_BHWC: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class EncodeReport:
    """What one run did. `wanted` products have a source; `unreadable` pictures could not be decoded."""

    view: str
    wanted: int
    unchanged: int
    encoded: int
    unreadable: Sequence[str]


def text_hashes(catalog: Catalog, settings: TextSettings) -> np.ndarray:
    """What each product's stored text vector must be of: hashes [N], "" where no text is left."""
    products = catalog.products
    texts = [
        clean_text(title, description, settings)
        for title, description in zip(products.title, products.description, strict=True)
    ]
    return np.array([text_hash(text) if text else "" for text in texts], dtype=object)


def image_hashes(catalog: Catalog) -> np.ndarray:
    """The same of pictures. Reads every file."""
    pictures = (catalog.product(row).image for row in range(len(catalog.products)))
    return np.array([image_hash(data) if data else "" for data in pictures], dtype=object)


def encode_texts(catalog: Catalog, encoder: TextModel, features: Path) -> EncodeReport:
    """Encode every product's text that the view has not yet; sorted by length, so that a batch pads
    little."""
    spec = ViewSpec(
        modality="text", revision=encoder.revision, encoder=encoder.name, dim=encoder.dim, pooling="mean"
    )
    texts: dict[str, str] = {}
    products = catalog.products
    for product_id, title, description in zip(
        products.product_id, products.title, products.description, strict=True
    ):
        text = clean_text(title, description, encoder.settings)
        if text:
            texts[product_id] = text
    shards = _Shards(spec, features)
    hashes = {product_id: text_hash(text) for product_id, text in texts.items()}
    todo = [product_id for product_id in texts if shards.latest.get(product_id) != hashes[product_id]]
    todo.sort(key=lambda product_id: len(texts[product_id]))

    def batches() -> Iterator[_Rows]:
        for start in range(0, len(todo), _BATCH):
            ids = todo[start : start + _BATCH]
            vectors = encoder.encode([texts[product_id] for product_id in ids])
            yield ids, [hashes[product_id] for product_id in ids], vectors, len(ids)

    shards.write_all(batches(), total=len(todo), label="encode texts")
    shards.close(hashes)
    return EncodeReport(
        view=spec.embedding_view,
        wanted=len(texts),
        unchanged=len(texts) - len(todo),
        encoded=len(todo),
        unreadable=(),
    )


def encode_images(catalog: Catalog, encoder: ImageModel, features: Path, *, threads: int = 2) -> EncodeReport:
    """Encode every product's picture that the view has not yet; files are read and decoded in threads
    while the encoder works on the batch before. A picture that cannot be decoded is left out and named."""
    spec = ViewSpec(
        modality="image",
        revision=encoder.revision,
        encoder=encoder.backbone,
        dim=encoder.dim,
        pooling="average",
    )
    shards = _Shards(spec, features)
    positions = np.flatnonzero((catalog.products.image != "").to_numpy())
    hashes: dict[str, str] = {}
    unreadable: list[str] = []
    unchanged = 0

    def load(position: int) -> tuple[str, str, np.ndarray | None] | str:
        """(id, hash, pixels), pixels None where the view has this picture; the id alone if unreadable."""
        product = catalog.product(position)
        assert product.product_id is not None
        assert product.image is not None
        digest = image_hash(product.image)
        if shards.latest.get(product.product_id) == digest:
            return product.product_id, digest, None
        try:
            return product.product_id, digest, decode_image(product.image, encoder.settings)
        except ProductError:
            return product.product_id

    def batches() -> Iterator[_Rows]:
        nonlocal unchanged
        with ThreadPoolExecutor(threads) as pool:
            for loaded in _ahead(pool, load, [int(p) for p in positions]):
                fresh: list[tuple[str, str, np.ndarray]] = []
                for one in loaded:
                    if isinstance(one, str):
                        unreadable.append(one)
                        continue
                    product_id, digest, pixels = one
                    hashes[product_id] = digest
                    if pixels is None:
                        unchanged += 1
                    else:
                        fresh.append((product_id, digest, pixels))
                vectors = encoder.encode(np.stack([pixels for _, _, pixels in fresh])) if fresh else None
                yield [one[0] for one in fresh], [one[1] for one in fresh], vectors, len(loaded)

    shards.write_all(batches(), total=len(positions), label="encode images")
    shards.close(hashes)
    if len(hashes) + len(unreadable) != len(positions):
        raise FeatureStoreError(
            f"{spec.embedding_view}: {len(positions):,} pictures went in, {len(hashes):,} came out and "
            f"{len(unreadable):,} could not be read"
        )
    return EncodeReport(
        view=spec.embedding_view,
        wanted=len(positions),
        unchanged=unchanged,
        encoded=len(hashes) - unchanged,
        unreadable=unreadable,
    )


def _ahead(
    pool: ThreadPoolExecutor, load: Callable[[int], object], positions: Sequence[int]
) -> Iterator[list]:
    """Batches of loaded positions, the next one under way while the caller works on this one."""
    chunks = [positions[start : start + _BATCH] for start in range(0, len(positions), _BATCH)]
    coming = [pool.submit(load, position) for position in chunks[0]] if chunks else []
    for following in [*chunks[1:], []]:
        waiting, coming = coming, [pool.submit(load, position) for position in following]
        yield [future.result() for future in waiting]


# Product ids, source hashes, vectors [B, D] (None where B is 0), and products looked at.
_Rows = tuple[list[str], list[str], np.ndarray | None, int]


class _Shards:
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

    def write_all(self, batches: Iterator[_Rows], *, total: int, label: str) -> None:
        """Gather batches into shards of SHARD_ROWS rows and write each as it fills."""
        ids: list[str] = []
        hashes: list[str] = []
        vectors: list[np.ndarray] = []
        with progress() as bar:
            task = bar.add_task(label, total=total)
            for batch_ids, batch_hashes, batch_vectors, looked_at in batches:
                if batch_vectors is not None:
                    self._check(batch_ids, batch_vectors)
                    ids += batch_ids
                    hashes += batch_hashes
                    vectors.append(batch_vectors)
                bar.advance(task, looked_at)
                if len(ids) >= SHARD_ROWS:
                    self._write(ids, hashes, np.concatenate(vectors))
                    ids, hashes, vectors = [], [], []
            if ids:
                self._write(ids, hashes, np.concatenate(vectors))

    def _check(self, ids: Sequence[str], vectors_BD: np.ndarray) -> None:
        for product_id in ids:
            check_product_id(product_id)
        if vectors_BD.shape != (len(ids), self.spec.dim) or not np.isfinite(vectors_BD).all():
            raise FeatureStoreError(
                f"{self.spec.embedding_view}: the encoder gave {list(vectors_BD.shape)}, finite "
                f"{np.isfinite(vectors_BD).all()}, wanted finite [{len(ids)}, {self.spec.dim}]"
            )

    def _write(self, ids: Sequence[str], hashes: Sequence[str], vectors_ND: np.ndarray) -> None:
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
