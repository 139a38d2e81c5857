"""From logits to probabilities that can be believed, and to a decision when to abstain.

Everything is fitted on held-out products, once for each pattern of present modalities: a network that
sees only a photo is less sure, and wrong more often, than one that sees both.
Shapes: P patterns, N products, B of them with a pattern's modalities, C categories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binom, t

from aisle.prediction_sets import SetRule, fit_sets
from aisle.vector_scaling import VectorScaling, fit_vector_scaling

PATTERNS = ("both", "text", "image")  # which modalities are there
NEVER = 2.0  # an accept threshold that no confidence reaches
# A start with few products stops at its first errors, one with many at its whole error: try several.
_STARTS = (0.125, 0.25, 0.5, 1.0)
_FOLDS = 5
# Of taking vector scaling where it is no better than a temperature. Small, because products that stopped the
# training tell a little too well: at 5 % it was taken for texts of the demo, and was worse on other products.
_CHANCE = 0.005


@dataclass(frozen=True, kw_only=True)
class PatternCalibration:
    """Scaling, accept threshold and prediction sets of one presence pattern.

    `threshold` is the least confidence that is accepted; NEVER where the held-out data could not
    show that any threshold keeps the target. `vector` is None where it was not shown to be better than the
    temperature alone, `sets` where there were too few products for any.
    """

    temperature: float
    threshold: float
    vector: VectorScaling | None = None
    sets: SetRule | None = None

    def scale(self, logits_BC: np.ndarray) -> np.ndarray:
        """Logits whose softmax is calibrated."""
        scaled_BC: np.ndarray = logits_BC / np.float32(self.temperature)
        return scaled_BC if self.vector is None else self.vector.apply(scaled_BC).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Without what is None: a bundle of before, which has neither, reads the same."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PatternCalibration:
        vector, sets = data.get("vector"), data.get("sets")
        return cls(
            temperature=data["temperature"],
            threshold=data["threshold"],
            vector=VectorScaling(scale=tuple(vector["scale"]), bias=tuple(vector["bias"]))
            if vector
            else None,
            sets=SetRule.from_json(sets) if sets else None,
        )


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Calibration of all three patterns, the error target and the confidence it holds with."""

    target_error: float
    delta: float
    patterns: Mapping[str, PatternCalibration]

    def to_json(self) -> dict[str, Any]:
        return {
            "target_error": self.target_error,
            "delta": self.delta,
            "patterns": {name: value.to_json() for name, value in self.patterns.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        patterns = {name: PatternCalibration.from_json(data["patterns"][name]) for name in PATTERNS}
        return cls(target_error=data["target_error"], delta=data["delta"], patterns=patterns)


def pattern_index(present_B2: np.ndarray) -> np.ndarray:
    """Index into PATTERNS for each row of presence bits; -1 where neither modality is there."""
    has_text_B, has_image_B = present_B2[:, 0] > 0, present_B2[:, 1] > 0
    return np.select([has_text_B & has_image_B, has_text_B, has_image_B], [0, 1, 2], default=-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What a network says of labelled products: logits [P, N, C] by PATTERNS, which modalities the products
    have [N, 2], and their labels [N]."""

    logits_PNC: np.ndarray
    present_N2: np.ndarray
    label_N: np.ndarray

    def mask(self, pattern: int) -> np.ndarray:
        """Bool [N]: the products that can be seen so. One with both modalities is seen in all three ways."""
        has_text, has_image = self.present_N2[:, 0] > 0, self.present_N2[:, 1] > 0
        return (has_text & has_image, has_text, has_image)[pattern]


def calibrate(
    tuned_on: Answers,
    held_out: Answers,
    group_N: np.ndarray,
    *,
    target_error: float,
    delta: float = 0.05,
    tuned_group_N: np.ndarray | None = None,
) -> Calibration:
    """Fit all patterns: scalings on `tuned_on`, thresholds and sets on `held_out`, whose products are
    variants of one another where `group_N` is equal (`tuned_group_N` for `tuned_on`; None: each stands
    alone).

    The test behind a threshold counts errors of independent products, in an order that no label decides.
    Variants err together, so one of each group stands for it, drawn by lot: the promise is for a product
    of any group, large or small. And a scaling, which is a label's doing, changes the order of
    products, so it comes from products that the threshold is not set on: those of early stopping, as in
    Guo et al. (2017).
    """
    if tuned_group_N is None:
        tuned_group_N = np.arange(len(tuned_on.label_N))
    patterns = {}
    for p, name in enumerate(PATTERNS):
        tuned = np.flatnonzero(tuned_on.mask(p))
        tuned_BC, tuned_label_B = tuned_on.logits_PNC[p][tuned], tuned_on.label_N[tuned]
        scaling = fit_scaling(tuned_BC, tuned_label_B, tuned_group_N[tuned])
        rows = np.flatnonzero(held_out.mask(p))
        rows = rows[one_a_group(group_N[rows])]
        probability_BC = softmax(scaling.scale(held_out.logits_PNC[p][rows]), axis=1)
        label_B = held_out.label_N[rows]
        threshold = accept_threshold(
            probability_BC.max(axis=1),
            probability_BC.argmax(axis=1) != label_B,
            target_error=target_error,
            delta=delta,
        )
        sets = fit_sets(softmax(scaling.scale(tuned_BC), axis=1), tuned_label_B, probability_BC, label_B)
        patterns[name] = replace(scaling, threshold=threshold, sets=sets)
    return Calibration(target_error=target_error, delta=delta, patterns=patterns)


def fit_scaling(logits_BC: np.ndarray, labels_B: np.ndarray, group_B: np.ndarray) -> PatternCalibration:
    """A temperature, and vector scaling on top where its log-loss is lower by more than chance; the
    threshold is NEVER still."""
    temperature = fit_temperature(logits_BC, labels_B)
    vector = None
    if vector_is_better(logits_BC, labels_B, group_B):
        vector = fit_vector_scaling(logits_BC / temperature, labels_B)
    return PatternCalibration(temperature=temperature, threshold=NEVER, vector=vector)


def vector_is_better(logits_BC: np.ndarray, labels_B: np.ndarray, group_B: np.ndarray) -> bool:
    """Whether vector scaling has the lower log-loss on products that it was not fitted on, by a one-sided t
    test at 0.5 %: five folds of whole groups, differences taken product by product and summed by group,
    because variants of one product say the same thing twice."""
    _, group_B = np.unique(group_B, return_inverse=True)
    groups = int(group_B.max()) + 1 if len(group_B) else 0
    if groups < max(2 * _FOLDS, logits_BC.shape[1]):
        return False  # fewer products than categories: most of its numbers would be the prior's
    fold_B = np.random.default_rng(27).permutation(groups)[group_B] % _FOLDS
    gain_B = np.zeros(len(labels_B))
    for fold in range(_FOLDS):
        fitted, judged = fold_B != fold, fold_B == fold
        temperature = fit_temperature(logits_BC[fitted], labels_B[fitted])
        vector = fit_vector_scaling(logits_BC[fitted] / temperature, labels_B[fitted])
        plain_BC = logits_BC[judged] / temperature
        gain_B[judged] = _losses(plain_BC, labels_B[judged]) - _losses(
            vector.apply(plain_BC), labels_B[judged]
        )
    gain_G = np.bincount(group_B, weights=gain_B)
    error = gain_G.std(ddof=1) / np.sqrt(groups)
    return bool(gain_G.mean() > t.ppf(1 - _CHANCE, groups - 1) * error)


def _losses(logits_BC: np.ndarray, labels_B: np.ndarray) -> np.ndarray:
    losses_B: np.ndarray = -log_softmax(logits_BC, axis=1)[np.arange(len(labels_B)), labels_B]
    return losses_B


def one_a_group(group_N: np.ndarray) -> np.ndarray:
    """Positions of one product of each group, sorted; which one is drawn by lot, the same lot each time
    (the first of a group is often its best described)."""
    lot = np.random.default_rng(27).permutation(len(group_N))
    _, first = np.unique(np.asarray(group_N)[lot], return_index=True)
    positions: np.ndarray = np.sort(lot[first])
    return positions


def fit_temperature(logits_BC: np.ndarray, labels_B: np.ndarray) -> float:
    """The temperature in [0.05, 20] of least log-loss (Guo et al., 2017); 1.0 without products."""
    if len(labels_B) == 0:
        return 1.0

    def log_loss(log_temperature: float) -> float:
        return float(_losses(logits_BC / np.exp(log_temperature), labels_B).mean())

    found = minimize_scalar(log_loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def accept_threshold(
    confidence_B: np.ndarray, wrong_B: np.ndarray, *, target_error: float, delta: float
) -> float:
    """The least confidence to accept so that, with probability 1 - delta, the error among accepted
    products is at most `target_error`. NEVER where no threshold can be shown to keep it. The products
    must be independent of one another, and their confidences of their labels.

    Learn-then-Test by fixed-sequence testing with several starts (Angelopoulos et al., 2021): from each
    start, thresholds are tried from the stricter to the looser, each by an exact binomial test of "the
    error is above the target" at delta / starts, until one fails. The starts are shares of the
    products; they and the order depend on confidences only, never on which answers were wrong, so no
    correction for the many thresholds is needed.
    """
    order = np.argsort(-confidence_B, kind="stable")
    sorted_confidence, errors = confidence_B[order], np.cumsum(wrong_B[order])
    # Equal confidences are accepted together: a step ends where the next confidence is lower.
    steps = np.flatnonzero(np.diff(sorted_confidence, append=-1.0) < 0) + 1
    holds = binom.cdf(errors[steps - 1], steps, target_error) <= delta / len(_STARTS)
    loosest = 0  # how many products the best sequence accepts
    for share in _STARTS:
        first = int(np.searchsorted(steps, share * len(order)))
        failures = np.flatnonzero(~holds[first:])
        last = first + (int(failures[0]) if len(failures) else len(steps) - first) - 1
        if last >= first:
            loosest = max(loosest, int(steps[last]))
    return float(sorted_confidence[loosest - 1]) if loosest else NEVER


def expected_calibration_error(confidence_B: np.ndarray, correct_B: np.ndarray, bins: int = 15) -> float:
    """ECE in [0, 1] over `bins` equal-width bins (Naeini et al., 2015)."""
    if len(confidence_B) == 0:
        return 0.0
    edges = np.clip((confidence_B * bins).astype(int), 0, bins - 1)
    total = 0.0
    for b in range(bins):
        inside = edges == b
        if inside.any():
            total += inside.mean() * abs(confidence_B[inside].mean() - correct_B[inside].mean())
    return float(total)
