"""Answers, product by product: the worst of them, and what was taken for what."""

from __future__ import annotations

import numpy as np

from training.verdicts import NONE, Verdicts


def verdicts(confidence_N: np.ndarray, correct_N: np.ndarray) -> Verdicts:
    """Answers of category 0, right where told."""
    products = len(confidence_N)
    return Verdicts(
        label_N=np.where(correct_N, 0, 1),
        answer_N=np.zeros(products, dtype=int),
        confidence_N=np.asarray(confidence_N),
        accepted_N=np.asarray(confidence_N) > 0.9,
        text_answer_N=np.full(products, NONE),
        image_answer_N=np.full(products, NONE),
        group_N=np.arange(products),
    )


def test_the_worst_are_the_surest_that_are_wrong() -> None:
    found = verdicts(np.array([0.9, 0.6, 0.95, 0.7]), np.array([False, False, True, False]))
    assert found.worst(2).tolist() == [0, 3]


def test_the_confusion_matrix_counts_labels_in_rows() -> None:
    found = verdicts(np.array([0.9, 0.6, 0.95]), np.array([True, False, False]))
    assert found.confusion(3).tolist() == [[1, 0, 0], [2, 0, 0], [0, 0, 0]]
