"""Near-duplicates of a catalogue: who they are, and what they do to it.

Two listings of one thing in two splits let a model be examined on what it learned by heart; two with other
categories are a wrong label, or a taxonomy that cannot be told apart. Both go into a table to review.

Shapes: N products.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from aisle.errors import ProductError
from aisle.text import TextSettings, clean_text
from training.catalog import Catalog
from training.fingerprints import picture_hash
from training.near_duplicates import picture_clusters, text_clusters
from training.progress import progress
from training.review_table import write_review

_AT_ONCE = 256
HEADER = (
    "kind",
    "cluster",
    "across_splits",
    "across_categories",
    "product_id",
    "group",
    "split",
    "category",
    "title",
    "image",
)


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """`members` has one row a product of a cluster of two or more products that are not known variants of
    one another: HEADER's columns. `compared` products had such a part at all."""

    members: pd.DataFrame
    compared: dict[str, int]

    def clusters(self, kind: str, flag: str = "") -> int:
        """How many clusters of a kind there are, or of those that are `across_splits` or so."""
        chosen = self.members[self.members.kind == kind]
        return int((chosen[chosen[flag]] if flag else chosen).cluster.nunique())

    def write(self, path: Path) -> int:
        return write_review(path, HEADER, self.members[list(HEADER)].itertuples(index=False, name=None))


def find_duplicates(catalog: Catalog, split_N: np.ndarray, *, threads: int = 2) -> Duplicates:
    """Clusters of near texts (title and description, cleaned) and of near pictures. `split_N` is the split of
    each product of the catalogue."""
    texts = [
        clean_text(title, description, TextSettings())
        for title, description in zip(catalog.products.title, catalog.products.description, strict=True)
    ]
    with_text = np.flatnonzero([bool(text) for text in texts])
    with_picture, hash_N = _hashes(catalog, threads)
    found = {
        "text": (with_text, text_clusters([texts[i] for i in with_text])),
        "picture": (with_picture, picture_clusters(hash_N)),
    }
    products = catalog.products.assign(split=split_N)
    tables = [_members(products, kind, rows, cluster_N) for kind, (rows, cluster_N) in found.items()]
    return Duplicates(
        members=pd.concat(tables, ignore_index=True),
        compared={kind: len(rows) for kind, (rows, _) in found.items()},
    )


def _members(products: pd.DataFrame, kind: str, rows: np.ndarray, cluster_N: np.ndarray) -> pd.DataFrame:
    table = products.iloc[rows].assign(kind=kind, cluster=cluster_N)
    by_cluster = table.groupby("cluster")
    # Known variants are alike on purpose, and no split parts them.
    table = table[by_cluster["group"].transform("nunique") > 1]
    by_cluster = table.groupby("cluster")
    known = table.category.where(table.category != "")
    table = table.assign(
        across_splits=by_cluster["split"].transform("nunique") > 1,
        across_categories=known.groupby(table.cluster).transform("nunique") > 1,
    )
    order = ["across_splits", "across_categories", "cluster", "product_id"]
    return table.sort_values(order, ascending=[False, False, True, True])


def _hashes(catalog: Catalog, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows whose picture can be read and shows something, their hashes as uint64)."""
    positions = np.flatnonzero((catalog.products.image != "").to_numpy())
    hashes: list[int | None] = []

    def load(position: int) -> int | None:
        image = catalog.product(int(position)).image
        try:
            return picture_hash(image) if image else None
        except ProductError:
            return None

    with progress() as bar, ThreadPoolExecutor(threads) as pool:
        task = bar.add_task("look at pictures", total=len(positions))
        for start in range(0, len(positions), _AT_ONCE):
            hashes += pool.map(load, positions[start : start + _AT_ONCE])
            bar.update(task, completed=len(hashes))
    shown = np.array([one is not None for one in hashes], dtype=bool)
    return positions[shown], np.array([one for one in hashes if one is not None], dtype=np.uint64)
