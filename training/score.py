"""The whole catalogue classified again from its stored vectors: Parquet to Parquet, in parts.

Vectors of one product lie in two sets of shards in two orders. The pictures' order is kept; text vectors are
first laid out in it, in one file on disk that is mapped into memory, so that memory holds the order of
products and the vectors of some batches. Each core works on a part of its own, from its vectors to its file.
A part that is there is finished (written elsewhere, then renamed): a rerun makes those that are not.

Shapes: N products, B of them a batch, D and E embedding widths, C categories, K the likeliest categories.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from aisle.classifier import Classifier, Embedded
from aisle.errors import CatalogError
from aisle.features import ViewSpec
from aisle.prediction import Source
from training.progress import progress
from training.publish import newest_rows
from training.score_table import score_table
from training.vectors import shard_vectors

PART_ROWS = 32_768
_DIRTY_BYTES = 128 * 2**20  # of the layout that may be in memory while it is filled
_BATCH = 512  # products that the head sees at once: of more its activations leave the processor's cache
IDENTITY = "_score.json"  # readers of Parquet folders pass over names with an underscore
LAYOUT = "_text.layout"


@dataclass(frozen=True, kw_only=True)
class ScoreReport:
    """What one run did. `kept` products were scored by an earlier run."""

    products: int
    kept: int
    parts: int


def score(
    classifier: Classifier,
    specs: tuple[ViewSpec, ViewSpec],
    features: Path,
    out: Path,
    *,
    wanted: set[str] | None = None,
    top_k: int = 3,
    part_rows: int = PART_ROWS,
) -> ScoreReport:
    """Classify every product of the two views (text, image), or those of `wanted`, into `out`: a folder of
    Parquet parts (columns in training/score_table.py) that any reader takes for one table.

    Resumes; a folder that holds another model's scores, or scores of other vectors, or that another process
    scores into, is refused. Raises CatalogError for that, and where there is nothing to score.
    """
    order = _order(specs, features, wanted)
    if order.empty:
        raise CatalogError(f"{features}: found no stored vector of a wanted product, wanted 1 or more")
    _claim(out, _identity(classifier, specs, order, top_k, part_rows))
    parts = range(0, len(order), part_rows)
    todo = [start for start in parts if not _part_path(out, start // part_rows).is_file()]
    kept = len(order) - sum(min(part_rows, len(order) - start) for start in todo)
    with progress() as bar, closing(_Layout(specs[0], len(order), out / LAYOUT)) as texts:
        task = bar.add_task("score", total=len(order), completed=kept)
        if todo:
            texts.fill(specs[0], features, order)

        def make(start: int) -> None:
            rows = order.iloc[start : start + part_rows]
            images = _ShardReader(specs[1], features)
            table = _score_part(rows, start, texts, images, classifier, top_k)
            _write(table, _part_path(out, start // part_rows))
            bar.advance(task, len(rows))

        _on_each_core(make, todo)
    (out / LAYOUT).unlink(missing_ok=True)
    return ScoreReport(products=len(order), kept=kept, parts=len(parts))


def _on_each_core(make: Callable[[int], None], numbers: Sequence[int]) -> None:
    """A core for each, instead of all for the sums of one: what is not sums then runs beside them."""
    cores = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            under_way = [pool.submit(make, number) for number in numbers]
            try:
                for made in as_completed(under_way):
                    made.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(cores)  # new threads begin with what any thread set last


def _score_part(
    rows: pd.DataFrame, first: int, texts: _Layout, images: _ShardReader, classifier: Classifier, top_k: int
) -> pa.Table:
    """The answers about `rows`, whose text vectors are laid out from place `first` on."""
    ids = rows.product_id.to_numpy()
    has_text = rows.text_shard.to_numpy() >= 0
    shard, row = rows.image_shard.to_numpy(), rows.image_row.to_numpy()
    names = np.array([Source.ABSENT, Source.STORED], dtype=object)
    tables = []
    for start in range(0, len(rows), _BATCH):
        batch = slice(start, min(start + _BATCH, len(rows)))
        embedded = Embedded(
            text_BD=texts.rows(first + batch.start, first + batch.stop),
            image_BE=images.rows(shard[batch], row[batch]),
            text_source=names[has_text[batch].astype(int)].tolist(),
            image_source=names[(shard[batch] >= 0).astype(int)].tolist(),
        )
        tables.append(score_table(ids[batch], classifier, embedded, top_k))
    texts.release()
    return pa.concat_tables(tables)


def _order(specs: tuple[ViewSpec, ViewSpec], features: Path, wanted: set[str] | None) -> pd.DataFrame:
    """One row a product, where its vectors lie: product_id, text_shard, text_row, image_shard, image_row (-1
    where it has none), in the order of the pictures' shards; products without a picture follow."""
    text, image = (
        newest_rows(spec, features, ["product_id", "shard", "row"]).rename_columns(
            ["product_id", f"{spec.modality}_shard", f"{spec.modality}_row"]
        )
        for spec in specs
    )
    # Arrow's join takes a third of the time of pandas', which makes an object of each id.
    joined = image.join(text, "product_id", join_type="full outer")
    if wanted is not None:
        joined = joined.filter(pc.is_in(joined["product_id"], pa.array(wanted, pa.string())))
    places = {name: pc.fill_null(joined[name], -1).to_numpy() for name in joined.column_names[1:]}
    order = pd.DataFrame({"product_id": joined["product_id"].to_pandas()} | places)
    shard_row = {name: order[f"{name}_shard"] * 2**32 + order[f"{name}_row"] for name in ("text", "image")}
    place = np.where(order.image_shard >= 0, shard_row["image"], 2**62 + shard_row["text"])
    return order.take(np.argsort(place, kind="stable")).reset_index(drop=True)


def _identity(
    classifier: Classifier, specs: tuple[ViewSpec, ViewSpec], order: pd.DataFrame, top_k: int, part_rows: int
) -> str:
    digest = hashlib.sha256(pd.util.hash_pandas_object(order, index=False).to_numpy().tobytes())
    facts = {
        "model": classifier.version,
        "views": [spec.embedding_view for spec in specs],
        "products": len(order),
        "vectors": digest.hexdigest(),
        "top_k": top_k,
        "part_rows": part_rows,
    }
    return json.dumps(facts, indent=1) + "\n"


def _claim(out: Path, identity: str) -> None:
    path = out / IDENTITY
    if path.is_file() and path.read_text() == identity:
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        found = "scores of another model or of other vectors" if path.is_file() else "other files"
        raise CatalogError(f"{out}: found {found}, wanted an empty or new folder; name another")
    out.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"_{path.name}.part")
    part.write_text(identity)
    part.replace(path)


def _part_path(out: Path, number: int) -> Path:
    return out / f"part-{number:05d}.parquet"


def _write(table: pa.Table, path: Path) -> None:
    part = path.with_name(f"_{path.name}.part")
    pq.write_table(table, part, compression="zstd")
    part.replace(path)


class _Layout:
    """Text vectors in the order of scoring, in a file that is mapped into memory. What was written or read
    is given back to the kernel at once, which keeps it or not: it is not this process's memory."""

    def __init__(self, spec: ViewSpec, products: int, path: Path) -> None:
        needed = products * spec.dim * 4
        # Not for appending: where a file system cannot allocate, glibc writes into each page instead.
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            try:  # the lock is the map's as well, and ends with it
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CatalogError(
                    f"{path.parent}: found another process that scores into it, wanted none; wait for it, or "
                    "name another folder"
                ) from error
            file.truncate(0)
            try:
                # Of a file with holes, writing to the map would end the process once the disk is full.
                os.posix_fallocate(file.fileno(), 0, needed)
            except OSError as error:
                file.truncate(0)
                free = shutil.disk_usage(path.parent).free
                raise CatalogError(
                    f"{path.parent}: found {free:,} bytes free, wanted {needed:,} for text vectors ({error})"
                ) from error
            self._pages = mmap.mmap(file.fileno(), needed)
        self._vectors_ND = np.frombuffer(self._pages, dtype=np.float32).reshape(products, spec.dim)

    def fill(self, spec: ViewSpec, features: Path, order: pd.DataFrame) -> None:
        """Each shard is read once; products without a text keep their zeros."""
        shard_N, row_N = order.text_shard.to_numpy(), order.text_row.to_numpy()
        by_shard = np.argsort(shard_N, kind="stable")
        edges = np.searchsorted(shard_N[by_shard], np.arange(shard_N.max() + 2))
        row_bytes = spec.dim * 4 + 2 * mmap.PAGESIZE  # at most: a vector's first and last page
        dirty_bytes = 0

        def lay_out(shard: int) -> None:
            nonlocal dirty_bytes
            places = by_shard[edges[shard] : edges[shard + 1]]
            self._vectors_ND[places] = shard_vectors(spec, features, shard)[row_N[places]]
            dirty_bytes += len(places) * row_bytes
            # Not after each shard: a page holds vectors of several, and would come again for each.
            if dirty_bytes >= _DIRTY_BYTES:
                dirty_bytes = 0
                self.release()

        _on_each_core(lay_out, np.flatnonzero(np.diff(edges)).tolist())
        self.release()

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Float32 [B, D]."""
        return self._vectors_ND[start:stop].copy()

    def close(self) -> None:
        del self._vectors_ND
        self._pages.close()

    def release(self) -> None:
        """Give what was read back to the kernel. Another thread may be reading: its pages come again."""
        self._pages.madvise(mmap.MADV_DONTNEED)


class _ShardReader:
    """Vectors of rows that lie shard by shard; a shard that a batch shares with the next is kept."""

    def __init__(self, spec: ViewSpec, features: Path) -> None:
        self.spec = spec
        self.features = features
        self._shard = -1
        self._vectors = np.zeros((0, spec.dim), dtype=np.float32)

    def rows(self, shard_B: np.ndarray, row_B: np.ndarray) -> np.ndarray:
        """Float32 [B, E] of these rows of these shards, zeros where there is no picture (-1)."""
        vectors_BE = np.zeros((len(shard_B), self.spec.dim), dtype=np.float32)
        for shard in np.unique(shard_B[shard_B >= 0]):
            if shard != self._shard:
                self._vectors = shard_vectors(self.spec, self.features, int(shard))
                self._shard = int(shard)
            places = np.flatnonzero(shard_B == shard)
            vectors_BE[places] = self._vectors[row_B[places]]
        return vectors_BE
