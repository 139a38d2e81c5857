import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from training.confidence import reliability, risk_coverage
from training.figures import draw_reliability, draw_risk_coverage, png, svg


def test_bins_hold_what_falls_into_them() -> None:
    confidence = np.array([0.05, 0.55, 0.59, 1.0])
    found = reliability(confidence, np.array([False, True, False, True]), bins=10)
    assert [(one.start, one.products, one.accuracy) for one in found] == [
        (0.0, 1, 0.0),
        (0.5, 2, 0.5),
        (0.9, 1, 1.0),
    ]
    assert found[1].confidence == pytest.approx(0.57)


def test_risk_of_the_surest_share_by_hand() -> None:
    curve = risk_coverage(np.array([0.9, 0.6, 0.8, 0.7]), np.array([True, False, False, True]))
    assert curve.coverage == (0.25, 0.5, 0.75, 1.0)
    assert curve.risk == pytest.approx((0, 1 / 2, 1 / 3, 1 / 2))
    assert curve.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert curve.aurc_best == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)


def test_equal_confidences_share_their_errors() -> None:
    """In whichever order equal ones stand: half of each first product is wrong."""
    for correct in ([True, False], [False, True]):
        assert risk_coverage(np.array([0.7, 0.7]), np.array(correct)).risk == (0.5, 0.5)


def test_a_long_curve_is_shown_by_200_points() -> None:
    rng = np.random.default_rng(0)
    curve = risk_coverage(rng.random(5_000), rng.random(5_000) < 0.9)
    assert (len(curve.risk), curve.coverage[0], curve.coverage[-1]) == (200, 1 / 5_000, 1.0)


def test_a_confidence_that_knows_its_errors_reaches_the_best_area() -> None:
    correct = np.arange(100) < 80
    assert (curve := risk_coverage(np.linspace(1, 0, 100), correct)).aurc == pytest.approx(curve.aurc_best)


def test_figures_are_pictures() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, size=500)
    correct = rng.random(500) < confidence
    bins, curve = reliability(confidence, correct), risk_coverage(confidence, correct)
    draws = (
        lambda: draw_reliability(bins, ece=0.021),
        lambda: draw_risk_coverage({"fused": curve}, target_error=0.05, accepted=(0.4, 0.03)),
    )
    for draw, words in zip(draws, ("ECE 0.021", "accepted: 40.0%, 3.0% wrong"), strict=True):
        image = svg(draw())
        ElementTree.fromstring(image)
        assert words in image
        assert svg(draw()) == image
        with Image.open(io.BytesIO(png(draw()))) as picture:
            assert picture.width > 400


def test_bins_that_are_all_right_are_drawn() -> None:
    bins = [reliability(np.full(n, 0.99), np.full(n, True)) for n in range(1, 40)]
    for one in bins:
        assert draw_reliability(one, ece=0.01).axes[0].get_title() == "Reliability: ECE 0.010"
