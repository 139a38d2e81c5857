"""From calibrated probabilities to decisions, a batch at a time: who is likeliest, who is accepted, who is in
the prediction set. Answers are made of these arrays one by one; bulk scoring reads them as they are.

Shapes: B products, C categories, P = 3 presence patterns (both, text alone, image alone).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aisle.calibration import PATTERNS, Calibration
from aisle.prediction_sets import ranked_scores


@dataclass(frozen=True, kw_only=True, eq=False)
class Decisions:
    """A batch's decisions. Rows that are not `answerable` hold nothing that is meant.

    `order_BC` are category indices, likeliest first, `probability_BC` theirs; `inside_BC` says in that
    order who is in the prediction set, where `coverage_B` is above 0. `alone_2B` and
    `alone_probability_2B` are what text and image say alone, meant where `present`. `pattern_B` is an index
    into PATTERNS, -1 without a modality.
    """

    pattern_B: np.ndarray
    finite_B: np.ndarray
    order_BC: np.ndarray
    probability_BC: np.ndarray
    accepted_B: np.ndarray
    inside_BC: np.ndarray
    coverage_B: np.ndarray
    alone_2B: np.ndarray
    alone_probability_2B: np.ndarray

    @property
    def answerable(self) -> np.ndarray:
        """Bool [B]."""
        answerable: np.ndarray = (self.pattern_B >= 0) & self.finite_B
        return answerable

    @property
    def present(self) -> np.ndarray:
        """Bool [2, B]: where text, and where the image, is there."""
        both_B = self.pattern_B == 0
        return np.stack([both_B | (self.pattern_B == 1), both_B | (self.pattern_B == 2)])

    def __len__(self) -> int:
        return len(self.pattern_B)


class Decider:
    """The thresholds and set rules of a calibration, as arrays over its patterns."""

    def __init__(self, calibration: Calibration, classes: int) -> None:
        patterns = [calibration.patterns[name] for name in PATTERNS]
        self._threshold_P = np.array([p.threshold for p in patterns], dtype=np.float32)
        rules = [p.sets for p in patterns]
        self._coverage_P = np.array([r.coverage if r else 0.0 for r in rules])
        self._penalty_P = np.array([r.penalty if r else 0.0 for r in rules])
        self._free_ranks_P = np.array([r.free_ranks if r else 0 for r in rules])
        self._quantile_PC = np.array([r.quantile if r else (0.0,) * classes for r in rules])

    def decide(self, probabilities_PBC: np.ndarray, pattern_B: np.ndarray) -> Decisions:
        """`pattern_B` says which of the three answers is each product's own."""
        row_B, own_B = np.arange(len(pattern_B)), pattern_B.clip(min=0)
        chosen_BC = probabilities_PBC[own_B, row_B]
        # A stable sort, so that ties fall the same way whatever the batch.
        order_BC = np.argsort(-chosen_BC, axis=1, kind="stable")
        sorted_BC = np.take_along_axis(chosen_BC, order_BC, axis=1)
        alone_2B = probabilities_PBC[1:].argmax(axis=2)
        return Decisions(
            pattern_B=pattern_B,
            finite_B=np.isfinite(chosen_BC).all(axis=1),
            order_BC=order_BC,
            probability_BC=sorted_BC,
            accepted_B=sorted_BC[:, 0] >= self._threshold_P[own_B],
            inside_BC=self._inside(sorted_BC, order_BC, own_B),
            coverage_B=self._coverage_P[own_B],
            alone_2B=alone_2B,
            alone_probability_2B=np.take_along_axis(probabilities_PBC[1:], alone_2B[:, :, None], axis=2)[
                :, :, 0
            ],
        )

    def _inside(self, sorted_BC: np.ndarray, order_BC: np.ndarray, own_B: np.ndarray) -> np.ndarray:
        if not self._coverage_P.any():
            return np.zeros(sorted_BC.shape, dtype=bool)
        penalty_B1, free_B1 = self._penalty_P[own_B][:, None], self._free_ranks_P[own_B][:, None]
        scores_BC = ranked_scores(sorted_BC, penalty_B1, free_B1)
        inside_BC: np.ndarray = scores_BC <= np.take_along_axis(self._quantile_PC[own_B], order_BC, axis=1)
        inside_BC[:, 0] = True
        return inside_BC
