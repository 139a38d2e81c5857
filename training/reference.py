"""The drift reference of a bundle: what held-out products look like, in the columns that the service
records of every product it answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from aisle.classifier import prepare_product
from aisle.columns import Columns, column_arrays, measure_columns
from aisle.errors import ProductError
from aisle.image import ImageSettings
from aisle.product import Product
from aisle.text import TextSettings
from training.catalog import Catalog
from training.progress import progress

REFERENCE_PRODUCTS = 20_000  # at most
_DECODERS = 2
_AT_ONCE = 256  # pictures are held for so many products


def reference_columns(
    row_N: np.ndarray,
    catalog: Catalog,
    answered: Sequence[Columns],
    text_settings: TextSettings,
    image_settings: ImageSettings,
) -> dict[str, np.ndarray]:
    """The cheap columns of products: row r of the catalogue, or of `answered` at -1 - r, as arrays [N]."""

    def measure(row: int) -> Columns:
        if row < 0:
            return answered[-1 - row]
        return columns_of(catalog.product(row), text_settings, image_settings)

    columns: list[Columns] = []
    with progress() as bar, ThreadPoolExecutor(_DECODERS) as pool:
        task = bar.add_task("describe products", total=len(row_N))
        for start in range(0, len(row_N), _AT_ONCE):
            columns += pool.map(measure, [int(row) for row in row_N[start : start + _AT_ONCE]])
            bar.update(task, completed=len(columns))
    return column_arrays(columns)


def columns_of(product: Product, text_settings: TextSettings, image_settings: ImageSettings) -> Columns:
    """As the service measures them; a picture that cannot be read counts as none, as in encoding."""
    try:
        return measure_columns(prepare_product(product, text_settings, image_settings))
    except ProductError:
        without = replace(product, image=None)
        return measure_columns(prepare_product(without, text_settings, image_settings))
