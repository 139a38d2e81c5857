"""How far confidences can be believed, and what answering only the sure ones costs.

Reliability: is a product that is answered with 0.8 right in 80 % of cases (Guo et al., 2017)? Risk and
coverage: how large is the error among the most confident share of products (El-Yaniv and Wiener, 2010; AURC
by Geifman et al., 2019)? Products of equal confidence are accepted together or not at all, as a threshold
does it, so in which order they stand changes nothing. Shapes: N products, K different confidences.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from training.share import share_of

BINS = 15
POINTS = 200  # of a curve that is kept or drawn, at most


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Products whose confidence lies in [start, stop), the last bin's with 1: how sure they are on average,
    how many are right, and the 95 % interval of that, `low` to `high`."""

    start: float
    stop: float
    products: int
    confidence: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class RiskCoverage:
    """`risk` is the error among the most confident share `coverage` of products, a point for each confidence
    that occurs [K]. `aurc` is the area below the curve, each product a step; `aurc_best` that of one which
    has every error last: what no confidence can better. Both are of all points, also where few are kept."""

    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    aurc: float
    aurc_best: float

    def risk_at(self, coverage: float) -> float:
        """The error when at least this share is accepted."""
        place = int(np.searchsorted(self.coverage, coverage - 1e-9))
        return self.risk[min(place, len(self.risk) - 1)]

    def thinned(self, most: int = POINTS) -> RiskCoverage:
        """The curve by at most `most` of its points, evenly spread, the first and the last among them."""
        points = len(self.risk)
        kept = np.unique(np.linspace(0, points - 1, min(most, points)).round().astype(int))
        return replace(
            self,
            coverage=tuple(self.coverage[at] for at in kept),
            risk=tuple(self.risk[at] for at in kept),
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def reliability(
    confidence_N: np.ndarray, correct_N: np.ndarray, group_N: np.ndarray | None = None, bins: int = BINS
) -> list[Bin]:
    """Those of `bins` equally wide bins that hold a product, in order. `group_N` is equal where products are
    variants of one another, which widens the intervals (`share_of`); without it each stands for itself."""
    group_N = np.arange(len(confidence_N)) if group_N is None else group_N
    place_N = np.clip((confidence_N * bins).astype(int), 0, bins - 1)
    found = []
    for b in np.unique(place_N):
        inside = place_N == b
        right = share_of(correct_N[inside], group_N[inside])
        found.append(
            Bin(
                start=float(b / bins),
                stop=float((b + 1) / bins),
                products=right.products,
                confidence=float(confidence_N[inside].mean()),
                accuracy=right.value,
                low=right.low,
                high=right.high,
            )
        )
    return found


def risk_coverage(confidence_N: np.ndarray, correct_N: np.ndarray) -> RiskCoverage:
    """The curve from the most confident products to all of them (at least one)."""
    products = len(confidence_N)
    wrong_N = ~np.asarray(correct_N, dtype=bool)
    _, place_N, size_K = np.unique(-confidence_N, return_inverse=True, return_counts=True)
    taken_K = np.cumsum(size_K)
    risk_K = np.cumsum(np.bincount(place_N, weights=wrong_N)) / taken_K
    return RiskCoverage(
        coverage=tuple((taken_K / products).tolist()),
        risk=tuple(risk_K.tolist()),
        aurc=float((risk_K * size_K).sum() / products),
        aurc_best=float((np.cumsum(np.sort(wrong_N)) / np.arange(1, products + 1)).mean()),
    )
