"""What Aisle answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from aisle.taxonomy import Category


class Source(StrEnum):
    """Where the vector of a modality came from."""

    STORED = "stored"  # read from the feature store
    COMPUTED = "computed"  # encoded for this answer
    ABSENT = "absent"  # the product has no such part


class Role(StrEnum):
    """As what a model answered."""

    CHAMPION = "champion"
    CANARY = "canary"  # a challenger, to the client
    SHADOW = "shadow"  # a challenger, to nobody


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A category and its calibrated probability, in [0, 1]."""

    category: Category
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionSet:
    """Category codes, likeliest first, that hold the true one with probability `coverage`, whatever the
    product's category (aisle/prediction_sets.py)."""

    codes: tuple[str, ...]
    coverage: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The answer for one product.

    `confidence` is the calibrated probability of `category`; `accepted` is True when it passes the
    threshold chosen on held-out data for the target error. `top` is sorted, best first. `text_only`
    and `image_only` are what each modality says alone (None where it is absent). `prediction_set` is None
    where the bundle promises none.
    """

    category: Category
    confidence: float
    accepted: bool
    top: tuple[Candidate, ...]
    text_only: Candidate | None
    image_only: Candidate | None
    text_source: Source
    image_source: Source
    prediction_set: PredictionSet | None = None
