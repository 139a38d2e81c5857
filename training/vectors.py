"""Vectors for training, as they were at each label's time: a point-in-time join without vectors.

Feast joins labels to the slim index view (product id -> shard, row); the vectors are then gathered
from the shards, one shard in memory at a time. Shapes: N products, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from aisle.errors import FeatureStoreError
from aisle.features import JOIN_KEY, ViewSpec
from training.shards import shard_path

if TYPE_CHECKING:
    from feast import FeatureStore


def read_vectors(
    store: FeatureStore,
    spec: ViewSpec,
    features: Path,
    product_ids: Sequence[str],
    timestamps: Sequence[datetime] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(vectors float32 [N, D], hashes of what they were made from [N]) in the order of `product_ids`;
    zeros and None where not found.

    `timestamps` says as of when each label wants its vector; without them, as of now. An id may stand
    several times. Raises FeatureStoreError when the view is not in the registry.
    """
    when = pd.Series(list(timestamps) if timestamps is not None else [datetime.now(UTC)] * len(product_ids))
    labels = pd.DataFrame({JOIN_KEY: list(product_ids), "event_timestamp": when})
    # Feast keeps one of equal (id, time) labels, so each pair is asked for once.
    pair_N = labels.groupby([JOIN_KEY, "event_timestamp"], sort=False).ngroup().to_numpy()
    pairs = labels.drop_duplicates(ignore_index=True).assign(pair=lambda frame: np.arange(len(frame)))
    if not any(view.name == spec.index_view for view in store.list_batch_feature_views()):
        raise FeatureStoreError(
            f"{spec.index_view}: not in the feature registry; run `python -m training publish`"
        )
    joined = store.get_historical_features(
        entity_df=pairs,  # Feast takes pandas here, and gives rows back in another order
        features=[f"{spec.index_view}:{name}" for name in ("shard", "row", "source_hash")],
    ).to_df()
    if joined["pair"].duplicated().any():
        raise FeatureStoreError(f"{spec.index_view}: {len(pairs):,} labels came back as {len(joined):,}")
    # A label older than every row of its product does not come back at all, an unknown product as NaN.
    joined = joined.set_index("pair").reindex(pair_N)
    found = joined["shard"].notna().to_numpy()
    # Integers come back as floats where a row is missing.
    shards = joined["shard"].fillna(-1).to_numpy().astype(np.int64)
    rows = joined["row"].fillna(-1).to_numpy().astype(np.int64)
    vectors_ND = np.zeros((len(labels), spec.dim), dtype=np.float32)
    for shard in np.unique(shards[found]):
        places = np.flatnonzero(shards == shard)
        vectors_ND[places] = shard_vectors(spec, features, int(shard))[rows[places]]
    hash_N = joined["source_hash"].to_numpy(dtype=object, copy=True)
    hash_N[~found] = None
    return vectors_ND, hash_N


def shard_vectors(spec: ViewSpec, features: Path, shard: int) -> np.ndarray:
    """Float32 [rows, D] of one shard, without a copy by Python."""
    path = shard_path(spec.folder(features), shard)
    # A column alone gains nothing from threads and read-ahead; without them it takes three quarters.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        column = file.read(columns=["embedding"], use_threads=False)["embedding"].combine_chunks()
    values: np.ndarray = column.flatten().to_numpy()
    if len(values) != len(column) * spec.dim:
        raise FeatureStoreError(
            f"{path.name} of {spec.embedding_view}: found {len(values)} numbers in {len(column)} rows, "
            f"wanted {spec.dim} a row"
        )
    return values.reshape(-1, spec.dim)
