"""What is made of answers: intervals that keep their promise, reliability, risk and coverage."""

from __future__ import annotations

import numpy as np
import pytest

from aisle.calibration import expected_calibration_error
from training.verdicts import NONE, Verdicts, reliability, risk_coverage, share_of, thinned


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


def test_an_interval_is_wilson_s() -> None:
    share = share_of(np.arange(100) < 90, np.arange(100))
    assert (share.hits, share.products) == (90, 100)
    assert share.low == pytest.approx(0.82563, abs=1e-5)  # Newcombe (1998)'s method 3
    assert share.high == pytest.approx(0.94477, abs=1e-5)


@pytest.mark.parametrize("true", [0.5, 0.9, 0.98])
def test_an_interval_holds_the_true_share_nineteen_times_of_twenty(true: float) -> None:
    rng = np.random.default_rng(27)
    groups = np.arange(150)
    found = [share_of(rng.random(150) < true, groups) for _ in range(4_000)]
    held = np.mean([share.low <= true <= share.high for share in found])
    assert 0.93 <= held <= 0.985


def test_an_interval_holds_where_variants_err_together() -> None:
    rng = np.random.default_rng(27)
    group_N = np.repeat(np.arange(60), rng.integers(1, 8, 60))
    held = naive = 0
    for _ in range(4_000):
        right_N = (rng.random(60) < 0.8)[group_N]
        share, alone = share_of(right_N, group_N), share_of(right_N, np.arange(len(group_N)))
        held += share.low <= 0.8 <= share.high
        naive += alone.low <= 0.8 <= alone.high
    assert held / 4_000 >= 0.94
    assert naive / 4_000 < 0.8  # what the groups are for


def test_no_product_tells_nothing() -> None:
    share = share_of(np.empty(0, dtype=bool), np.empty(0))
    assert (share.value, share.low, share.high) == (0.0, 0.0, 1.0)


def test_the_reliability_bins_add_up_to_the_calibration_error() -> None:
    rng = np.random.default_rng(27)
    confidence_N = rng.random(500) ** 0.3
    found = verdicts(confidence_N, rng.random(500) < 0.8 * confidence_N)
    bins = reliability(found)
    ece = sum(b.right.products / 500 * abs(b.confidence - b.right.value) for b in bins)
    assert ece == pytest.approx(expected_calibration_error(confidence_N, found.correct_N), abs=1e-12)


def test_risk_is_the_error_among_the_surest() -> None:
    curve = risk_coverage(verdicts(np.array([0.9, 0.5, 0.8, 0.7]), np.array([True, True, False, True])))
    assert curve.coverage_K.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk_K.tolist() == [0.0, 1 / 2, 1 / 3, 1 / 4]
    assert curve.risk_at(0.4) == 0.5
    assert curve.area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_equal_confidences_are_kept_together() -> None:
    curve = risk_coverage(verdicts(np.array([0.9, 0.9, 0.9]), np.array([True, False, True])))
    assert curve.coverage_K.tolist() == [1.0]
    assert curve.risk_K.tolist() == [1 / 3]


def test_the_worst_are_the_surest_that_are_wrong() -> None:
    found = verdicts(np.array([0.9, 0.6, 0.95, 0.7]), np.array([False, False, True, False]))
    assert found.worst(2).tolist() == [0, 3]


def test_the_confusion_matrix_counts_labels_in_rows() -> None:
    found = verdicts(np.array([0.9, 0.6, 0.95]), np.array([True, False, False]))
    assert found.confusion(3).tolist() == [[1, 0, 0], [2, 0, 0], [0, 0, 0]]


def test_thinned_points_keep_the_ends() -> None:
    kept = thinned(range(10_000), 300)
    assert (kept[0], kept[-1], len(kept)) == (0, 9_999, 300)
    assert thinned([5.0]).tolist() == [0]
