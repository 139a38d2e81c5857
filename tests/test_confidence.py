import io
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from aisle.calibration import expected_calibration_error
from aisle.wilson import wilson
from training.confidence import reliability, risk_coverage
from training.figures import draw_reliability, draw_risk_coverage, png


def test_bins_hold_what_falls_into_them() -> None:
    confidence = np.array([0.05, 0.55, 0.59, 1.0])
    found = reliability(confidence, np.array([False, True, False, True]), bins=10)
    assert [(one.start, one.products, one.accuracy) for one in found] == [
        (0.0, 1, 0.0),
        (0.5, 2, 0.5),
        (0.9, 1, 1.0),
    ]
    assert found[1].confidence == pytest.approx(0.57)


def test_bins_add_up_to_the_calibration_error() -> None:
    rng = np.random.default_rng(27)
    confidence = rng.random(500) ** 0.3
    correct = rng.random(500) < 0.8 * confidence
    ece = sum(
        one.products / 500 * abs(one.confidence - one.accuracy) for one in reliability(confidence, correct)
    )
    assert ece == pytest.approx(expected_calibration_error(confidence, correct), abs=1e-12)


def test_variants_of_one_product_tell_a_bin_less() -> None:
    """Twenty products, or two with ten variants each: as many are right, the interval is that of two."""
    confidence, correct = np.full(20, 0.7), np.arange(20) < 10
    (alone,) = reliability(confidence, correct)
    (together,) = reliability(confidence, correct, np.arange(20) // 10)
    assert alone.accuracy == together.accuracy == 0.5
    assert (alone.low, alone.high) == wilson(10, 20)
    assert (together.low, together.high) == wilson(1, 2)


def test_risk_of_the_surest_share_by_hand() -> None:
    curve = risk_coverage(np.array([0.9, 0.6, 0.8, 0.7]), np.array([True, False, False, True]))
    assert curve.coverage == (0.25, 0.5, 0.75, 1.0)
    assert curve.risk == pytest.approx((0, 1 / 2, 1 / 3, 1 / 2))
    assert curve.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert curve.aurc_best == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert [curve.risk_at(share) for share in (0.1, 0.25, 0.4, 1.0)] == [0, 0, 1 / 2, 1 / 2]


def test_equal_confidences_are_accepted_together() -> None:
    """A threshold takes all three of 0.9 or none: the curve has no point between."""
    curve = risk_coverage(np.array([0.9, 0.5, 0.9, 0.9]), np.array([True, False, False, True]))
    assert curve.coverage == (0.75, 1.0)
    assert curve.risk == (1 / 3, 1 / 2)
    assert curve.aurc == pytest.approx((3 * 1 / 3 + 1 / 2) / 4)


def test_a_confidence_that_tells_nothing_has_the_error_of_all_for_its_area() -> None:
    assert risk_coverage(np.full(10, 0.7), np.arange(10) < 8).aurc == pytest.approx(0.2)


def test_the_order_of_equal_confidences_changes_nothing() -> None:
    rng = np.random.default_rng(27)
    confidence = rng.integers(0, 12, 300) / 12
    correct = rng.random(300) < confidence
    curve, bins = risk_coverage(confidence, correct), reliability(confidence, correct)
    for _ in range(20):
        order = rng.permutation(300)
        assert risk_coverage(confidence[order], correct[order]) == curve
        for one, other in zip(reliability(confidence[order], correct[order]), bins, strict=True):
            assert asdict(one) == pytest.approx(asdict(other), abs=1e-12)  # sums in another order


def test_a_long_curve_is_shown_by_200_points() -> None:
    rng = np.random.default_rng(0)
    curve = risk_coverage(rng.random(5_000), rng.random(5_000) < 0.9)
    shown = curve.thinned()
    assert (len(curve.risk), len(shown.risk)) == (5_000, 200)
    assert (shown.coverage[0], shown.coverage[-1]) == (1 / 5_000, 1.0)
    assert (shown.risk[-1], shown.aurc) == (curve.risk[-1], curve.aurc)
    assert shown.thinned() == shown


def test_a_confidence_that_knows_its_errors_reaches_the_best_area() -> None:
    correct = np.arange(100) < 80
    assert (curve := risk_coverage(np.linspace(1, 0, 100), correct)).aurc == pytest.approx(curve.aurc_best)


def test_figures_are_pictures() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, size=500)
    correct = rng.random(500) < confidence
    bins, curve = reliability(confidence, correct), risk_coverage(confidence, correct)
    drawings = (
        draw_reliability(bins, ece=0.021),
        draw_risk_coverage({"fused": curve}, target_error=0.05, accepted=(0.4, 0.03)),
    )
    for drawing in drawings:
        with Image.open(io.BytesIO(png(drawing))) as picture:
            assert picture.width > 400
    above, risk = drawings[0].axes[0], drawings[1].axes[0]
    assert above.get_title() == "Reliability: ECE 0.021"
    assert "accepted: 40.0%, 3.0% wrong" in risk.get_legend_handles_labels()[1]


def test_bins_that_are_all_right_are_drawn() -> None:
    bins = [reliability(np.full(n, 0.99), np.full(n, True)) for n in range(1, 40)]
    for one in bins:
        assert draw_reliability(one, ece=0.01).axes[0].get_title() == "Reliability: ECE 0.010"
