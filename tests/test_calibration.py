import numpy as np
import pytest
from scipy.special import softmax

from aisle.calibration import (
    NEVER,
    accept_threshold,
    expected_calibration_error,
    fit_temperature,
    pattern_index,
)


def overconfident_logits(rng: np.random.Generator, rows: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits `factor` times too large, and labels drawn from the probabilities they should give."""
    true_logits = rng.normal(size=(rows, 5)) * 2
    labels = np.array([rng.choice(5, p=p) for p in softmax(true_logits, axis=1)])
    return true_logits * factor, labels


def test_temperature_undoes_a_known_overconfidence() -> None:
    logits, labels = overconfident_logits(np.random.default_rng(0), 20_000, factor=3.0)
    assert fit_temperature(logits, labels) == pytest.approx(3.0, rel=0.05)


def test_temperature_without_products_changes_nothing() -> None:
    assert fit_temperature(np.zeros((0, 5)), np.zeros(0, dtype=int)) == 1.0


def test_presence_bits_name_their_pattern() -> None:
    present = np.array([[1, 1], [1, 0], [0, 1], [0, 0]])
    assert pattern_index(present).tolist() == [0, 1, 2, -1]


def test_accepted_error_keeps_its_target_in_95_of_100_calibrations() -> None:
    """The promise is a rate: P(true error among accepted > target) <= delta, over 1,000 draws."""
    rng = np.random.default_rng(7)
    broken = answered = 0
    for _ in range(1_000):
        confidence = rng.uniform(0.7, 1.0, size=1_000)
        wrong = rng.random(1_000) > confidence  # P(wrong | confidence c) = 1 - c
        threshold = accept_threshold(confidence, wrong, target_error=0.10, delta=0.05)
        if threshold < NEVER:
            answered += 1
            true_error = (1 - threshold) / 2  # the mean of 1 - c for c uniform in [threshold, 1]
            broken += true_error > 0.10
    assert answered > 900, "a rule that never accepts would keep any promise"
    assert broken <= 50 + 2 * np.sqrt(1_000 * 0.05 * 0.95)


def test_a_hopeless_classifier_accepts_nothing() -> None:
    rng = np.random.default_rng(1)
    threshold = accept_threshold(rng.random(500), rng.random(500) < 0.5, target_error=0.05, delta=0.05)
    assert threshold == NEVER


def test_too_few_products_prove_nothing() -> None:
    threshold = accept_threshold(np.full(50, 0.99), np.zeros(50, dtype=bool), target_error=0.05, delta=0.05)
    assert threshold == NEVER


def test_equal_confidences_are_accepted_together() -> None:
    confidence = np.full(500, 0.9)
    wrong = np.zeros(500, dtype=bool)
    assert accept_threshold(confidence, wrong, target_error=0.05, delta=0.05) == pytest.approx(0.9)


def test_ece_of_known_bins() -> None:
    confidence = np.array([0.95] * 10 + [0.55] * 10)
    correct = np.array([1] * 9 + [0] + [1] * 5 + [0] * 5)
    assert expected_calibration_error(confidence, correct) == pytest.approx(0.05)
