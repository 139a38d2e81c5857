"""The test split, product by product: what was answered, how surely, and whether it was right.

Shapes: N products, C categories, B bins, K points of a curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from aisle.classifier import Classifier
from aisle.errors import AisleError
from aisle.prediction import Prediction
from aisle.wilson import wilson
from training.evaluation import embedded_of
from training.fit import Vectors

NONE = -1  # the answer of a modality that a product has not


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdicts:
    """Answers of a classifier about labelled products, all arrays [N]: labels and answers as columns of its
    taxonomy, confidences in [0, 1], groups (variants of one product share one). `text_answer_N` and
    `image_answer_N` are what each modality says alone, NONE where it is absent."""

    label_N: np.ndarray
    answer_N: np.ndarray
    confidence_N: np.ndarray
    accepted_N: np.ndarray
    text_answer_N: np.ndarray
    image_answer_N: np.ndarray
    group_N: np.ndarray

    def __len__(self) -> int:
        return len(self.label_N)

    @property
    def correct_N(self) -> np.ndarray:  # noqa: N802  # a shape suffix
        correct: np.ndarray = self.answer_N == self.label_N
        return correct

    def rows(self, index: np.ndarray) -> Verdicts:
        """The products at `index` (positions or a mask)."""
        return Verdicts(**{item.name: getattr(self, item.name)[index] for item in fields(self)})

    def confusion(self, classes: int) -> np.ndarray:
        """Products [C, C] by label (rows) and answer (columns)."""
        places = self.label_N * classes + self.answer_N
        counts: np.ndarray = np.bincount(places, minlength=classes**2).reshape(classes, classes)
        return counts

    def worst(self, most: int) -> np.ndarray:
        """Positions of the wrong answers, the surest first."""
        wrong = np.flatnonzero(~self.correct_N)
        return wrong[np.argsort(-self.confidence_N[wrong], kind="stable")][:most]


def judge(classifier: Classifier, vectors: Vectors, group_N: np.ndarray) -> Verdicts:
    """What `classifier` answers about products that have a vector; it is asked as the service asks it."""
    answers = [_answered(answer) for answer in classifier.decide(embedded_of(vectors), top_k=1)]
    codes = classifier.taxonomy
    alone = [(a.text_only, a.image_only) for a in answers]
    text, image = (
        np.array([codes.index(c.category.code) if c else NONE for c in column], dtype=np.int64)
        for column in (zip(*alone, strict=True) if alone else ((), ()))
    )
    return Verdicts(
        label_N=vectors.label_N,
        answer_N=np.array([codes.index(a.category.code) for a in answers], dtype=np.int64),
        confidence_N=np.array([a.confidence for a in answers]),
        accepted_N=np.array([a.accepted for a in answers], dtype=bool),
        text_answer_N=text,
        image_answer_N=image,
        group_N=group_N,
    )


def _answered(answer: object) -> Prediction:
    if isinstance(answer, Prediction):
        return answer
    raise AisleError(f"report: a test product could not be classified: {answer}")


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


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Products of one range of confidence: their mean confidence, and the share that was right."""

    low: float
    high: float
    confidence: float
    right: Share


def reliability(verdicts: Verdicts, bins: int = 15) -> list[Bin]:
    """The bins that are not empty of `bins` equally wide ones: those of the calibration error."""
    place_N = np.clip((verdicts.confidence_N * bins).astype(int), 0, bins - 1)
    found = []
    for place in range(bins):
        inside = verdicts.rows(place_N == place)
        if len(inside):
            found.append(
                Bin(
                    low=place / bins,
                    high=(place + 1) / bins,
                    confidence=float(inside.confidence_N.mean()),
                    right=share_of(inside.correct_N, inside.group_N),
                )
            )
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class RiskCoverage:
    """The error [K] among the surest products, over their share [K] of all (El-Yaniv and Wiener, 2010)."""

    coverage_K: np.ndarray
    risk_K: np.ndarray

    def risk_at(self, coverage: float) -> float:
        """The error when at least this share is kept."""
        place = int(np.searchsorted(self.coverage_K, coverage - 1e-9))
        return float(self.risk_K[min(place, len(self.risk_K) - 1)])

    @property
    def area(self) -> float:
        """AURC: the mean error over all coverages, each product a step."""
        steps = np.diff(self.coverage_K, prepend=0.0)
        return float((self.risk_K * steps).sum())


def risk_coverage(verdicts: Verdicts) -> RiskCoverage:
    """One point for each confidence that occurs: equal ones are kept or left together."""
    order = np.argsort(-verdicts.confidence_N, kind="stable")
    confidence_N, wrong_N = verdicts.confidence_N[order], ~verdicts.correct_N[order]
    kept_K = np.flatnonzero(np.diff(confidence_N, append=-1.0) < 0) + 1
    return RiskCoverage(coverage_K=kept_K / len(verdicts), risk_K=np.cumsum(wrong_N)[kept_K - 1] / kept_K)


def thinned(values_K: Sequence[float] | np.ndarray, most: int = 300) -> np.ndarray:
    """Positions of at most `most` points, evenly spread, the last among them: a page needs no more."""
    return np.unique(np.linspace(0, len(values_K) - 1, min(most, len(values_K))).round().astype(int))
