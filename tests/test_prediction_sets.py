import numpy as np
import pytest
from scipy.special import softmax

from aisle.prediction_sets import (
    SetRule,
    conformal_quantile,
    fit_sets,
    least_products,
    ranked_scores,
)

HARDNESS = np.array([0.0, 0.0, 0.5, 1.0, 1.5, 2.0])  # how far a category's products look like any other
SHARES = np.array([0.3, 0.25, 0.2, 0.12, 0.1, 0.03])


def drawn(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [rows, 6] and labels; categories differ in how often the network is right about them."""
    label = rng.choice(6, size=rows, p=SHARES)
    logits = rng.normal(size=(rows, 6))
    logits[np.arange(rows), label] += 3.0 - HARDNESS[label]
    return softmax(1.5 * logits, axis=1), label


def inside(rule: SetRule, probabilities: np.ndarray) -> np.ndarray:
    """Bool [rows, 6] by category."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    sorted_ = np.take_along_axis(probabilities, order, axis=1)
    within = ranked_scores(sorted_, rule.penalty, rule.free_ranks) <= np.array(rule.quantile)[order]
    within[:, 0] = True
    found = np.zeros_like(within)
    np.put_along_axis(found, order, within, axis=1)
    return found


def test_scores_add_up_probabilities_and_penalties() -> None:
    scores = ranked_scores(np.array([[0.5, 0.25, 0.25]]), 0.125, 1)
    assert scores.tolist() == [[0.5, 0.875, 1.25]]


def test_the_quantile_is_the_place_that_coverage_needs() -> None:
    assert least_products(0.95) == 19
    assert least_products(0.9) == 9
    assert conformal_quantile(np.arange(19.0), 0.95) == 18
    assert conformal_quantile(np.arange(99.0), 0.9) == 89


def test_each_category_is_covered_as_often_as_promised() -> None:
    """Over 200 calibrations, each judged on fresh products: the mean coverage of every category."""
    rng = np.random.default_rng(5)
    judged, labels = drawn(rng, 10_000)
    covered = np.zeros(6)
    sizes = 0.0
    for _ in range(200):
        rule = fit_sets(*drawn(rng, 300), *drawn(rng, 1_500), coverage=0.9)
        assert rule is not None
        found = inside(rule, judged)
        hit = found[np.arange(len(labels)), labels]
        covered += [hit[labels == c].mean() for c in range(6)]
        sizes += found.sum(axis=1).mean()
    coverage = covered / 200
    assert (coverage >= 0.9 - 0.01).all(), coverage
    assert sizes / 200 < 3.0, "sets of everything would keep any promise"


def test_categories_too_rare_for_a_quantile_share_one_that_covers_them_together() -> None:
    """130 held-out products: too few of each of the three rarest categories, enough of them together."""
    rng = np.random.default_rng(6)
    judged, labels = drawn(rng, 10_000)
    rare = labels >= 3
    hits = []
    for _ in range(300):
        held_out, label = drawn(rng, 130)
        rule = fit_sets(*drawn(rng, 200), held_out, label, coverage=0.95)
        assert rule is not None
        few = np.bincount(label, minlength=6) < 19
        assert len({rule.quantile[c] for c in np.flatnonzero(few)}) == 1
        if few.tolist() == [False] * 3 + [True] * 3 and (label >= 3).sum() >= 19:
            hits.append(inside(rule, judged)[np.arange(len(labels)), labels][rare].mean())
    assert len(hits) > 50
    assert np.mean(hits) >= 0.95 - 0.01


def test_too_few_products_promise_nothing() -> None:
    rng = np.random.default_rng(7)
    assert fit_sets(*drawn(rng, 100), *drawn(rng, 18), coverage=0.95) is None
    assert fit_sets(*drawn(rng, 18), *drawn(rng, 100), coverage=0.95) is None
    assert fit_sets(*drawn(rng, 19), *drawn(rng, 19), coverage=0.95) is not None


def test_a_rule_survives_json() -> None:
    rule = SetRule(coverage=0.95, penalty=0.1, free_ranks=2, quantile=(0.5, 1.25))
    assert SetRule.from_json(rule.to_json()) == rule


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_grow_with_the_coverage_that_is_asked_for(coverage: float) -> None:
    rng = np.random.default_rng(8)
    tuned, held_out, judged = drawn(rng, 400), drawn(rng, 4_000), drawn(rng, 4_000)
    small, large = (fit_sets(*tuned, *held_out, coverage=c) for c in (coverage, coverage + 0.04))
    assert small is not None
    assert large is not None
    assert inside(small, judged[0]).sum() < inside(large, judged[0]).sum()
