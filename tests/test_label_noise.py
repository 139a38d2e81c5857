import csv
from pathlib import Path

import numpy as np
import pytest
from test_training_commands import training

from aisle.errors import CatalogError
from training.fit import FitSettings, Vectors
from training.label_noise import FOLDS, confident_joint, find_label_noise, fold_of, out_of_fold
from training.review_table import write_review

QUICK = FitSettings(epochs=15, patience=15, batch_size=64, hidden_dim=32)
CLASSES = 4


def catalogue(seed: int, rows: int, wrong: float) -> tuple[Vectors, np.ndarray]:
    """Products of 4 categories that text and image tell apart, a share of them with another's label; and
    which ones these are."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES, size=rows)
    text, image = (rng.normal(size=(rows, width)).astype(np.float32) for width in (8, 6))
    text[np.arange(rows), truth] += 3
    image[np.arange(rows), truth] += 3
    changed = rng.random(rows) < wrong
    label = np.where(changed, (truth + rng.integers(1, CLASSES, size=rows)) % CLASSES, truth)
    present = np.ones((rows, 2), dtype=np.float32)
    return Vectors(text_ND=text, image_NE=image, present_N2=present, label_N=label), changed


def test_the_joint_of_an_example_by_hand() -> None:
    """Means of the own probability: 0.6 for category 0 (0.9, 0.7, 0.2), 0.7 for category 1 (0.8, 0.6).

    The third counts for category 1, the second and first for their own, the fifth for none and keeps 1. One
    of three labels 0 and none of two labels 1 is wrong: 1 of 5.
    """
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.2, 0.8], [0.4, 0.6]])
    counted, noise = confident_joint(probabilities, np.array([0, 0, 0, 1, 1]))
    assert counted.tolist() == [0, 0, 1, 1, 1]
    assert noise == pytest.approx(1 / 5)


def test_a_category_that_nobody_bears_is_never_suggested() -> None:
    counted, noise = confident_joint(np.array([[0.3, 0.1, 0.6], [0.1, 0.3, 0.6]]), np.array([0, 1]))
    assert counted.tolist() == [0, 1]
    assert noise == 0


@pytest.fixture(scope="module")
def noisy() -> tuple[Vectors, np.ndarray, np.ndarray, float]:
    """1,000 products with every eighth label wrong: vectors, who is wrong, whom the report names, its
    estimate."""
    vectors, changed = catalogue(1, 1_000, wrong=0.125)
    nobody = np.zeros(1_000, dtype=bool)
    found = find_label_noise(vectors, np.arange(1_000), nobody, QUICK, classes=CLASSES)
    return vectors, changed, found.ranked(vectors.label_N), found.noise


def test_wrong_labels_are_found(noisy: tuple[Vectors, np.ndarray, np.ndarray, float]) -> None:
    _, changed, named, _ = noisy
    assert changed[named].sum() >= 0.75 * changed.sum()
    assert changed[named].mean() >= 0.9


def test_the_likeliest_mistakes_come_first(noisy: tuple[Vectors, np.ndarray, np.ndarray, float]) -> None:
    _, changed, named, _ = noisy
    assert changed[named[:50]].mean() >= 0.98


def test_the_share_of_wrong_labels_is_estimated(
    noisy: tuple[Vectors, np.ndarray, np.ndarray, float],
) -> None:
    _, changed, _, noise = noisy
    assert noise == pytest.approx(changed.mean(), abs=0.03)


def test_right_labels_are_left_alone() -> None:
    vectors, _ = catalogue(2, 600, wrong=0.0)
    nobody = np.zeros(600, dtype=bool)
    found = find_label_noise(vectors, np.arange(600), nobody, QUICK, classes=CLASSES)
    assert len(found.ranked(vectors.label_N)) <= 0.03 * 600


def test_no_product_is_judged_by_a_model_that_was_fitted_on_it() -> None:
    """Labels drawn by lot say nothing of another product's: who had seen them would be right more often than
    chance. Three variants of one thing share its vectors and its label."""
    rng = np.random.default_rng(3)
    group = np.arange(600) // 3
    vectors = Vectors(
        text_ND=rng.normal(size=(200, 64)).astype(np.float32).repeat(3, axis=0),
        image_NE=rng.normal(size=(200, 64)).astype(np.float32).repeat(3, axis=0),
        present_N2=np.ones((600, 2), dtype=np.float32),
        label_N=rng.integers(0, CLASSES, size=200).repeat(3),
    )
    probabilities, judged = out_of_fold(vectors, group, QUICK, classes=CLASSES)
    assert judged.all()
    right = (probabilities.argmax(axis=1) == vectors.label_N)[::3]
    assert right.mean() <= 0.25 + 3 * np.sqrt(0.25 * 0.75 / 200)


def test_variants_are_in_one_fold() -> None:
    group = np.array(["a", "b", "c", "d", "e", "f", "g"] * 3)
    fold = fold_of(group)
    assert all(len(set(fold[group == one])) == 1 for one in group)
    assert set(fold) == set(range(FOLDS))


def test_pictures_that_trained_the_image_encoder_are_not_looked_at() -> None:
    """Their vectors say the label, the texts say nothing: judged by their texts, products are right by
    chance, and who has no text is not judged at all."""
    vectors, _ = catalogue(4, 300, wrong=0.0)
    rng = np.random.default_rng(4)
    blind = Vectors(
        text_ND=rng.normal(size=(300, 8)).astype(np.float32),
        image_NE=vectors.image_NE,
        present_N2=vectors.present_N2.copy(),
        label_N=vectors.label_N,
    )
    blind.present_N2[:10, 0] = 0
    own = np.ones(300, dtype=bool)
    found = find_label_noise(blind, np.arange(300), own, QUICK, classes=CLASSES)
    assert found.judged_N.tolist() == [False] * 10 + [True] * 290
    assert found.label_probability_N[10:].mean() == pytest.approx(0.25, abs=0.05)
    assert found.ranked(blind.label_N).min() >= 10


def test_too_few_groups_are_an_error() -> None:
    with pytest.raises(CatalogError, match="label noise: found 4 products with a vector, wanted 5 or more"):
        fold_of(np.array(["a", "b", "c", "d", "a"]))


def test_a_title_is_no_formula(tmp_path: Path) -> None:
    rows = [("=HYPERLINK(1)", 1), ("+1", -0.5), ("robe, rouge", "é")]
    assert write_review(tmp_path / "out" / "t.csv", ("title", "number"), rows) == 3
    with (tmp_path / "out" / "t.csv").open(encoding="utf-8-sig", newline="") as file:
        assert list(csv.reader(file)) == [
            ["title", "number"],
            ["'=HYPERLINK(1)", "1"],
            ["'+1", "-0.5"],
            ["robe, rouge", "é"],
        ]


def test_the_command_names_a_label_that_was_swapped(tiny_home: Path, tmp_path: Path) -> None:
    """The tiny shop's words tell its categories apart; one product's label is changed in a copy."""
    source = tiny_home / "catalogue" / "products.csv"
    with source.open(newline="") as file:
        rows = list(csv.reader(file))
    victim = next(row for row in rows[1:] if row[4] == "10")
    victim[4] = "50"
    with (tmp_path / "products.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (tmp_path / "images").symlink_to(tiny_home / "catalogue" / "images")
    done = training(tiny_home, "label-noise", str(tmp_path), "--out", str(tmp_path / "noise.csv"))
    assert done.returncode == 0, done.stderr
    assert "of 120 labelled products judged" in done.stdout
    with (tmp_path / "noise.csv").open(encoding="utf-8-sig", newline="") as file:
        named = {row["product_id"]: row for row in csv.DictReader(file)}
    assert (named[victim[0]]["label"], named[victim[0]]["suggested"]) == ("50", "10")
