"""An interval that holds the true share as often as it says."""

from __future__ import annotations

import numpy as np
import pytest

from aisle.wilson import wilson


def test_bounds_are_those_of_the_book() -> None:
    """81 of 263, Newcombe (1998), table I, method 3."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20)[0] == 0
    assert wilson(20, 20)[1] == pytest.approx(1)


def test_the_interval_covers_the_truth_in_95_of_100() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1_000):
        low, high = wilson(int((rng.random(50) < 0.9).sum()), 50)
        covered += low <= 0.9 <= high
    assert covered >= 950 - 2 * np.sqrt(1_000 * 0.05 * 0.95)


@pytest.mark.parametrize(
    ("correct", "of", "wanted"),
    [(0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (50, 100, (0.4038, 0.5962))],
)
def test_bounds_of_few_and_of_many(correct: int, of: int, wanted: tuple[float, float]) -> None:
    assert wilson(correct, of) == pytest.approx(wanted, abs=1e-4)
