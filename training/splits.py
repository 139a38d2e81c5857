"""Who learns and who judges: splits by hash, the same on every machine and after every import.

A group (a product and its variants) falls into one split as a whole, and stays there when the
catalogue grows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.table import Table

from aisle.errors import SettingError
from training.catalog import Catalog

SPLITS = ("train", "validation", "calibration", "test")


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """Shares of all groups, in (0, 1); what they leave is the training split.

    `encoder_share` is the share of the training split that trains encoders, of texts or pictures.
    """

    validation: float = 0.10
    calibration: float = 0.15
    test: float = 0.15
    encoder_share: float = 0.5
    salt: str = "aisle"

    def __post_init__(self) -> None:
        for name in ("validation", "calibration", "test", "encoder_share"):
            share = getattr(self, name)
            if not 0 < share < 1:
                raise SettingError(f"split {name}: found {share}, wanted a share above 0 and below 1")
        held_out = self.validation + self.calibration + self.test
        if held_out >= 1:
            raise SettingError(
                f"splits: validation + calibration + test are {held_out:.2f}, wanted less than 1, "
                "so that something is left to train on"
            )


def assign_splits(groups: pd.Series, settings: SplitSettings) -> pd.Series:
    """One of SPLITS for every group, indexed like `groups`."""
    edges = np.cumsum([settings.test, settings.calibration, settings.validation])
    place = np.searchsorted(edges, places(groups, settings.salt), side="right")
    names = np.array(["test", "calibration", "validation", "train"], dtype=object)
    return pd.Series(names[place], index=groups.index, name="split", dtype=object)


def in_encoder_share(groups: pd.Series, settings: SplitSettings) -> np.ndarray:
    """Bool [N]: the part of the training split that trains encoders on the catalogue."""
    train = (assign_splits(groups, settings) == "train").to_numpy()
    share: np.ndarray = places(groups, f"{settings.salt}/encoder") < settings.encoder_share
    return train & share


def split_counts(catalog: Catalog, splits: pd.Series) -> pd.DataFrame:
    """Products by category (rows, sorted by code) and split (columns, in the order of SPLITS).

    Products without a category are counted in the row "".
    """
    counts = pd.crosstab(catalog.products.category, splits)
    return counts.reindex(columns=list(SPLITS), fill_value=0).sort_index()


def split_report(catalog: Catalog, splits: pd.Series | None = None) -> Table:
    """The counts as a table to print; without `splits` those of the default settings."""
    if splits is None:
        splits = assign_splits(catalog.products.group, SplitSettings())
    counts = split_counts(catalog, splits)
    table = Table(title="products by category and split")
    table.add_column("category")
    for name in (*SPLITS, "all"):
        table.add_column(name, justify="right")
    for code, row in counts.iterrows():
        table.add_row(_label(str(code), catalog.names), *(f"{n:,}" for n in row), f"{row.sum():,}")
    table.add_section()
    table.add_row("all", *(f"{n:,}" for n in counts.sum()), f"{len(catalog.products):,}")
    return table


def _label(code: str, names: dict[str, str]) -> str:
    if not code:
        return "(no category)"
    name = names.get(code, code)
    return code if name == code else f"{code} {name}"


def places(groups: pd.Series, salt: str) -> np.ndarray:
    """A place in [0, 1) for every group: the first 64 bits of sha256(salt, group)."""
    digests = (hashlib.sha256(f"{salt}\x00{group}".encode()).digest() for group in groups)
    bits = np.fromiter((int.from_bytes(digest[:8], "big") for digest in digests), np.uint64, len(groups))
    return (bits >> np.uint64(11)).astype(np.float64) / 2**53
