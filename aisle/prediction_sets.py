"""Prediction sets: categories among which the true one is, as often as promised.

Regularised adaptive prediction sets (RAPS; Angelopoulos et al., 2021), one quantile a category
(class-conditional; Vovk, 2012): among the products of each category, a promised share has sets that hold it.
A category with too few held-out products for a quantile of its own shares one with all others like it
(clustered; Ding et al., 2023): the promise is then for those categories together. Nothing is drawn by lot,
so that a product is answered the same each time; sets are a little larger for it.
Shapes: B products, C categories.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

COVERAGE = 0.95
_PENALTIES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True, kw_only=True)
class SetRule:
    """Who is in a set: a category whose score is at most its `quantile`, and always the likeliest one.

    The score is the probability of it and of all likelier ones, and `penalty` for each rank below
    `free_ranks`.
    """

    coverage: float
    penalty: float
    free_ranks: int
    quantile: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SetRule:
        return cls(**{**data, "quantile": tuple(data["quantile"])})


def ranked_scores(
    sorted_BC: np.ndarray, penalty: np.ndarray | float, free_ranks: np.ndarray | int
) -> np.ndarray:
    """RAPS scores [B, C] of probabilities that stand in descending order in each row; `penalty` and
    `free_ranks` are numbers, or [B, 1]."""
    rank_C = np.arange(1, sorted_BC.shape[1] + 1)
    scores_BC: np.ndarray = np.cumsum(sorted_BC, axis=1) + penalty * np.maximum(rank_C - free_ranks, 0)
    return scores_BC


def least_products(coverage: float) -> int:
    """Of fewer products no finite quantile keeps the coverage."""
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def conformal_quantile(scores_B: np.ndarray, coverage: float) -> float:
    """The ceil((B + 1) coverage)-th smallest score. Needs `least_products` of them."""
    place = math.ceil((len(scores_B) + 1) * coverage - 1e-9)
    return float(np.sort(scores_B)[place - 1])


def fit_sets(
    tuned_BC: np.ndarray,
    tuned_label_B: np.ndarray,
    held_out_BC: np.ndarray,
    held_out_label_B: np.ndarray,
    *,
    coverage: float = COVERAGE,
) -> SetRule | None:
    """Penalty and free ranks for the smallest sets on the tuned products, quantiles from the held-out ones,
    which must be independent of one another. None with too few of either to promise anything.

    All are probabilities [B, C] and labels [B].
    """
    least = least_products(coverage)
    if min(len(tuned_label_B), len(held_out_label_B)) < least:
        return None
    free_ranks = _free_ranks(tuned_BC, tuned_label_B, coverage)
    penalty = min(_PENALTIES, key=lambda p: _mean_size(tuned_BC, tuned_label_B, p, free_ranks, coverage))
    scores_B = _true_scores(held_out_BC, held_out_label_B, penalty, free_ranks)
    quantile_C = _quantiles(scores_B, held_out_label_B, held_out_BC.shape[1], coverage)
    return SetRule(
        coverage=coverage, penalty=penalty, free_ranks=free_ranks, quantile=tuple(quantile_C.tolist())
    )


def _quantiles(scores_B: np.ndarray, label_B: np.ndarray, classes: int, coverage: float) -> np.ndarray:
    least = least_products(coverage)
    rare_C = np.bincount(label_B, minlength=classes) < least
    among_rare_B = rare_C[label_B]
    shared = scores_B[among_rare_B] if among_rare_B.sum() >= least else scores_B
    quantile_C = np.full(classes, conformal_quantile(shared, coverage))
    for c in np.flatnonzero(~rare_C):
        quantile_C[c] = conformal_quantile(scores_B[label_B == c], coverage)
    return quantile_C


def _free_ranks(probabilities_BC: np.ndarray, label_B: np.ndarray, coverage: float) -> int:
    """The rank that the true category has, or a better one, for a share `coverage` of products."""
    row_B = np.arange(len(label_B))
    own_B1 = probabilities_BC[row_B, label_B][:, None]
    return int(conformal_quantile(1 + (probabilities_BC > own_B1).sum(axis=1), coverage))


def _true_scores(
    probabilities_BC: np.ndarray, label_B: np.ndarray, penalty: float, free_ranks: int
) -> np.ndarray:
    order_BC = np.argsort(-probabilities_BC, axis=1, kind="stable")
    scores_BC = ranked_scores(np.take_along_axis(probabilities_BC, order_BC, axis=1), penalty, free_ranks)
    chosen: np.ndarray = scores_BC[order_BC == label_B[:, None]]
    return chosen


def _mean_size(
    probabilities_BC: np.ndarray, label_B: np.ndarray, penalty: float, free_ranks: int, coverage: float
) -> float:
    quantile = conformal_quantile(_true_scores(probabilities_BC, label_B, penalty, free_ranks), coverage)
    sorted_BC = -np.sort(-probabilities_BC, axis=1)
    inside_BC = ranked_scores(sorted_BC, penalty, free_ranks) <= quantile
    inside_BC[:, 0] = True
    return float(inside_BC.sum(axis=1).mean())
