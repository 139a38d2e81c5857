"""TF-IDF and a linear SVM: the strong old baseline of text classification (Joachims, 1998).

Shapes: N texts, C categories.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from aisle.errors import CatalogError

ABSENT = -10.0  # the margin of a category that training has not


class LinearSvm:
    """Words and pairs of words, one linear SVM against the rest a category. Its margins are no probabilities:
    a temperature, fitted on products that it was not trained on, makes them such."""

    def __init__(self, texts: Sequence[str], label_N: np.ndarray, *, classes: int, seed: int) -> None:
        self._words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, strip_accents="unicode")
        self._svm = LinearSVC(class_weight="balanced", random_state=seed)
        try:
            self._svm.fit(self._words.fit_transform(texts), label_N)
        except ValueError as error:
            raise CatalogError(
                f"TF-IDF and SVM: found {len(texts)} texts of {len(np.unique(label_N))} categories "
                f"({str(error).partition(';')[0]}), wanted words, and 2 categories or more"
            ) from error
        self._classes = classes

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Margins [N, C]; a text without a known word gets the same from all of its kind."""
        margin_NK = self._svm.decision_function(self._words.transform(texts))
        if margin_NK.ndim == 1:  # two categories have one margin
            margin_NK = np.stack([-margin_NK, margin_NK], axis=1)
        logits_NC = np.full((len(texts), self._classes), ABSENT)
        logits_NC[:, self._svm.classes_] = margin_NK
        return logits_NC

    @property
    def size_bytes(self) -> int:
        """Of its arrays and its vocabulary, as they would lie on disk."""
        words = sum(len(word.encode()) + 4 for word in self._words.vocabulary_)
        arrays = (self._svm.coef_, self._svm.intercept_, self._words.idf_)
        return words + sum(array.size * 4 for array in arrays)
