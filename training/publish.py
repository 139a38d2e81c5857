"""Fills the online store from the shards, and reads it back.

A rerun writes only what Redis does not hold yet under the same source hash. A service that found nothing
stored may write its own vector just behind ours, of a request's other text or with another last bit. What
the catalogue says wins: such rows are written again, and now that something is stored no service writes
them any more. So a row that stays wrong is lost, not late.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aisle.errors import FeatureStoreError
from aisle.features import JOIN_KEY, ViewSpec
from training.progress import progress
from training.shards import INDEX, shard_path

if TYPE_CHECKING:
    from feast import FeatureStore

WRITE_ROWS = 1_000
SAMPLE_ROWS = 500
_PAUSES_S = (0.1, 0.4, 1.5)  # before rows that a service overtook are written again


@dataclass(frozen=True, kw_only=True)
class PublishReport:
    """What one run did to one view."""

    view: str
    products: int
    written: int
    compared: int


def publish_view(store: FeatureStore, spec: ViewSpec, features: Path) -> PublishReport:
    """Write the newest vector of every product, then verify: all products are there under their hash,
    and of the rows written now a random sample is equal to the byte (`compared`; a row that was there
    may be a service's, which counts as equal by its hash). Raises FeatureStoreError naming what is not."""
    newest = newest_rows(spec, features).to_pandas()
    todo = newest[~_held(store, spec, newest)]
    sample = todo.sample(n=min(SAMPLE_ROWS, len(todo)), random_state=27)
    with progress() as bar:
        task = bar.add_task(f"publish {spec.modality}", total=len(todo))
        for frame in _frames(todo, spec, features):
            store.write_to_online_store(spec.embedding_view, df=frame)
            bar.advance(task, len(frame))
    for pause_s in _PAUSES_S:
        overtaken = newest[
            ~_held(store, spec, newest) | newest.product_id.isin(_changed(store, spec, sample, features))
        ]
        if overtaken.empty:
            break
        time.sleep(pause_s)
        for frame in _frames(overtaken, spec, features):
            store.write_to_online_store(spec.embedding_view, df=frame)
    else:
        _verify(store, spec, newest, sample, features)
    return PublishReport(
        view=spec.embedding_view, products=len(newest), written=len(todo), compared=len(sample)
    )


def newest_rows(spec: ViewSpec, features: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The index's last row of each product: product_id, shard, row, source_hash, event_timestamp, or those
    `columns` of them (product_id is one)."""
    index = pq.read_table(spec.folder(features) / INDEX, columns=columns)
    if pc.count_distinct(index["product_id"]).as_py() == len(index):
        return index  # as it mostly is; looking for the last of each takes ten times as long
    return index.filter(~index["product_id"].to_pandas().duplicated(keep="last").to_numpy())


def read_hashes(store: FeatureStore, spec: ViewSpec, product_ids: Sequence[str]) -> dict[str, str]:
    """Source hashes that Redis holds now, by product id."""
    held: dict[str, str] = {}
    for start in range(0, len(product_ids), WRITE_ROWS):
        chunk = list(product_ids[start : start + WRITE_ROWS])
        rows = _online_values(store, f"{spec.embedding_view}:source_hash", chunk)
        # A missing product comes back PRESENT with an empty value: only WhichOneof tells.
        held |= {
            product_id: value.string_val
            for product_id, value in zip(chunk, rows, strict=True)
            if value.WhichOneof("val") == "string_val"
        }
    return held


def _online_values(store: FeatureStore, feature: str, product_ids: list[str]) -> list:
    response = store.get_online_features(
        features=[feature], entity_rows=[{JOIN_KEY: product_id} for product_id in product_ids]
    ).proto
    names = list(response.metadata.feature_names.val)
    values: list = list(response.results[names.index(feature.partition(":")[2])].values)
    return values


def _frames(rows: pd.DataFrame, spec: ViewSpec, features: Path) -> Iterator[pd.DataFrame]:
    """Frames of WRITE_ROWS rows as write_to_online_store takes them, read shard by shard."""
    for shard, chosen in rows.groupby("shard"):
        table = pq.read_table(shard_path(spec.folder(features), int(str(shard))))
        for start in range(0, len(chosen), WRITE_ROWS):
            part = chosen.row.to_numpy()[start : start + WRITE_ROWS]
            # One chunk: Feast writes only the first batch of a chunked table.
            frame = table.take(part).combine_chunks().to_pandas()
            # Feast drops rows that are not newer than what it holds, and these are what holds now.
            frame["event_timestamp"] = pd.Timestamp.now(tz="UTC")
            yield frame


def _held(store: FeatureStore, spec: ViewSpec, rows: pd.DataFrame) -> np.ndarray:
    """Which rows the online store holds under their hash; bool [N]."""
    held = read_hashes(store, spec, rows.product_id.tolist())
    pairs = zip(rows.product_id, rows.source_hash, strict=True)
    return np.array([held.get(product_id) == digest for product_id, digest in pairs], dtype=bool)


def _changed(store: FeatureStore, spec: ViewSpec, rows: pd.DataFrame, features: Path) -> list[str]:
    """Ids of the rows whose vector reads back as other bytes than were written."""
    changed = []
    for frame in _frames(rows, spec, features):
        ids = frame.product_id.tolist()
        values = _online_values(store, f"{spec.embedding_view}:embedding", ids)
        for product_id, value, wanted in zip(ids, values, frame.embedding, strict=True):
            found = np.array(value.float_list_val.val, dtype=np.float32)
            if found.tobytes() != np.asarray(wanted, dtype=np.float32).tobytes():
                changed.append(product_id)
    return changed


def _verify(
    store: FeatureStore, spec: ViewSpec, newest: pd.DataFrame, sample: pd.DataFrame, features: Path
) -> None:
    lost = newest.product_id[~_held(store, spec, newest)].tolist()
    if lost:
        raise FeatureStoreError(
            f"{spec.embedding_view}: {len(newest):,} products were written, {len(lost):,} are not in the "
            f"online store, among them {lost[:3]}"
        )
    changed = _changed(store, spec, sample, features)
    if changed:
        raise FeatureStoreError(
            f"{spec.embedding_view}: the vector of product {changed[0]!r} was read back changed, one of "
            f"{len(changed):,} among the {len(sample):,} compared"
        )
