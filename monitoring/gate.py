"""Is the challenger better? A paired comparison on fresh products and on the old test split.

Both models answer the same products, so the difference is taken product by product, and its uncertainty by
bootstrap over products (Efron and Tibshirani, 1993). Fresh products decide: labelled answers that no
training has seen. The test split, frozen, only guards against forgetting.

Shapes: N products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from aisle.errors import AisleError

RESAMPLES = 2_000
CONFIDENCE = 0.95  # one-sided, of the lower bound
LEAST_FRESH = 30  # products; with fewer nothing can be shown
LEAST_DISCORDANT = 8  # products that the two answer differently; a bootstrap of fewer is too sure of itself
MAY_LOSE = 0.005  # accuracy on the test split: half a point
SEED = 27


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Accuracies on one set of products; `difference` is challenger - champion, `low` its lower bound."""

    products: int
    champion: float
    challenger: float
    difference: float
    low: float
    discordant: int
    champion_macro_f1: float
    challenger_macro_f1: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.challenger:.3f} against {self.champion:.3f} on {self.products:,} products "
            f"(difference {self.difference:+.3f}, at least {self.low:+.3f})"
        )


@dataclass(frozen=True, kw_only=True)
class Decision:
    promoted: bool
    why: str
    fresh: Comparison
    frozen: Comparison


def decide(champion: pd.DataFrame, challenger: pd.DataFrame) -> Decision:
    """Judge two tables of answers (columns set, product_id, label, answer, correct) about the same
    products. Raises AisleError where they are not about the same."""
    fresh, frozen = (compare(champion, challenger, name) for name in ("fresh", "frozen"))
    if fresh.products < LEAST_FRESH:
        why = f"{fresh.products} fresh products are too few to show anything, wanted {LEAST_FRESH} or more"
    elif fresh.discordant < LEAST_DISCORDANT:
        why = f"on fresh products the two hardly differ: {fresh}"
    elif fresh.low <= 0:
        why = f"not shown to be better on fresh products: {fresh}"
    elif frozen.difference < -MAY_LOSE:
        why = f"better on fresh products ({fresh}), but worse on the test split: {frozen}"
    else:
        why = f"better on fresh products: {fresh}; on the test split {frozen}"
        return Decision(promoted=True, why=why, fresh=fresh, frozen=frozen)
    return Decision(promoted=False, why=why, fresh=fresh, frozen=frozen)


def compare(champion: pd.DataFrame, challenger: pd.DataFrame, name: str) -> Comparison:
    """The two on the set `name`. Raises AisleError where they did not answer the same products."""
    ours, theirs = (
        frame[frame.set == name].sort_values("product_id", ignore_index=True)
        for frame in (champion, challenger)
    )
    if not (ours.product_id.equals(theirs.product_id) and ours.label.equals(theirs.label)):
        raise AisleError(
            f"answers of the set {name}: found {len(ours):,} products of the champion and {len(theirs):,} of "
            "the challenger that are not the same, wanted the same products with the same labels"
        )
    difference_N = theirs.correct.to_numpy(dtype=float) - ours.correct.to_numpy(dtype=float)
    return Comparison(
        products=len(ours),
        champion=_mean(ours.correct.to_numpy(dtype=float)),
        challenger=_mean(theirs.correct.to_numpy(dtype=float)),
        difference=_mean(difference_N),
        low=lower_bound(difference_N),
        discordant=int((difference_N != 0).sum()),
        champion_macro_f1=_macro_f1(ours),
        challenger_macro_f1=_macro_f1(theirs),
    )


def lower_bound(difference_N: np.ndarray, seed: int = SEED) -> float:
    """What the mean difference is at least, with CONFIDENCE; differences are -1, 0 or 1. 0.0 without any."""
    count = len(difference_N)
    if count == 0:
        return 0.0
    shares = [(difference_N == value).mean() for value in (-1.0, 0.0, 1.0)]
    # Resampling N products of three kinds is one multinomial draw.
    drawn = np.random.default_rng(seed).multinomial(count, shares, size=RESAMPLES)
    return float(np.quantile((drawn[:, 2] - drawn[:, 0]) / count, 1 - CONFIDENCE))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0


def _macro_f1(answers: pd.DataFrame) -> float:
    if answers.empty:
        return 0.0
    labels = sorted(set(answers.label))
    return float(f1_score(answers.label, answers.answer, labels=labels, average="macro", zero_division=0))


def figures(decision: Decision) -> Mapping[str, Any]:
    """For the ledger."""
    return {"fresh": decision.fresh.to_json(), "frozen": decision.frozen.to_json()}
