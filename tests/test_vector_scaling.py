import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from aisle.calibration import NEVER, fit_scaling, vector_is_better
from aisle.vector_scaling import VectorScaling, fit_vector_scaling


def drawn(
    rng: np.random.Generator, rows: int, bias_C: list[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of a network that is twice too sure and `bias_C` away from the truth, labels drawn from the
    truth, and groups of one."""
    true = rng.normal(size=(rows, len(bias_C))) * 2
    chance = softmax(true, axis=1).cumsum(axis=1)
    labels = (rng.random((rows, 1)) > chance).sum(axis=1).clip(max=len(bias_C) - 1)
    return 2 * (true - np.array(bias_C)), labels, np.arange(rows)


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def test_scales_and_biases_undo_what_was_done() -> None:
    logits, labels, _ = drawn(np.random.default_rng(0), 20_000, [0, 0, 0, 0, 0])
    wrong = logits / 2 * [1, 1, 1, 1, 0.5] + [0, 0, 0, 0, 1]
    found = fit_vector_scaling(wrong, labels)
    relative = np.array(found.scale) / found.scale[0]
    assert relative == pytest.approx([1, 1, 1, 1, 2], abs=0.12)
    # A constant for all categories changes nothing, so only differences are known.
    assert np.array(found.bias)[4] - found.bias[0] == pytest.approx(-2, abs=0.12)


def test_a_category_that_no_product_shows_keeps_its_scale() -> None:
    logits, labels, _ = drawn(np.random.default_rng(0), 2_000, [0, 0, 0])
    unseen = np.concatenate([logits / 2, np.full((2_000, 1), -9.0)], axis=1)
    found = fit_vector_scaling(unseen, labels)
    assert found.scale[3] == pytest.approx(1, abs=0.1)
    assert found.bias[3] == pytest.approx(0, abs=0.02)


def test_vector_scaling_is_not_taken_by_chance() -> None:
    """Where a temperature is all that is wrong, it is taken in 0.5 % of 200 draws at most, and two more by
    chance."""
    rng = np.random.default_rng(1)
    taken = sum(vector_is_better(*drawn(rng, 150, [0.0] * 4)) for _ in range(200))
    assert taken <= 3


def test_vector_scaling_is_taken_where_a_category_is_said_too_often() -> None:
    rng = np.random.default_rng(2)
    taken = sum(vector_is_better(*drawn(rng, 400, [1.5, 0, 0, -1.5])) for _ in range(20))
    assert taken == 20


def test_variants_do_not_count_twice() -> None:
    """20 groups, eight copies of each product, do not show what 160 strangers would."""
    logits, labels, group = drawn(np.random.default_rng(0), 20, [1.5, 0, 0, -1.5])
    copies = (logits.repeat(8, axis=0), labels.repeat(8))
    assert vector_is_better(*copies, np.arange(160))
    assert not vector_is_better(*copies, group.repeat(8))


def test_what_is_taken_lowers_the_log_loss_of_other_products() -> None:
    rng = np.random.default_rng(4)
    scaling = fit_scaling(*drawn(rng, 1_000, [1.5, 0, 0, -1.5]))
    assert scaling.vector is not None
    assert scaling.threshold == NEVER
    logits, labels, _ = drawn(rng, 4_000, [1.5, 0, 0, -1.5])
    assert log_loss(scaling.scale(logits), labels) < log_loss(logits / scaling.temperature, labels) - 0.05


def test_few_products_are_left_to_the_temperature() -> None:
    logits, labels, group = drawn(np.random.default_rng(0), 9, [1.5, 0, 0, -1.5])
    assert fit_scaling(logits, labels, group).vector is None


def test_applying_multiplies_and_adds() -> None:
    found = VectorScaling(scale=(1.0, 2.0), bias=(0.5, -1.0)).apply(np.array([[3.0, 4.0]]))
    assert found.tolist() == [[3.5, 7.0]]
