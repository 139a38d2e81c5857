"""How far confidences can be believed, and what answering only the sure ones costs.

Reliability: is a product that is answered with 0.8 right in 80 % of cases (Guo et al., 2017)? Risk and
coverage: how large is the error among the most confident share of products (El-Yaniv and Wiener, 2010; AURC
by Geifman et al., 2019)? Shapes: N products.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from aisle.wilson import wilson

BINS = 15
POINTS = 200  # of a risk-coverage curve, at most


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Products whose confidence lies in [low, high); `low` and `high` bound the accuracy: a 95 % Wilson
    interval."""

    start: float
    stop: float
    products: int
    confidence: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class RiskCoverage:
    """`risk` is the error among the most confident share `coverage` of products. `aurc` is the area below the
    whole curve, `aurc_best` of one that has every error last: what no confidence can better."""

    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    aurc: float
    aurc_best: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def reliability(confidence_N: np.ndarray, correct_N: np.ndarray, bins: int = BINS) -> list[Bin]:
    """The bins of equal width that hold a product, in order."""
    place_N = np.clip((confidence_N * bins).astype(int), 0, bins - 1)
    found = []
    for b in np.unique(place_N):
        inside = place_N == b
        low, high = wilson(int(correct_N[inside].sum()), int(inside.sum()))
        found.append(
            Bin(
                start=b / bins,
                stop=(b + 1) / bins,
                products=int(inside.sum()),
                confidence=float(confidence_N[inside].mean()),
                accuracy=float(correct_N[inside].mean()),
                low=low,
                high=high,
            )
        )
    return found


def risk_coverage(confidence_N: np.ndarray, correct_N: np.ndarray) -> RiskCoverage:
    """The curve from the most confident product to all of them. Products of equal confidence are taken
    together: which of them comes first is nobody's merit."""
    products = len(confidence_N)
    order = np.argsort(-confidence_N, kind="stable")
    sorted_N, wrong_N = confidence_N[order], ~np.asarray(correct_N, dtype=bool)[order]
    _, place_N, size_G = np.unique(-sorted_N, return_inverse=True, return_counts=True)
    share_N = (np.bincount(place_N, weights=wrong_N) / size_G)[place_N]
    taken_N = np.arange(1, products + 1)
    risk_N = np.cumsum(share_N) / taken_N
    shown = np.unique(np.linspace(0, products - 1, min(POINTS, products)).round().astype(int))
    return RiskCoverage(
        coverage=tuple((taken_N[shown] / products).tolist()),
        risk=tuple(risk_N[shown].tolist()),
        aurc=float(risk_N.mean()),
        aurc_best=float((np.cumsum(np.sort(wrong_N)) / taken_N).mean()),
    )
