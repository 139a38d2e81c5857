"""Figures on held-out products, all taken through `aisle.Classifier`: the path that serves.

Shapes: N products, C categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_recall_fscore_support

from aisle.calibration import expected_calibration_error, pattern_index
from aisle.classifier import Classifier, Embedded
from aisle.errors import AisleError
from aisle.prediction import Prediction, Source
from training.confidence import reliability, risk_coverage
from training.fit import Vectors


def embedded_of(vectors: Vectors) -> Embedded:
    """Stored vectors as the classifier takes them."""
    text_source = [Source.STORED if has else Source.ABSENT for has in vectors.present_N2[:, 0]]
    image_source = [Source.STORED if has else Source.ABSENT for has in vectors.present_N2[:, 1]]
    return Embedded(
        text_BD=vectors.text_ND,
        image_BE=vectors.image_NE,
        text_source=text_source,
        image_source=image_source,
    )


def read_by(classifier: Classifier, vectors: Vectors) -> Vectors:
    """The same products with the modalities that the classifier has learned from, and no others."""
    return replace(vectors, present_N2=classifier.read_of(embedded_of(vectors)))


def evaluate(classifier: Classifier, vectors: Vectors) -> dict[str, Any]:
    """Figures of a test split. Products with neither modality are left out and counted.

    Text alone is scored on products that have text, image alone on those that have a picture; fused
    on all of them, which is the harder set.
    """
    known = vectors.present_N2.any(axis=1)
    if not known.any():
        raise AisleError("evaluation: found no test product with a vector, wanted 1 or more")
    vectors, left_out = vectors.rows(np.flatnonzero(known)), int((~known).sum())
    embedded = embedded_of(vectors)
    predictions = [_prediction(p) for p in classifier.decide(embedded)]
    codes = classifier.taxonomy
    answer_N = np.array([codes.index(p.category.code) for p in predictions])
    confidence_N = np.array([p.confidence for p in predictions])
    accepted_N = np.array([p.accepted for p in predictions])
    probabilities_PNC = classifier.probabilities(embedded)
    correct_N = answer_N == vectors.label_N
    return {
        "products": len(vectors),
        "left_out": left_out,
        "fused": _scores(vectors.label_N, answer_N, present_probabilities(classifier, vectors)),
        "text": _alone(vectors, probabilities_PNC[1], column=0),
        "image": _alone(vectors, probabilities_PNC[2], column=1),
        "ece": expected_calibration_error(confidence_N, correct_N),
        "reliability": [asdict(one) for one in reliability(confidence_N, correct_N)],
        "risk_coverage": risk_coverage(confidence_N, correct_N).thinned().to_json(),
        "prediction_sets": _sets(classifier, predictions, vectors.label_N),
        "accepted_share": float(accepted_N.mean()),
        "accepted_error": float((~correct_N[accepted_N]).mean()) if accepted_N.any() else None,
        "target_error": classifier.bundle.calibration.target_error,
        "per_class": _per_class(classifier, vectors.label_N, answer_N),
    }


def _sets(
    classifier: Classifier, predictions: Sequence[Prediction], label_N: np.ndarray
) -> dict[str, Any] | None:
    """How often prediction sets hold the true category, over all products that have one and by category; None
    where no product has one."""
    found = [
        (int(label), classifier.taxonomy[int(label)].code in p.prediction_set.codes, p.prediction_set)
        for p, label in zip(predictions, label_N, strict=True)
        if p.prediction_set is not None
    ]
    if not found:
        return None
    label_F, covered_F = np.array([label for label, _, _ in found]), np.array([c for _, c, _ in found])
    codes = classifier.taxonomy.codes
    return {
        "products": len(found),
        "promised": found[0][2].coverage,
        "covered": float(covered_F.mean()),
        "mean_size": float(np.mean([len(one.codes) for _, _, one in found])),
        "per_class": {
            codes[label]: float(covered_F[label_F == label].mean()) for label in np.unique(label_F)
        },
    }


def present_probabilities(classifier: Classifier, vectors: Vectors) -> np.ndarray:
    """Calibrated probabilities [N, C] of products with the modalities they have (at least one)."""
    probabilities_PNC = classifier.probabilities(embedded_of(vectors))
    chosen: np.ndarray = probabilities_PNC[pattern_index(vectors.present_N2), np.arange(len(vectors))]
    return chosen


def answer_frame(
    classifier: Classifier,
    name: str,
    product_ids: Sequence[str],
    categories: Sequence[str],
    text_ND: np.ndarray,
    image_NE: np.ndarray,
    present_N2: np.ndarray,
) -> pd.DataFrame:
    """What the classifier answers for products with the true `categories`, one row each; `name` says which
    set they are. One with neither modality is answered "" and is wrong."""
    vectors = Vectors(
        text_ND=text_ND, image_NE=image_NE, present_N2=present_N2, label_N=np.zeros(len(present_N2))
    )
    answers = classifier.decide(embedded_of(vectors), top_k=1) if len(vectors) else []
    codes = [a.category.code if isinstance(a, Prediction) else "" for a in answers]
    return pd.DataFrame(
        {
            "set": pd.Series([name] * len(codes), dtype=str),
            "product_id": pd.Series(list(product_ids), dtype=str),
            "label": pd.Series(list(categories), dtype=str),
            "answer": pd.Series(codes, dtype=str),
            "confidence": [a.confidence if isinstance(a, Prediction) else 0.0 for a in answers],
            "correct": np.array(codes, dtype=object) == np.array(list(categories), dtype=object),
        }
    ).astype({"confidence": float, "correct": bool})


def _prediction(answer: object) -> Prediction:
    if isinstance(answer, Prediction):
        return answer
    raise AisleError(f"evaluation: a test product could not be classified: {answer}")


def _alone(vectors: Vectors, probabilities_NC: np.ndarray, *, column: int) -> dict[str, float] | None:
    has = vectors.present_N2[:, column] > 0
    if not has.any():
        return None
    chosen = probabilities_NC[has]
    return _scores(vectors.label_N[has], chosen.argmax(axis=1), chosen)


def _scores(label_N: np.ndarray, answer_N: np.ndarray, probabilities_NC: np.ndarray) -> dict[str, float]:
    exact_NC = probabilities_NC.astype(np.float64)  # float32 rows miss 1 by more than scikit-learn allows
    exact_NC /= exact_NC.sum(axis=1, keepdims=True)
    return {
        "products": len(label_N),
        "macro_f1": float(f1_score(label_N, answer_N, average="macro", zero_division=0)),
        "weighted_f1": float(f1_score(label_N, answer_N, average="weighted", zero_division=0)),
        "accuracy": float(accuracy_score(label_N, answer_N)),
        "log_loss": float(log_loss(label_N, exact_NC, labels=np.arange(exact_NC.shape[1]))),
    }


def _per_class(
    classifier: Classifier, label_N: np.ndarray, answer_N: np.ndarray
) -> list[dict[str, str | float]]:
    precision, recall, f1, support = precision_recall_fscore_support(
        label_N, answer_N, labels=np.arange(len(classifier.taxonomy)), zero_division=0
    )
    return [
        {
            "code": category.code,
            "name": category.name,
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "products": int(support[i]),
        }
        for i, category in enumerate(classifier.taxonomy)
    ]
