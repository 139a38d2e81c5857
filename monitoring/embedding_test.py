"""Has a cloud of embeddings moved? The maximum mean discrepancy (Gretton et al., JMLR 2012) between a
reference and a window, by Evidently's method, against its distribution when nothing moved.

Evidently's own threshold fits no window in particular, and its bootstrap has the quantile the wrong way
round, so the null distribution is made here: the reference is split at random, again and again, into a
part of the window's size and the rest. Times m n / (m + n), the discrepancy of m and n rows has one
distribution for all sizes, so one simulation serves windows that lack some rows.

Shapes: N reference rows, W window rows, D width, S splits.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
from scipy.stats import norm

REFERENCE_ROWS = 2_000  # of a larger reference, drawn at random: the kernel grows with the square
SPLITS = 20_000
_SPLITS_AT_ONCE = 2_000
# The simulation is asked for no p-value below this one: so many splits are needed to know it. Beyond it the
# discrepancy, a weighted sum of squared normals, falls at least as fast as one squared normal.
TAIL = 0.001


class EmbeddingTest:
    """`reference_ND` against windows of about `window` rows.

    Simulated when it is made: about 1 s for 2,000 rows. Reproducible from `seed`.
    """

    def __init__(self, reference_ND: np.ndarray, *, window: int, seed: int = 27) -> None:
        rng = np.random.default_rng(seed)
        if len(reference_ND) > REFERENCE_ROWS:
            reference_ND = reference_ND[rng.choice(len(reference_ND), REFERENCE_ROWS, replace=False)]
        self.reference_ND = np.asarray(reference_ND, dtype=np.float64)
        self.null_S = _simulated_null(self.reference_ND, window, rng)
        self._tail = float(np.quantile(self.null_S, 1 - TAIL))

    def __call__(self, window_WD: np.ndarray, level: float) -> tuple[float, float, float]:
        """(statistic, threshold, p-value). The statistic is Evidently's number."""
        statistic = evidently_mmd(window_WD, self.reference_ND)
        scale = _scale(len(window_WD), len(self.reference_ND))
        return statistic, self.quantile(level) / scale, self.p_value(statistic * scale)

    def p_value(self, scaled: float) -> float:
        """Of a scaled discrepancy: simulated, and beyond the tail that of a squared normal."""
        if scaled > self._tail:
            return float(2 * norm.sf(norm.isf(TAIL / 2) * (scaled / self._tail) ** 0.5))
        as_large = len(self.null_S) - np.searchsorted(self.null_S, scaled, side="left")
        return max(TAIL, float((1 + as_large) / (1 + len(self.null_S))))

    def quantile(self, level: float) -> float:
        """The scaled discrepancy whose p-value is `level`."""
        if level >= TAIL:
            return float(np.quantile(self.null_S, 1 - level))
        return float(self._tail * (norm.isf(level / 2) / norm.isf(TAIL / 2)) ** 2)


def evidently_mmd(window_WD: np.ndarray, reference_ND: np.ndarray) -> float:
    """The unbiased squared discrepancy with an RBF kernel of median width; 0 where it would be negative."""
    import pandas as pd
    from joblib import parallel_config

    # Frames of its own: some of Evidently's methods write into what they are given.
    window = pd.DataFrame(window_WD.astype(np.float64))
    reference = pd.DataFrame(reference_ND.astype(np.float64))
    # It asks for threads on all cores, and waits for them longer than the work takes.
    with parallel_config("sequential"):
        value, _, _ = _evidently_method()(window, reference)
    return float(value)


@functools.cache
def _evidently_method() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of what it imports
        # All of Evidently, whichever part is asked for: 5 s and 280 MB, so only once there is a window.
        from evidently.legacy.metrics.data_drift.embedding_drift_methods import MMDDriftMethod

    return MMDDriftMethod(bootstrap=False)


def _simulated_null(reference_ND: np.ndarray, window: int, rng: np.random.Generator) -> np.ndarray:
    """Scaled discrepancies [S] of random splits of the reference, ascending."""
    rows = len(reference_ND)
    inside = min(window, rows // 2)
    outside = rows - inside
    kernel_NN = rbf_kernel(reference_ND)
    statistics = []
    for count in [_SPLITS_AT_ONCE] * (SPLITS // _SPLITS_AT_ONCE):
        order_SN = rng.random((count, rows), dtype=np.float32).argpartition(inside, axis=1)
        inside_SN = np.zeros((count, rows), dtype=np.float32)
        np.put_along_axis(inside_SN, order_SN[:, :inside], 1.0, axis=1)
        statistics.append(split_discrepancies(kernel_NN, inside_SN))
    return np.sort(np.concatenate(statistics).astype(np.float64)) * _scale(inside, outside)


def split_discrepancies(kernel_NN: np.ndarray, inside_SN: np.ndarray) -> np.ndarray:
    """Unbiased squared discrepancies [S] between the rows where `inside_SN` is 1 and those where it is 0.
    Each row of it has as many ones."""
    kernel_NN = kernel_NN - kernel_NN.mean()  # changes no discrepancy, and float32 keeps more digits of it
    diagonal_N = np.diagonal(kernel_NN)
    row_sums_N = kernel_NN.sum(axis=1)
    inside = int(inside_SN[0].sum())
    outside = len(kernel_NN) - inside
    within_S = np.einsum("sn,sn->s", inside_SN @ kernel_NN, inside_SN)
    touching_S = inside_SN @ row_sums_N
    between_S = touching_S - within_S
    without_S = row_sums_N.sum() - 2 * touching_S + within_S
    diagonal_S = inside_SN @ diagonal_N
    discrepancy_S: np.ndarray = (
        (within_S - diagonal_S) / (inside * (inside - 1))
        + (without_S - (diagonal_N.sum() - diagonal_S)) / (outside * (outside - 1))
        - 2 * between_S / (inside * outside)
    )
    return discrepancy_S


def rbf_kernel(rows_ND: np.ndarray) -> np.ndarray:
    """[N, N] float32, as wide as the median distance."""
    squares_N = (rows_ND**2).sum(axis=1)
    distance_NN = np.maximum(squares_N[:, None] + squares_N[None] - 2 * rows_ND @ rows_ND.T, 0.0)
    np.fill_diagonal(distance_NN, 0.0)
    pairs = distance_NN[np.triu_indices(len(rows_ND), k=1)]
    width = float(np.median(np.sqrt(pairs))) ** 2
    kernel_NN: np.ndarray = np.exp(-distance_NN / max(width, 1e-12)).astype(np.float32)
    return kernel_NN


def _scale(one: int, other: int) -> float:
    return one * other / (one + other)
