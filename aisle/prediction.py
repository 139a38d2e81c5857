"""What Aisle answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from aisle.taxonomy import Category

DEFAULT_TOP_K = 5  # candidates of an answer, where nobody asks for another number


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
class Neighbour:
    """A training product near to the one that was asked for: its id, its label, and how near, in [-1, 1]."""

    product_id: str
    category: Category
    similarity: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Why a product was answered so.

    `text_bits` and `image_bits` are what each part added to the probability of the answer: one bit doubles
    it, a negative one spoke against it. Together they lead from "any category alike" to the confidence. None
    where the part is absent. `neighbours` are the nearest training products, nearest first.
    """

    text_bits: float | None
    image_bits: float | None
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The answer for one product.

    `confidence` is the calibrated probability of `category`; `accepted` is True when it passes the
    threshold chosen on held-out data for the target error. `top` is sorted, best first. `text_only`
    and `image_only` are what each modality says alone (None where it is absent). `prediction_set` is None
    where the bundle promises none, `explanation` where none was asked for.
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
    explanation: Explanation | None = None
