"""The likely wrong labels of a catalogue, as a table to review.

A corrected label goes back by the catalogue itself, or by POST /v1/labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aisle.taxonomy import Taxonomy
from training.catalog import Catalog
from training.label_noise import Suspicions
from training.labelled import Labelled
from training.review_table import write_review

HEADER = (
    "product_id",
    "label",
    "label_name",
    "suggested",
    "suggested_name",
    "label_probability",
    "suggested_probability",
    "split",
    "title",
    "image",
)


def write_suspicions(
    path: Path, catalog: Catalog, labelled: Labelled, taxonomy: Taxonomy, suspicions: Suspicions
) -> int:
    """One row a suspected label, the likeliest mistakes first; return how many."""
    label_N = labelled.vectors.label_N
    rows = suspicions.ranked(label_N)
    return write_review(
        path, HEADER, (_row(int(row), catalog, labelled, taxonomy, suspicions, label_N) for row in rows)
    )


def _row(
    row: int,
    catalog: Catalog,
    labelled: Labelled,
    taxonomy: Taxonomy,
    suspicions: Suspicions,
    label_N: np.ndarray,
) -> tuple[object, ...]:
    product = catalog.products.iloc[int(labelled.row_N[row])]
    label, suggested = taxonomy[int(label_N[row])], taxonomy[int(suspicions.suggested_N[row])]
    return (
        product.product_id,
        label.code,
        label.name,
        suggested.code,
        suggested.name,
        f"{suspicions.label_probability_N[row]:.4f}",
        f"{suspicions.suggested_probability_N[row]:.4f}",
        labelled.split_N[row],
        product.title,
        product.image,
    )
