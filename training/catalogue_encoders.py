"""Encoders that learn from the catalogue: on which of its products, and when it is enough.

They learn from a share of the training products that is theirs alone (DECISIONS.md), the same for texts and
pictures: a head that may not see either of a product has its other half with both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from aisle.image import ImageEncoder
from aisle.taxonomy import Taxonomy
from aisle.text import TextEncoder, clean_text
from training.catalog import Catalog
from training.image_encoder import ImageTraining, Pictures, train_image_encoder
from training.processes import Processes
from training.splits import SplitSettings, assign_splits, in_encoder_share
from training.text_tuning import TextTraining, tune_text_encoder
from training.texts import Texts
from training.tuning_state import History, Told

MIN_EXAMPLES = 20  # a category with fewer teaches nothing, and class weights would make it loud


def image_encoder_of(
    catalog: Catalog,
    taxonomy: Taxonomy,
    training: ImageTraining,
    work: Path,
    processes: Processes,
    *,
    save_every_s: float = 120.0,
    told: Told | None = None,
) -> tuple[ImageEncoder, History]:
    """An encoder trained on the pictures of its own share, stopped by those of the validation split; and the
    course of that, of which `told` hears as in `tune`."""
    own, validation = (
        _pictures(rows, catalog, taxonomy, training)
        for rows in _parts(catalog, taxonomy, (catalog.products.image != "").to_numpy())
    )
    return train_image_encoder(
        own,
        validation,
        training,
        classes=len(taxonomy),
        work=work,
        processes=processes,
        save_every_s=save_every_s,
        told=told,
    )


def text_encoder_of(
    catalog: Catalog,
    taxonomy: Taxonomy,
    start: TextEncoder,
    training: TextTraining,
    work: Path,
    processes: Processes,
    *,
    save_every_s: float = 120.0,
    told: Told | None = None,
) -> tuple[TextEncoder, History]:
    """`start`, tuned on the texts of its own share, stopped by those of the validation split; and the course
    of that, of which `told` hears as in `tune`."""
    products = catalog.products
    cleaned = [
        clean_text(str(title), str(description), start.settings)
        for title, description in zip(products.title, products.description, strict=True)
    ]
    text_N = pd.Series(cleaned, index=products.index)
    own, validation = (
        Texts(start, text_N[rows.index].tolist(), _labels(rows, taxonomy))
        for rows in _parts(catalog, taxonomy, (text_N != "").to_numpy())
    )
    return tune_text_encoder(
        start,
        own,
        validation,
        training,
        classes=len(taxonomy),
        work=work,
        processes=processes,
        save_every_s=save_every_s,
        told=told,
    )


def _parts(catalog: Catalog, taxonomy: Taxonomy, has_N: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(the encoders' own share, the validation split) of the products that have what is learned from."""
    products, settings = catalog.products, SplitSettings()
    usable_N = has_N & products.category.isin(taxonomy.codes).to_numpy()
    own_N = in_encoder_share(products.group, settings)
    validation_N = (assign_splits(products.group, settings) == "validation").to_numpy()
    return products[usable_N & own_N], products[usable_N & validation_N]


def _pictures(rows: pd.DataFrame, catalog: Catalog, taxonomy: Taxonomy, training: ImageTraining) -> Pictures:
    return Pictures(
        [catalog.image_root / name for name in rows.image], _labels(rows, taxonomy), training.image
    )


def _labels(rows: pd.DataFrame, taxonomy: Taxonomy) -> np.ndarray:
    return np.array([taxonomy.index(code) for code in rows.category], dtype=np.int64)
