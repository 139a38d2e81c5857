import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binom

from aisle.calibration import (
    NEVER,
    PATTERNS,
    Answers,
    accept_threshold,
    calibrate,
    expected_calibration_error,
    fit_temperature,
    one_a_group,
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


def test_accepted_error_keeps_its_target_where_confidences_are_equal() -> None:
    """The same promise with seven confidences only: products of one are accepted or left together."""
    rng = np.random.default_rng(9)
    levels = np.linspace(0.7, 1.0, 7)
    broken = answered = 0
    for _ in range(1_000):
        confidence = rng.choice(levels, size=1_000)
        wrong = rng.random(1_000) > confidence
        threshold = accept_threshold(confidence, wrong, target_error=0.10, delta=0.05)
        if threshold < NEVER:
            answered += 1
            broken += (1 - levels[levels >= threshold]).mean() > 0.10 + 1e-9
    assert answered > 900
    assert broken <= 50 + 2 * np.sqrt(1_000 * 0.05 * 0.95)


def answers(logits_PNC: np.ndarray, label_N: np.ndarray, present: list[int] | None = None) -> Answers:
    bits = np.tile(present or [1, 1], (len(label_N), 1))
    return Answers(logits_PNC=logits_PNC, present_N2=bits, label_N=label_N)


NOTHING = answers(np.zeros((3, 0, 2)), np.zeros(0, dtype=int))  # to tune on: temperatures stay 1


@pytest.mark.parametrize("variants", [1, 2, 4])
def test_accepted_error_keeps_its_target_when_variants_err_together(variants: int) -> None:
    """The promise over 1,000 draws of 2,400 products, in groups that share a confidence and an outcome."""
    rng = np.random.default_rng(7)
    broken = answered = 0
    for _ in range(1_000):
        confidence = rng.uniform(0.7, 1.0, size=2_400 // variants).repeat(variants)
        wrong = (rng.random(2_400 // variants) > confidence[::variants]).repeat(variants)
        # Two categories: the logit of the first one gives `confidence`, and label 1 makes it an error.
        logits = np.stack([np.log(confidence / (1 - confidence)), np.zeros(2_400)], axis=1)
        held_out = answers(np.stack([logits] * 3), wrong.astype(int), present=[1, 0])
        group = np.arange(2_400) // variants
        threshold = calibrate(NOTHING, held_out, group, target_error=0.10).patterns["text"].threshold
        if threshold < NEVER:
            answered += 1
            broken += (1 - threshold) / 2 > 0.10
    assert answered > 300
    assert broken <= 50 + 2 * np.sqrt(1_000 * 0.05 * 0.95)


def test_one_of_each_group_is_drawn_the_same_each_time() -> None:
    group = np.array(["a", "b", "a", "c", "b", "a"])
    drawn = one_a_group(group)
    assert sorted(group[drawn]) == ["a", "b", "c"]
    assert drawn.tolist() == one_a_group(group).tolist() == sorted(drawn.tolist())
    assert one_a_group(np.array([])).tolist() == []


def test_the_lot_favours_no_place_within_a_group() -> None:
    place = one_a_group(np.arange(9_000) // 3) % 3
    assert np.bincount(place) == pytest.approx([1_000] * 3, abs=3 * np.sqrt(1_000 * 2 / 3))


def test_each_pattern_is_tuned_on_the_products_that_have_its_modalities() -> None:
    """Factors 1, 2 and 4 too large by pattern; the labels of products without a modality are nonsense."""
    rng = np.random.default_rng(0)
    logits, label = overconfident_logits(rng, 6_000, factor=1.0)
    logits_PNC = np.stack([logits * factor for factor in (1.0, 2.0, 4.0)])
    present = np.array([[1, 1], [1, 0], [0, 1], [0, 0]]).repeat(1_500, axis=0)
    logits_PNC[0, 1_500:] = rng.normal(size=(4_500, 5))  # only the first quarter has both
    logits_PNC[1, 3_000:] = rng.normal(size=(3_000, 5))
    logits_PNC[2, 1_500:3_000] = logits_PNC[2, 4_500:] = rng.normal(size=(1_500, 5))
    tuned_on = Answers(logits_PNC=logits_PNC, present_N2=present, label_N=label)
    found = calibrate(tuned_on, NOTHING, np.zeros(0), target_error=0.1)
    assert list(found.patterns) == list(PATTERNS) == ["both", "text", "image"]
    temperatures = [found.patterns[name].temperature for name in PATTERNS]
    assert temperatures == pytest.approx([1.0, 2.0, 4.0], rel=0.1)
    assert {pattern.threshold for pattern in found.patterns.values()} == {NEVER}


def test_thresholds_are_set_on_the_products_that_have_the_modalities() -> None:
    """500 sure and right in the text, 500 as sure of a picture and wrong: texts are accepted, and no more."""
    sure = np.tile([3.0, 0.0], (3, 1_000, 1))
    present = np.array([[1, 0], [0, 1]]).repeat(500, axis=0)
    held_out = Answers(logits_PNC=sure, present_N2=present, label_N=np.arange(1_000) // 500)
    found = calibrate(NOTHING, held_out, np.arange(1_000), target_error=0.05).patterns
    assert found["text"].threshold == pytest.approx(1 / (1 + np.exp(-3)))
    assert (found["both"].threshold, found["image"].threshold) == (NEVER, NEVER)


def test_the_labels_that_set_the_threshold_do_not_move_the_temperature() -> None:
    logits, label = overconfident_logits(np.random.default_rng(0), 1_000, factor=3.0)
    tuned_on = answers(np.stack([logits] * 3), label)
    for labels in (label, np.zeros_like(label)):
        held_out = answers(np.stack([logits] * 3), labels)
        found = calibrate(tuned_on, held_out, np.arange(1_000), target_error=0.1).patterns["both"]
        assert found.temperature == fit_temperature(logits, label)


def test_a_looser_start_wins_where_an_early_error_stops_the_strict_ones() -> None:
    """400 products from sure to unsure, errors at places 40 to 59 and from 300 on.

    At target 0.2 and delta 0.05 / 4 the sequences that start after 50, 100 and 400 products (10, 20 and
    120 errors) fail at once; the one after 200 (20 errors) goes on for as long as the exact test holds.
    """
    confidence = np.linspace(0.999, 0.600, 400)
    wrong = np.zeros(400, dtype=bool)
    wrong[40:60] = wrong[300:] = True
    threshold = accept_threshold(confidence, wrong, target_error=0.2, delta=0.05)
    accepted = int((confidence >= threshold).sum())
    assert binom.cdf(20 + accepted - 300, accepted, 0.2) <= 0.0125
    assert binom.cdf(20 + accepted - 299, accepted + 1, 0.2) > 0.0125
    assert (accepted, threshold) == (329, confidence[328])


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
