"""How sure a share is (Wilson, 1927)."""

from __future__ import annotations

import math

_Z = 1.959964  # two-sided, 95 %


def wilson(hits: float, of: float) -> tuple[float, float]:
    """Bounds of a share, in [0, 1], that hold the true one with 95 % confidence: good for few trials and for
    shares near 0 and 1. Whole numbers, or effective sizes; `of` is more than 0."""
    share, weight = hits / of, _Z**2 / of
    middle = (share + weight / 2) / (1 + weight)
    half = _Z * math.sqrt(share * (1 - share) / of + weight / (4 * of)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)
