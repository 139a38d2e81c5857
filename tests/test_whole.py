"""Heads that learn from the validation products too: they do, and what is said of these for calibration comes
from a head that had not seen them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_fit import QUICK, accuracy, two_halves_of_a_label
from test_heads import random_labels

from aisle.fusion import fusion_logits
from aisle.late_fusion import Late
from training import whole as whole_module
from training.fit import FitSettings, Vectors
from training.whole import Whole, fit_whole

TRAIN, HELD_OUT = two_halves_of_a_label(400, 0), two_halves_of_a_label(200, 1)


def fitted(variant: str, train: Vectors, validation: Vectors, **changes: object) -> Whole:
    settings = replace(QUICK, variant=variant, epochs=20, stack_folds=0, **changes)
    return fit_whole(
        train,
        validation,
        settings,
        classes=4,
        train_group_N=np.arange(len(train)),
        validation_group_N=np.arange(len(validation)) + len(train),
    )


def without(vectors: Vectors, category: int) -> Vectors:
    return vectors.rows(vectors.label_N != category)


@pytest.mark.parametrize("variant", ["text", "gated", "product", "linear"])
def test_a_head_learns_what_only_validation_products_show(variant: str) -> None:
    """A category that no training product has; the text alone tells it from two of the others."""
    whole = fitted(variant, without(TRAIN, 3), HELD_OUT)
    fresh = two_halves_of_a_label(300, 2)
    own = fresh.rows(fresh.label_N == 3)
    assert accuracy(whole.fusion, own) > (0.2 if variant == "text" else 0.8)


@pytest.mark.parametrize("variant", ["gated", "weighted"])
def test_answers_for_calibration_come_from_a_head_that_had_not_seen_the_products(variant: str) -> None:
    whole = fitted(variant, without(TRAIN, 3), HELD_OUT)
    own = whole.honest.label_N == 3
    assert (whole.honest.logits_PNC[0].argmax(axis=1)[own] != 3).all()
    assert whole.position_N.tolist() == list(range(len(without(TRAIN, 3)), len(without(TRAIN, 3)) + 200))


@pytest.mark.parametrize("variant", ["concat", "linear"])
def test_labels_by_lot_are_not_known_in_the_answers_for_calibration(variant: str) -> None:
    vectors = random_labels(600)
    train, validation = vectors.rows(np.arange(300)), vectors.rows(np.arange(300, 600))
    settings = FitSettings(variant=variant, hidden_dim=64, epochs=30, patience=30, dropout=0.0)
    pair = np.arange(600) // 2
    whole = fit_whole(
        train, validation, settings, classes=4, train_group_N=pair[:300], validation_group_N=pair[300:]
    )
    right = whole.honest.logits_PNC[0].argmax(axis=1) == whole.honest.label_N
    assert abs(right.mean() - 0.25) < 0.12  # 150 pairs: three standard deviations are 0.11


def test_a_late_head_keeps_how_it_combines() -> None:
    whole = fitted("weighted", TRAIN, HELD_OUT)
    before = fit_first("weighted")
    assert isinstance(whole.fusion, Late)
    assert isinstance(before, Late)
    np.testing.assert_array_equal(whole.fusion.temperature_2, before.temperature_2)
    np.testing.assert_array_equal(whole.fusion.weight_2, before.weight_2)
    assert not np.array_equal(*(said(head) for head in (whole.fusion, before)))


def fit_first(variant: str) -> object:
    settings = replace(QUICK, variant=variant, epochs=20, stack_folds=0)
    return whole_module.fit_head(TRAIN, HELD_OUT, settings, classes=4, group_N=np.arange(400))[0]


def said(head: object) -> np.ndarray:
    return fusion_logits(head, HELD_OUT.text_ND, HELD_OUT.image_NE)[0]  # type: ignore[arg-type]


def test_a_large_catalogue_is_not_trained_on_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_module, "REFIT_BELOW", 300)
    whole = fitted("gated", TRAIN, HELD_OUT)
    np.testing.assert_array_equal(said(whole.fusion), whole.honest.logits_PNC[0])


def test_a_catalogue_without_pictures_gets_a_late_head_of_its_texts() -> None:
    train, held_out = (
        vectors.without_images(np.ones(len(vectors), dtype=bool)) for vectors in (TRAIN, HELD_OUT)
    )
    assert 0.40 < accuracy(fitted("weighted", train, held_out).fusion, held_out) < 0.60
