"""The baselines of text: a linear SVM over words, and a GRU that learns its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aisle.errors import CatalogError
from training.gru import UNKNOWN, GruSettings, Vocabulary, fit_gru
from training.linear_svm import ABSENT, LinearSvm

QUICK = GruSettings(word_dim=16, hidden_dim=16, epochs=12, patience=12, min_count=1)
KINDS = ("livre roman poche", "jeu console manette", "train bois jouet")


def texts_of(products: int, seed: int) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    label_N = rng.integers(0, len(KINDS), products)
    return [f"{rng.choice(KINDS[k].split())} {rng.integers(1_000)}" for k in label_N], label_N


def test_the_svm_learns_words() -> None:
    texts, label_N = texts_of(200, 0)
    svm = LinearSvm(texts, label_N, classes=3, seed=1)
    asked, wanted_N = texts_of(100, 1)
    assert (svm.logits(asked).argmax(axis=1) == wanted_N).all()


def test_the_svm_gives_a_category_without_products_no_chance() -> None:
    texts, label_N = texts_of(50, 0)
    logits_NC = LinearSvm(texts, label_N, classes=5, seed=1).logits(texts)
    assert logits_NC.shape == (50, 5)
    assert (logits_NC[:, 3:] == ABSENT).all()


def test_the_svm_knows_two_categories() -> None:
    logits_NC = LinearSvm(["livre", "jeu"] * 5, np.array([0, 1] * 5), classes=2, seed=1).logits(
        ["jeu", "livre"]
    )
    assert logits_NC.argmax(axis=1).tolist() == [1, 0]


@pytest.mark.parametrize("texts", [["a b", "c"], ["livre", "jeu"]])
def test_the_svm_says_what_it_cannot_learn_from(texts: list[str]) -> None:
    with pytest.raises(CatalogError, match="found 2 texts of 1 categories .* wanted words, and 2 categories"):
        LinearSvm(texts, np.array([1, 1]), classes=2, seed=1)


def test_the_gru_learns_words() -> None:
    gru = fit_gru(texts_of(200, 0), texts_of(50, 2), QUICK, classes=3)
    asked, wanted_N = texts_of(100, 1)
    assert (gru.logits(asked).argmax(axis=1) == wanted_N).mean() > 0.95


def test_the_gru_reads_the_order_of_words() -> None:
    rng = np.random.default_rng(0)
    label_N = rng.integers(0, 2, 400)
    texts = ["rouge sur bleu" if label else "bleu sur rouge" for label in label_N]
    gru = fit_gru((texts, label_N), (texts[:50], label_N[:50]), QUICK, classes=2)
    assert gru.logits(["rouge sur bleu", "bleu sur rouge"]).argmax(axis=1).tolist() == [1, 0]


def test_a_text_is_answered_alike_whatever_its_batch() -> None:
    gru = fit_gru(texts_of(60, 0), texts_of(20, 2), QUICK, classes=3)
    long = "livre " * 300
    np.testing.assert_allclose(gru.logits(["jeu", long, ""])[[0]], gru.logits(["jeu"]), rtol=1e-4, atol=1e-5)


def test_same_seed_gives_the_same_gru() -> None:
    first, second = (fit_gru(texts_of(60, 0), texts_of(20, 2), QUICK, classes=3) for _ in range(2))
    for name, value in first.net.state_dict().items():
        assert torch.equal(value, second.net.state_dict()[name]), name


@pytest.mark.parametrize("text", ["", "...", "jamais"])
def test_words_that_nobody_knows_are_one(text: str) -> None:
    assert Vocabulary(["livre"], QUICK).numbers(text).tolist() == [UNKNOWN]


def test_rare_words_are_not_learned() -> None:
    vocabulary = Vocabulary(["livre rare", "livre"], GruSettings(min_count=2))
    assert len(vocabulary) == 3  # padding, unknown, livre
    assert vocabulary.numbers("rare livre").tolist() == [UNKNOWN, 2]
