"""What is written of every product that is scored: the columns of `training score`.

| column | holds |
|---|---|
| product_id | |
| category, confidence, accepted | the answer; category is null of a product without a finite vector |
| top_categories, top_probabilities | the K likeliest, best first |
| prediction_set | codes that hold the true one as often as the bundle promises; null without a promise |
| text_category, text_probability, image_category, image_probability | what each says alone, or null |
| model | the classifier's version |

Shapes: B products, C categories, K the likeliest categories.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from aisle.classifier import Classifier, Embedded
from aisle.decisions import Decisions

_CODES = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("product_id", pa.string()),
        ("category", _CODES),
        ("confidence", pa.float32()),
        ("accepted", pa.bool_()),
        ("top_categories", pa.list_(_CODES)),
        ("top_probabilities", pa.list_(pa.float32())),
        ("prediction_set", pa.list_(_CODES)),
        ("text_category", _CODES),
        ("text_probability", pa.float32()),
        ("image_category", _CODES),
        ("image_probability", pa.float32()),
        ("model", pa.dictionary(pa.int32(), pa.string())),
    ]
)


def score_table(product_ids: np.ndarray, classifier: Classifier, embedded: Embedded, top_k: int) -> pa.Table:
    """The rows of a batch, decided by `Classifier.judge`, which is what `decide` makes its answers of."""
    decisions = classifier.judge(embedded)
    codes = pa.array(classifier.taxonomy.codes, pa.string())
    top_k = min(top_k, len(codes))
    unknown_B = ~decisions.answerable
    top_B = np.full(len(unknown_B), top_k)
    columns = [
        pa.array(product_ids, pa.string()),
        _coded(decisions.order_BC[:, 0], codes, unknown_B),
        pa.array(decisions.probability_BC[:, 0], pa.float32(), mask=unknown_B),
        pa.array(decisions.accepted_B & ~unknown_B),
        _lists(_coded(decisions.order_BC[:, :top_k].ravel(), codes), top_B, unknown_B),
        _lists(pa.array(decisions.probability_BC[:, :top_k].ravel(), pa.float32()), top_B, unknown_B),
        _sets(decisions, codes, unknown_B),
    ]
    for modality in (0, 1):
        nothing_B = unknown_B | ~decisions.present[modality]
        columns.append(_coded(decisions.alone_2B[modality], codes, nothing_B))
        columns.append(pa.array(decisions.alone_probability_2B[modality], pa.float32(), mask=nothing_B))
    columns.append(_coded(np.zeros(len(unknown_B)), pa.array([classifier.version])))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _coded(index_B: np.ndarray, codes: pa.Array, null_B: np.ndarray | None = None) -> pa.DictionaryArray:
    indices = pa.array(index_B.astype(np.int32), pa.int32(), mask=null_B)
    return pa.DictionaryArray.from_arrays(indices, codes)


def _lists(values: pa.Array, length_B: np.ndarray, null_B: np.ndarray) -> pa.ListArray:
    """`values` cut into lists; one that is null holds nothing, though its values stand there."""
    offsets = np.concatenate([[0], np.cumsum(length_B)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(null_B))


def _sets(decisions: Decisions, codes: pa.Array, unknown_B: np.ndarray) -> pa.ListArray:
    null_B = unknown_B | (decisions.coverage_B == 0)
    inside_BC = decisions.inside_BC & ~null_B[:, None]
    return _lists(_coded(decisions.order_BC[inside_BC], codes), inside_BC.sum(axis=1), null_B)
