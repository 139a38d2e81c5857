"""The test split, product by product: what was answered, how surely, and whether it was right.

Shapes: N products, C categories.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from aisle.classifier import Classifier
from aisle.errors import AisleError
from aisle.prediction import Prediction
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
