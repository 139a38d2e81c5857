"""Which labels of the catalogue are likely wrong: confident learning (Northcutt et al., 2021).

Every product is judged by a head that was fitted without it and without its variants: the catalogue is cut
into folds of whole groups, and each fold is judged by a head that the others trained and stopped. Products
that trained the image encoder are judged, and train, by their text alone: their picture's vector knows
their label.

Shapes: N products, C categories, K folds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from aisle.calibration import fit_temperature, one_a_group
from aisle.errors import CatalogError
from training.fit import FitSettings, Vectors, fit_fusion, present_logits

FOLDS = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Suspicions:
    """The verdict on N labelled products. `judged_N` says of whom there is one (a vector was there).

    `suggested_N` is the category that the product confidently counts for, the label itself where none;
    `margin_N` its probability less the label's, which ranks what to look at first. `noise` is the estimated
    share of judged products with a wrong label.
    """

    judged_N: np.ndarray
    suggested_N: np.ndarray
    label_probability_N: np.ndarray
    suggested_probability_N: np.ndarray
    noise: float

    @property
    def margin_N(self) -> np.ndarray:  # noqa: N802 - the shape
        margin_N: np.ndarray = self.suggested_probability_N - self.label_probability_N
        return margin_N

    def ranked(self, label_N: np.ndarray) -> np.ndarray:
        """Positions of products with a suspected label, the likeliest mistakes first."""
        suspected = np.flatnonzero(self.judged_N & (self.suggested_N != label_N))
        ranked: np.ndarray = suspected[np.argsort(-self.margin_N[suspected], kind="stable")]
        return ranked


def find_label_noise(
    vectors: Vectors, group_N: np.ndarray, own_N: np.ndarray, settings: FitSettings, *, classes: int
) -> Suspicions:
    """Judge every label. `group_N` is what variants of one product share, `own_N` who trained the image
    encoder. Raises CatalogError with fewer than FOLDS groups."""
    vectors = vectors.without_images(own_N)
    probabilities_NC, judged_N = out_of_fold(vectors, group_N, settings, classes=classes)
    suggested_N, noise = confident_joint(probabilities_NC[judged_N], vectors.label_N[judged_N])
    suggestion_N = vectors.label_N.copy()
    suggestion_N[judged_N] = suggested_N
    row_N = np.arange(len(vectors))
    return Suspicions(
        judged_N=judged_N,
        suggested_N=suggestion_N,
        label_probability_N=probabilities_NC[row_N, vectors.label_N],
        suggested_probability_N=probabilities_NC[row_N, suggestion_N],
        noise=noise,
    )


def fold_of(group_N: np.ndarray) -> np.ndarray:
    """The fold of each product [N], the same for its variants."""
    _, group_N = np.unique(group_N, return_inverse=True)
    groups = int(group_N.max()) + 1 if len(group_N) else 0
    if groups < FOLDS:
        raise CatalogError(f"label noise: found {groups} products with a vector, wanted {FOLDS} or more")
    fold_N: np.ndarray = np.random.default_rng(27).permutation(groups)[group_N] % FOLDS
    return fold_N


def out_of_fold(
    vectors: Vectors, group_N: np.ndarray, settings: FitSettings, *, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities [N, C] by heads that know neither a product nor its variants, and who has
    any: bool [N]. The fold after the judged one stops the head's training and sets its temperature."""
    judged_N = np.asarray(vectors.present_N2.any(axis=1))
    fold_N = np.full(len(vectors), -1)
    fold_N[judged_N] = fold_of(group_N[judged_N])
    probabilities_NC = np.zeros((len(vectors), classes), dtype=np.float32)
    for fold in range(FOLDS):
        judged, stops = fold_N == fold, fold_N == (fold + 1) % FOLDS
        validation = vectors.rows(stops)
        fusion, _ = fit_fusion(
            vectors.rows((fold_N >= 0) & ~judged & ~stops), validation, settings, classes=classes
        )
        one = one_a_group(group_N[stops])
        temperature = fit_temperature(present_logits(fusion, validation)[one], validation.label_N[one])
        logits_BC = present_logits(fusion, vectors.rows(judged)) / temperature
        probabilities_NC[judged] = softmax(logits_BC, axis=1)
    return probabilities_NC, judged_N


def confident_joint(probabilities_BC: np.ndarray, label_B: np.ndarray) -> tuple[np.ndarray, float]:
    """(the category that each product confidently counts for [B], the estimated share of wrong labels).

    A product counts for a category when its probability is at least the mean probability of that category
    among the products that bear it, and for the likeliest of several such (section 3.1 of the paper); one
    that counts for none keeps its label. The share is taken from the joint of (label, counted for), scaled
    to the number of products that bear each label.
    """
    classes = probabilities_BC.shape[1]
    count_C = np.bincount(label_B, minlength=classes)
    own_B = probabilities_BC[np.arange(len(label_B)), label_B].astype(np.float64)
    threshold_C = np.bincount(label_B, weights=own_B, minlength=classes) / np.maximum(count_C, 1)
    threshold_C[count_C == 0] = np.inf  # nobody bears it: nothing says how sure is sure
    confident_BC = probabilities_BC >= threshold_C
    confident_B = confident_BC.any(axis=1)
    likeliest_B = np.where(confident_BC, probabilities_BC, -1.0).argmax(axis=1)
    counted_B = np.where(confident_B, likeliest_B, label_B)
    joint_CC = np.zeros((classes, classes))
    np.add.at(joint_CC, (label_B[confident_B], counted_B[confident_B]), 1)
    row_C = joint_CC.sum(axis=1)
    right_C = np.where(row_C > 0, np.diag(joint_CC) / np.maximum(row_C, 1), 1.0)
    noise = float(((1 - right_C) * count_C).sum() / max(len(label_B), 1))
    return counted_B, noise
