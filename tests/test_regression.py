"""Linear heads: the regressions that scikit-learn finds, and answers that know nothing by heart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from test_fit import accuracy, two_halves_of_a_label
from test_heads import random_labels

from aisle.fusion import fusion_logits
from training import regression
from training.fit import Vectors
from training.regression import fit_linear

ONE_EACH = np.arange(300)


def unequal_categories(products: int) -> Vectors:
    """Categories that are rare and common, told by both vectors a little; every fifth has no image."""
    rng = np.random.default_rng(3)
    label_N = rng.choice(3, products, p=[0.7, 0.2, 0.1])
    text_ND, image_NE = (
        (rng.normal(size=(products, dim)) + rng.normal(size=(3, dim))[label_N]).astype(np.float32)
        for dim in (10, 6)
    )
    present_N2 = np.ones((products, 2), dtype=np.float32)
    present_N2[::5, 1] = 0
    return Vectors(text_ND=text_ND, image_NE=image_NE, present_N2=present_N2, label_N=label_N)


def unit(rows: np.ndarray, like: np.ndarray) -> np.ndarray:
    return (rows - like.mean(axis=0)) / like.std(axis=0) / np.sqrt(rows.shape[1])


def test_each_pattern_is_the_regression_that_scikit_learn_finds() -> None:
    vectors = unequal_categories(300)
    head, _, penalties = fit_linear(vectors, classes=3, group_N=ONE_EACH)
    found_PNC = softmax(fusion_logits(head, vectors.text_ND, vectors.image_NE), axis=2)
    has_image = vectors.present_N2[:, 1] > 0
    text, image = unit(vectors.text_ND, vectors.text_ND), unit(vectors.image_NE, vectors.image_NE[has_image])
    seen = {"both": has_image, "text": ONE_EACH >= 0, "image": has_image}
    parts = {"both": (text, image), "text": (text,), "image": (image,)}
    for p, name in enumerate(("both", "text", "image")):
        scaled = [part / np.sqrt(one) for part, one in zip(parts[name], penalties[name], strict=True)]
        rows = np.hstack(scaled)
        wanted = LogisticRegression(C=1.0, class_weight="balanced", tol=1e-8, max_iter=5_000)
        wanted.fit(rows[seen[name]], vectors.label_N[seen[name]])
        np.testing.assert_allclose(
            found_PNC[p][seen[name]], wanted.predict_proba(rows[seen[name]]), atol=2e-3
        )


def test_answers_about_products_that_were_not_seen_know_nothing_by_heart() -> None:
    vectors, pair = random_labels(400), np.arange(400) // 2
    head, asked, _ = fit_linear(vectors, classes=4, group_N=pair)
    assert accuracy(head, vectors) > 0.5
    assert sorted(asked.position_A) == list(range(400))
    right = asked.logits_PAC.argmax(axis=2) == vectors.label_N[asked.position_A]
    # 200 pairs: three standard deviations are 0.09, and three patterns are looked at.
    assert (np.abs(right.mean(axis=1) - 0.25) < 0.11).all()


def test_noise_is_penalised_as_strictly_as_can_be() -> None:
    _, _, penalties = fit_linear(random_labels(400), classes=4, group_N=np.arange(400) // 2)
    assert penalties["text"] == penalties["image"] == (regression.PENALTIES[0],)


def test_a_large_catalogue_is_asked_in_one_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "ASKED", 40)
    vectors, pair = two_halves_of_a_label(600, 0), np.arange(600) // 2
    head, asked, _ = fit_linear(vectors, classes=4, group_N=pair)
    assert len(set(pair[asked.position_A])) == 40
    assert len(asked.position_A) == 80  # both products of each
    assert accuracy(head, two_halves_of_a_label(400, 1)) > 0.95
    everyone = fit_linear(vectors, classes=4, group_N=pair, ask_all=True)[1]
    assert sorted(everyone.position_A) == list(range(600))


def test_the_same_products_give_the_same_head() -> None:
    vectors = unequal_categories(300)
    first, second = (fit_linear(vectors, classes=3, group_N=ONE_EACH)[0].state_dict() for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_a_catalogue_without_pictures_gets_a_head_of_its_texts() -> None:
    train, held_out = (
        two_halves_of_a_label(300, seed).without_images(np.ones(300, dtype=bool)) for seed in (0, 1)
    )
    head, _, _ = fit_linear(train, classes=4, group_N=ONE_EACH)
    assert 0.40 < accuracy(head, held_out) < 0.60  # the high bit alone: half of it


def test_a_category_without_products_is_never_the_answer() -> None:
    vectors = two_halves_of_a_label(300, 0)
    head, _, _ = fit_linear(vectors, classes=5, group_N=ONE_EACH)
    assert 4 not in fusion_logits(head, vectors.text_ND, vectors.image_NE).argmax(axis=2)
