"""A share of products that may be variants of one another, and where the true one lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aisle.wilson import wilson


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many of how many, and where the true share lies with 95 % confidence."""

    hits: int
    products: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.hits / self.products if self.products else 0.0


def share_of(hit_N: np.ndarray, group_N: np.ndarray) -> Share:
    """The share of hits with Wilson's interval (1927). Variants of one product, whose `group_N` is equal, are
    right or wrong together, so they are counted as if they told one thing (Kish's effective sample size,
    (sum m)^2 / sum m^2 of group sizes m): the interval is rather too wide than too narrow."""
    products, hits = len(hit_N), int(hit_N.sum())
    if not products:
        return Share(hits=0, products=0, low=0.0, high=1.0)
    _, sizes = np.unique(group_N, return_counts=True)
    effective = products**2 / float((sizes.astype(float) ** 2).sum())
    low, high = wilson(hits * effective / products, effective)
    return Share(hits=hits, products=products, low=low, high=high)
