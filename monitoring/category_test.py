"""Have the shares of categories moved? The chi-square test of homogeneity, both samples taken as samples.

Shapes: K categories.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2, chi2_contingency, hypergeom

LEAST_EXPECTED = 5  # products of a category expected in either sample; rarer ones are pooled


def category_test(reference_N: np.ndarray, window_W: np.ndarray, level: float) -> tuple[float, float, float]:
    """(statistic, threshold, p-value). Of two categories the p-value is exact, over all tables with these
    margins; of one there is nothing to tell: (0, the threshold of two, 1)."""
    counts_2K = _pooled(_counted(reference_N, window_W))
    if counts_2K.shape[1] == 1:
        return 0.0, float(chi2.isf(level, 1)), 1.0
    if counts_2K.shape[1] == 2:
        return _exact_2x2(counts_2K, level)
    statistic, p_value, freedom, _ = chi2_contingency(counts_2K, correction=False)
    return float(statistic), float(chi2.isf(level, freedom)), float(p_value)


def _counted(reference_N: np.ndarray, window_W: np.ndarray) -> np.ndarray:
    """Counts [2, K] of the K values that occur."""
    values, places = np.unique(np.concatenate([reference_N, window_W]), return_inverse=True)
    in_reference = places[: len(reference_N)]
    in_window = places[len(reference_N) :]
    return np.stack([np.bincount(part, minlength=len(values)) for part in (in_reference, in_window)])


def _pooled(counts_2K: np.ndarray) -> np.ndarray:
    """Merge the rarest categories, by both samples together, until each is expected often enough in both;
    two are always left where there were two."""
    counts_2K = counts_2K[:, np.argsort(-counts_2K.sum(axis=0), kind="stable")]
    smaller_share = counts_2K.sum(axis=1).min() / counts_2K.sum()
    while counts_2K.shape[1] > 2 and counts_2K[:, -1].sum() * smaller_share < LEAST_EXPECTED:
        merged_2 = counts_2K[:, -2:].sum(axis=1, keepdims=True)
        counts_2K = np.concatenate([counts_2K[:, :-2], merged_2], axis=1)
        counts_2K = counts_2K[:, np.argsort(-counts_2K.sum(axis=0), kind="stable")]
    return counts_2K


def _exact_2x2(counts_22: np.ndarray, level: float) -> tuple[float, float, float]:
    """Chi-square, with its exact distribution given the margins (Fisher's, ordered by chi-square)."""
    total = int(counts_22.sum())
    window, rare = int(counts_22[1].sum()), int(counts_22[:, 1].sum())
    possible = np.arange(max(0, window + rare - total), min(window, rare) + 1)
    chance = hypergeom.pmf(possible, total, rare, window)
    spread = window * rare * (total - window) * (total - rare) / total**3
    chi_square = (possible - window * rare / total) ** 2 / spread
    found = float(chi_square[possible == counts_22[1, 1]][0])
    p_values = np.array([chance[chi_square >= value * (1 - 1e-9)].sum() for value in chi_square])
    enough = chi_square[p_values <= level]
    # Where not even the rarest table would do, the threshold is out of reach.
    threshold = float(enough.min()) if len(enough) else 2 * float(chi_square.max())
    return found, threshold, float(min(1.0, chance[chi_square >= found * (1 - 1e-9)].sum()))
