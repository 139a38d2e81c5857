"""Heads of every variant: what each learns, and that a stack never learns from what it is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from test_fit import QUICK, accuracy, two_halves_of_a_label

from aisle.bundle import Bundle, EncoderRef
from aisle.calibration import PATTERNS, Calibration, PatternCalibration
from aisle.fusion import VARIANTS, FusionNet, fusion_logits
from aisle.fusion_net import ALONE, FEATURE, LATE
from aisle.late_fusion import Late, Stacked, Weighted
from aisle.taxonomy import Taxonomy
from training.combiners import Said, search_weights, stack_weights
from training.fit import FitSettings, Vectors
from training.heads import both_say, combine, fit_alone, fit_head, grouped_folds, out_of_fold, part

TRAIN, HELD_OUT = two_halves_of_a_label(600, 0), two_halves_of_a_label(400, 1)
ONE_EACH = np.arange(600)


def head(variant: str, **changes: object) -> FusionNet:
    settings = replace(QUICK, variant=variant, epochs=25, **changes)
    return fit_head(TRAIN, HELD_OUT, settings, classes=4, group_N=ONE_EACH)[0]


@pytest.mark.parametrize("variant", [*FEATURE, *LATE])
def test_every_fusion_learns_what_only_both_modalities_tell(variant: str) -> None:
    fusion = head(variant)
    assert accuracy(fusion, HELD_OUT) > 0.9
    assert 0.40 < accuracy(fusion, HELD_OUT.alone("text")) < 0.60  # the high bit alone: half of it
    assert 0.40 < accuracy(fusion, HELD_OUT.alone("image")) < 0.60


@pytest.mark.parametrize("variant", ALONE)
def test_a_baseline_learns_its_own_half(variant: str) -> None:
    assert 0.40 < accuracy(head(variant), HELD_OUT) < 0.60


@pytest.fixture(scope="module")
def parts() -> tuple[FusionNet, FusionNet]:
    settings = replace(QUICK, epochs=10)
    text, image = (fit_alone(name, TRAIN, HELD_OUT, settings, 4)[0] for name in ALONE)
    return text, image


RULES = {
    "mean": lambda text, image: softmax(text, axis=1) + softmax(image, axis=1),
    "product": lambda text, image: softmax(text, axis=1) * softmax(image, axis=1),
}


@pytest.mark.parametrize("variant", RULES)
def test_a_rule_is_applied_to_what_each_modality_says_alone(
    variant: str, parts: tuple[FusionNet, FusionNet]
) -> None:
    late = combine(variant, *parts, HELD_OUT)
    both, text, image = fusion_logits(late, HELD_OUT.text_ND, HELD_OUT.image_NE)
    wanted = RULES[variant](text, image)
    np.testing.assert_allclose(
        softmax(both, axis=1), wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6
    )


def test_a_late_head_says_of_one_modality_what_that_head_said(parts: tuple[FusionNet, FusionNet]) -> None:
    late = combine("weighted", *parts, HELD_OUT)
    alone = fusion_logits(parts[0], HELD_OUT.text_ND, HELD_OUT.image_NE)[1]
    text = fusion_logits(late, HELD_OUT.text_ND, HELD_OUT.image_NE)[1]
    wanted = log_softmax(alone / float(late.temperature_2[0]), axis=1)
    np.testing.assert_allclose(text, wanted, rtol=1e-4, atol=1e-5)


def test_a_part_comes_out_as_it_went_in(parts: tuple[FusionNet, FusionNet]) -> None:
    late = combine("product", *parts, HELD_OUT)
    assert isinstance(late, Late)
    for name, alone in zip(ALONE, parts, strict=True):
        taken = part(late, name).state_dict()
        for key, value in alone.state_dict().items():
            assert name not in key or torch.equal(value, taken[key]), key


def test_a_stack_without_products_is_the_product(parts: tuple[FusionNet, FusionNet]) -> None:
    nothing = HELD_OUT.rows(np.arange(0))
    stacked, product = (combine(name, *parts, nothing) for name in ("stacked", "product"))
    both = [fusion_logits(late, HELD_OUT.text_ND, HELD_OUT.image_NE)[0] for late in (stacked, product)]
    answers = [logits.argmax(axis=1) for logits in both]
    assert (answers[0] == answers[1]).mean() > 0.99  # a stack reads nothing below FLOOR


def random_labels(products: int, classes: int = 4) -> Vectors:
    """Pairs of equal products with a label by lot: nothing can be learned but by heart."""
    rng = np.random.default_rng(5)
    pair = np.arange(products) // 2
    return Vectors(
        text_ND=rng.normal(size=(products, 128)).astype(np.float32)[pair],
        image_NE=rng.normal(size=(products, 128)).astype(np.float32)[pair],
        present_N2=np.ones((products, 2), dtype=np.float32),
        label_N=rng.integers(0, classes, products)[pair],
    )


def test_out_of_fold_answers_know_nothing_by_heart() -> None:
    train, pair = random_labels(400), np.arange(400) // 2
    settings = FitSettings(hidden_dim=64, epochs=30, patience=30, dropout=0.0, weight_decay=0.0)
    by_heart, _ = fit_alone("text", train, train, settings, 4)
    assert accuracy(by_heart, train) > 0.9
    said = out_of_fold(train, train, settings, 4, pair)
    assert said is not None
    assert len(said) == 400
    right = (said.log_text_NC.argmax(axis=1) == said.label_N).mean()
    assert 0.25 - 0.10 < right < 0.25 + 0.10  # 200 pairs: three standard deviations are 0.09


def test_no_fold_asks_about_a_group_that_it_learned_from() -> None:
    group_N = np.arange(60) // 3
    folds = list(grouped_folds(group_N, 4))
    assert sorted(np.concatenate([ask for _, ask in folds])) == list(range(60))
    for learn, ask in folds:
        assert not set(group_N[learn]) & set(group_N[ask])


def test_there_are_no_folds_where_none_are_wanted() -> None:
    assert list(grouped_folds(np.arange(60), 0)) == []


def said_of(label_N: np.ndarray, sharp_text: float, sharp_image: float, seed: int) -> Said:
    """Two honest opinions: evidence for the true one of four categories, and noise."""
    rng = np.random.default_rng(seed)
    opinions = []
    for sharp in (sharp_text, sharp_image):
        logits = rng.normal(size=(len(label_N), 4)) * np.sqrt(sharp)
        logits[np.arange(len(label_N)), label_N] += sharp
        opinions.append(log_softmax(logits, axis=1))
    return Said(log_text_NC=opinions[0], log_image_NC=opinions[1], label_N=label_N)


def test_independent_calibrated_opinions_get_a_power_of_one_each() -> None:
    label_N = np.random.default_rng(0).integers(0, 4, 20_000)
    text, image = search_weights(said_of(label_N, 2.0, 1.0, seed=1))
    assert text == pytest.approx(1.0, abs=0.16)  # a step of the grid
    assert image == pytest.approx(1.0, abs=0.16)


def test_noise_gets_no_say() -> None:
    label_N = np.random.default_rng(0).integers(0, 4, 2_000)
    said = said_of(label_N, 3.0, 3.0, seed=1)
    noise = replace(said, log_image_NC=np.random.default_rng(2).permutation(said.log_image_NC))
    assert search_weights(noise)[1] == pytest.approx(0.05)


def log_loss(logits_NC: np.ndarray, label_N: np.ndarray) -> float:
    return float(-log_softmax(logits_NC, axis=1)[np.arange(len(label_N)), label_N].mean())


@pytest.mark.parametrize("products", [40, 100, 1_000])
def test_a_stack_is_never_far_worse_than_the_pool_it_begins_at(products: int) -> None:
    rng = np.random.default_rng(products)
    fitted_on = said_of(rng.integers(0, 4, products), 2.0, 1.0, seed=1)
    fresh = said_of(rng.integers(0, 4, 5_000), 2.0, 1.0, seed=2)
    weight_CF, bias_C = stack_weights(fitted_on)
    pool = fresh.log_text_NC + fresh.log_image_NC  # the best there is, for such opinions
    assert log_loss(fresh.features() @ weight_CF.T + bias_C, fresh.label_N) < 1.1 * log_loss(
        pool, fresh.label_N
    )


def test_a_stack_learns_that_one_modality_confuses_two_categories() -> None:
    rng = np.random.default_rng(3)
    label_N = rng.integers(0, 4, 1_000)
    said = said_of(label_N, 2.0, 2.0, seed=4)
    swapped = replace(said, log_image_NC=said.log_image_NC[:, [1, 0, 2, 3]])
    weight_CF, bias_C = stack_weights(swapped)
    pool = swapped.log_text_NC + swapped.log_image_NC
    found = log_loss(swapped.features() @ weight_CF.T + bias_C, label_N)
    assert found < 0.8 * log_loss(pool, label_N)


def test_a_category_that_a_stack_never_saw_stays_where_the_pool_has_it() -> None:
    said = said_of(np.random.default_rng(0).integers(0, 3, 200), 2.0, 2.0, seed=1)
    weight_CF, _ = stack_weights(said)
    assert np.isfinite(weight_CF).all()
    assert weight_CF[3, 3] > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_the_same_after_a_bundle(variant: str, tmp_path: Path) -> None:
    fusion = head(variant, stack_folds=0) if variant in ("stacked", "weighted") else untrained(variant)
    pattern = PatternCalibration(temperature=1.0, threshold=0.5)
    Bundle(
        fusion=fusion,
        taxonomy=Taxonomy.from_codes(["a", "b", "c", "d"]),
        calibration=Calibration(target_error=0.05, delta=0.05, patterns=dict.fromkeys(PATTERNS, pattern)),
        text_encoder=EncoderRef(revision="aaaa0001", dim=8),
        image_encoder=EncoderRef(revision="bbbb0001", dim=6),
        reference={"label": np.zeros(1, dtype=np.int32)},
    ).save(tmp_path)
    loaded = Bundle.load(tmp_path).fusion
    before, after = (fusion_logits(net, HELD_OUT.text_ND, HELD_OUT.image_NE) for net in (fusion, loaded))
    np.testing.assert_array_equal(before, after)


def untrained(variant: str) -> FusionNet:
    none = replace(QUICK, variant=variant, epochs=1, stack_folds=0)
    return fit_head(TRAIN, HELD_OUT, none, classes=4, group_N=ONE_EACH)[0]


def test_what_combines_is_fitted() -> None:
    weighted, stacked = head("weighted"), head("stacked", stack_folds=0)
    assert isinstance(weighted, Weighted)
    assert isinstance(stacked, Stacked)
    assert weighted.weight_2.tolist() != [1.0, 1.0]
    assert not torch.equal(stacked.stack.weight, torch.eye(4).repeat(1, 2))
    assert len(both_say(stacked, HELD_OUT)) == 400


def test_a_head_is_trained_on_from_another() -> None:
    first = head("product")
    warm = replace(QUICK, variant="product", epochs=1)
    second, _ = fit_head(TRAIN, HELD_OUT, warm, classes=4, group_N=ONE_EACH, start=first)
    assert accuracy(second, HELD_OUT) > 0.95
    cold, _ = fit_head(TRAIN, HELD_OUT, warm, classes=4, group_N=ONE_EACH)
    assert accuracy(cold, HELD_OUT) < accuracy(second, HELD_OUT)


def test_a_catalogue_without_pictures_gets_a_late_head_of_its_texts() -> None:
    train, held_out = (
        vectors.without_images(np.ones(len(vectors), dtype=bool)) for vectors in (TRAIN, HELD_OUT)
    )
    settings = replace(QUICK, variant="weighted", epochs=10)
    fusion, _ = fit_head(train, held_out, settings, classes=4, group_N=ONE_EACH)
    assert 0.40 < accuracy(fusion, held_out) < 0.60
