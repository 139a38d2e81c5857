"""Comparisons: honest folds, intervals that hold, a choice that looks at validation alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_fit import two_halves_of_a_label
from test_heads import random_labels

from aisle.errors import CatalogError
from training.comparison import (
    Comparison,
    Pooled,
    choose,
    compare,
    f1_of_counts,
    figures,
    macro_f1,
    scores_with_intervals,
)
from training.comparison_view import comparison_table, draw_comparison
from training.contenders import LEVELS, Contest, Examples, Outcome
from training.fit import FitSettings, Vectors
from training.folds import Fold, stratified_folds, stratified_split

QUICK = FitSettings(hidden_dim=32, epochs=15, batch_size=16, stack_folds=0)


def examples_of(vectors: Vectors) -> Examples:
    words = [f"kind{label // 2} number{i}" for i, label in enumerate(vectors.label_N)]
    return Examples(
        vectors=vectors, text_N=np.array(words, dtype=object), group_N=np.arange(len(vectors)) // 2
    )


def test_folds_test_every_product_once_and_split_no_group() -> None:
    rng = np.random.default_rng(0)
    label_N, group_N = rng.integers(0, 3, 300), np.arange(300) // 2
    folds = stratified_folds(label_N, group_N, folds=5, seed=1)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(300))
    for fold in folds:
        parts = [set(group_N[rows]) for rows in (fold.train, fold.validation, fold.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 150


def test_folds_are_stratified() -> None:
    label_N = np.repeat([0, 1], [270, 30])
    folds = stratified_folds(label_N, np.arange(300), folds=5, seed=1)
    assert [int(label_N[fold.test].sum()) for fold in folds] == [6] * 5


def test_too_few_groups_are_named() -> None:
    with pytest.raises(CatalogError, match="found 10 groups of products, wanted 35 or more for 5 folds"):
        stratified_folds(np.zeros(30), np.arange(30) // 3, folds=5, seed=1)


def test_categories_with_fewer_products_than_folds_are_an_error() -> None:
    with pytest.raises(CatalogError, match="found at most 4 products of a category, wanted 5 or more of one"):
        stratified_split(np.repeat([0, 1], 4), np.arange(8), 5, 27)


def test_a_contender_of_texts_wants_texts() -> None:
    examples = examples_of(two_halves_of_a_label(60, 0))
    silent = replace(examples, text_N=np.full(60, "", dtype=object))
    for name in ("tfidf_svm", "gru"):
        with pytest.raises(CatalogError, match="a contender of texts: found no product with one"):
            Contest(silent, silent, silent, QUICK, 4).outcome(name)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    examples = examples_of(two_halves_of_a_label(240, 0))
    folds = stratified_folds(examples.vectors.label_N, examples.group_N, folds=2, seed=1)
    work = tmp_path_factory.mktemp("compare")
    by_fold = {fold.name: examples for fold in folds}
    return compare(by_fold, folds, QUICK, classes=4, work=work), work


def test_every_family_answers_every_product(compared: tuple[Comparison, Path]) -> None:
    for name in LEVELS:
        test = compared[0].test(name)
        assert test.probabilities_NC.shape == (240, 4), name
        np.testing.assert_allclose(test.probabilities_NC.sum(axis=1), 1, rtol=1e-5)


def test_fusion_beats_each_modality_where_both_are_needed(compared: tuple[Comparison, Path]) -> None:
    rows = figures(compared[0], seed=1)
    alone = max(rows[name]["test"]["macro_f1"]["value"] for name in ("text", "image", "tfidf_svm", "gru"))
    for name in ("concat", "product"):
        assert rows[name]["test"]["macro_f1"]["low"] > alone


def test_a_comparison_goes_on_where_it_was(compared: tuple[Comparison, Path]) -> None:
    comparison, work = compared
    examples = examples_of(two_halves_of_a_label(240, 0))
    (work / "fold-1-mean.safetensors").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in work.iterdir()}
    by_fold = {fold.name: examples for fold in comparison.folds}
    again = compare(by_fold, comparison.folds, QUICK, classes=4, work=work)
    after = {path.name: path.stat().st_mtime_ns for path in work.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {"fold-1-mean.safetensors"}
    np.testing.assert_array_equal(
        again.test("mean").probabilities_NC, comparison.test("mean").probabilities_NC
    )


def test_other_products_are_compared_anew(compared: tuple[Comparison, Path]) -> None:
    comparison, work = compared
    other = examples_of(two_halves_of_a_label(240, 9))
    by_fold = {fold.name: other for fold in comparison.folds}
    again = compare(by_fold, comparison.folds, QUICK, classes=4, names=["text"], work=work)
    assert not np.array_equal(again.test("text").probabilities_NC, comparison.test("text").probabilities_NC)


def test_a_table_and_a_picture_name_every_contender(
    compared: tuple[Comparison, Path], tmp_path: Path
) -> None:
    rows = figures(compared[0], seed=1)
    assert list(comparison_table(rows, title="x").columns[0].cells) == list(rows)
    draw_comparison(rows, tmp_path / "c.png", title="x")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["stacked", "stacked_lightgbm", "weighted", "tfidf_svm"])
def test_nobody_is_chosen_by_products_that_it_was_fitted_on(name: str) -> None:
    """Labels by lot: whoever says more of the validation products than chance has seen their labels."""
    vectors = random_labels(600)
    examples = examples_of(vectors)
    examples = Examples(
        vectors=vectors,
        text_N=np.array([f"w{i // 2}" for i in range(600)], dtype=object),
        group_N=examples.group_N,
    )
    train, validation, test = (examples.rows(np.arange(at, at + 200)) for at in (0, 200, 400))
    outcome = Contest(train, validation, test, QUICK, 4).outcome(name)
    own = outcome.validation_NC[np.arange(200), validation.vectors.label_N]
    assert -np.log(own.clip(min=1e-12)).mean() > np.log(4) - 0.1


def test_f1_of_counts_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    label_N, answer_N = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
    counts = np.bincount(label_N * 5 + answer_N, minlength=25).reshape(5, 5).astype(float)
    assert f1_of_counts(counts)[0] == pytest.approx(macro_f1(label_N, answer_N))


def test_intervals_hold_what_they_promise() -> None:
    """Groups of three that err together; the interval of the log-loss must hold the true one in about 95 % of
    draws. With 200 draws, 3.5 standard deviations are 0.054; the percentile bootstrap is a little short."""
    held = 0
    for draw in range(200):
        rng = np.random.default_rng(draw)
        sure = np.repeat(rng.random(60) < 0.7, 3)
        own_N = np.where(sure, 0.9, 0.3)
        pooled = Pooled(
            probabilities_NC=np.stack([own_N, 1 - own_N], axis=1),
            label_N=np.zeros(180, dtype=int),
            group_N=np.arange(180) // 3,
        )
        found = scores_with_intervals(pooled, seed=draw)["log_loss"]
        held += found["low"] <= -(0.7 * np.log(0.9) + 0.3 * np.log(0.3)) <= found["high"]
    assert 0.89 < held / 200 <= 1


def outcome_of(own_N: np.ndarray, label_N: np.ndarray) -> Outcome:
    """Gives the true one of three categories `own_N`, and the rest to the next."""
    said = np.zeros((len(label_N), 3))
    said[np.arange(len(label_N)), label_N] = own_N
    said[np.arange(len(label_N)), (label_N + 1) % 3] = 1 - own_N
    return Outcome(validation_NC=said, test_NC=said, fit_s=1.0, size_bytes=8, latency_s=0.001)


def choice_of(**own: np.ndarray) -> str:
    label_N = np.arange(300) % 3
    rows = np.arange(300)
    comparison = Comparison(
        folds=[Fold(name="f", train=rows, validation=rows, test=rows)],
        outcomes={name: [outcome_of(own_N, label_N)] for name, own_N in own.items()},
        label_N=label_N,
        group_N=rows,
    )
    return choose(comparison, figures(comparison, seed=1), seed=1).name


def test_the_least_log_loss_is_chosen() -> None:
    assert choice_of(concat=np.full(300, 0.6), gated=np.full(300, 0.9)) == "gated"


def test_of_equals_the_best_f1_is_chosen() -> None:
    noise = np.random.default_rng(0).normal(size=300)
    near = np.where(np.arange(300) < 30, 0.49, 0.61)  # a tenth is wrong, by little
    equal = np.full(300, 0.596) + 0.02 * noise
    assert choice_of(concat=near, gated=equal) == "gated"


def test_what_cannot_be_served_is_not_chosen() -> None:
    assert choice_of(tfidf_svm=np.full(300, 0.99), gated=np.full(300, 0.7)) == "gated"
