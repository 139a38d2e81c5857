"""Has the distribution of a number moved? The two-sample Kolmogorov-Smirnov test."""

from __future__ import annotations

import functools

import numpy as np
from scipy.stats import ks_2samp, kstwo


def number_test(reference_N: np.ndarray, window_W: np.ndarray, level: float) -> tuple[float, float, float]:
    """(statistic, threshold, p-value): the largest distance between the two distribution functions, in
    [0, 1]. With ties (pixels, lengths) the test is conservative."""
    # The exact p-value takes seconds for a large reference; this one errs on the side of no alarm.
    found = ks_2samp(reference_N, window_W, method="asymp")
    effective = round(len(reference_N) * len(window_W) / (len(reference_N) + len(window_W)))
    return float(found.statistic), _threshold(level, effective), float(found.pvalue)


@functools.cache
def _threshold(level: float, effective: int) -> float:
    return float(kstwo.isf(level, effective))  # 20 ms
