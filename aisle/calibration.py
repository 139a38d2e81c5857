"""From logits to probabilities that can be believed, and to a decision when to abstain.

Everything is fitted on held-out products, once for each pattern of present modalities: a network that
sees only a photo is less sure, and wrong more often, than one that sees both.
Shapes: P patterns, N products, B of them with a pattern's modalities, C categories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import binom

PATTERNS = ("both", "text", "image")  # which modalities are there
NEVER = 2.0  # an accept threshold that no confidence reaches
# A start with few products stops at its first errors, one with many at its whole error: try several.
_STARTS = (0.125, 0.25, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class PatternCalibration:
    """Temperature and accept threshold of one presence pattern.

    `threshold` is the least confidence that is accepted; NEVER where the held-out data could not
    show that any threshold keeps the target.
    """

    temperature: float
    threshold: float


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
            "patterns": {name: asdict(value) for name, value in self.patterns.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        patterns = {name: PatternCalibration(**data["patterns"][name]) for name in PATTERNS}
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
) -> Calibration:
    """Fit all patterns: temperatures on `tuned_on`, thresholds on `held_out`, whose products are variants
    of one another where `group_N` is equal.

    The test behind a threshold counts errors of independent products, in an order that no label decides.
    Variants err together, so one of each group stands for it, drawn by lot: the promise is for a product
    of any group, large or small. And a temperature, which is a label's doing, changes the order of
    products, so it comes from products that the threshold is not set on: those of early stopping, as in
    Guo et al. (2017).
    """
    patterns = {}
    for p, name in enumerate(PATTERNS):
        tuned = tuned_on.mask(p)
        temperature = fit_temperature(tuned_on.logits_PNC[p][tuned], tuned_on.label_N[tuned])
        rows = np.flatnonzero(held_out.mask(p))
        rows = rows[one_a_group(group_N[rows])]
        log_probability_BC = log_softmax(held_out.logits_PNC[p][rows] / temperature, axis=1)
        confidence_B = np.exp(log_probability_BC.max(axis=1))
        wrong_B = log_probability_BC.argmax(axis=1) != held_out.label_N[rows]
        threshold = accept_threshold(confidence_B, wrong_B, target_error=target_error, delta=delta)
        patterns[name] = PatternCalibration(temperature=temperature, threshold=threshold)
    return Calibration(target_error=target_error, delta=delta, patterns=patterns)


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
        scaled = log_softmax(logits_BC / np.exp(log_temperature), axis=1)
        return float(-scaled[np.arange(len(labels_B)), labels_B].mean())

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
