"""The words that tell a category from all others.

Shapes: N texts, C categories, W words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer

_WORDS = 30_000  # the most frequent ones; a page shows a few hundred
_LEAST = 3  # texts that a word stands in
_PRIOR = 100.0  # words' worth of belief that a category speaks like all


@dataclass(frozen=True, kw_only=True)
class Term:
    """A word, in how many texts of the category it stands, and how far its share is above that of the other
    categories, in standard deviations."""

    word: str
    texts: int
    z: float


def telling_terms(
    texts: Sequence[str], label_N: np.ndarray, classes: int, *, most: int = 10, least_z: float = 3.0
) -> list[list[Term]]:
    """The most telling words of each category, best first: log-odds against the other categories, with all
    words together as the prior, in standard deviations (Monroe, Colaresi and Quinn, 2008). A word counts
    once a text. Words below `least_z` are left out: among thousands some would get there by chance.
    """
    count_CW, words = _counts(texts, label_N, classes)
    z_CW = log_odds(count_CW)
    found = []
    for count_W, z_W in zip(count_CW, z_CW, strict=True):
        best = [int(w) for w in np.argsort(-z_W, kind="stable")[:most] if z_W[w] >= least_z]
        found.append([Term(word=words[w], texts=int(count_W[w]), z=float(z_W[w])) for w in best])
    return found


def log_odds(count_CW: np.ndarray) -> np.ndarray:
    """Standardised log-odds [C, W] of each word in a category against the others."""
    total_W = count_CW.sum(axis=0)
    prior_W = _PRIOR * total_W / max(float(total_W.sum()), 1.0)
    own_CW, rest_CW = count_CW + prior_W, total_W - count_CW + prior_W
    own_sum, rest_sum = own_CW.sum(axis=1, keepdims=True), rest_CW.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        delta_CW = np.log(own_CW / (own_sum - own_CW)) - np.log(rest_CW / (rest_sum - rest_CW))
        z_CW: np.ndarray = delta_CW / np.sqrt(1 / own_CW + 1 / rest_CW)
    return np.nan_to_num(z_CW, nan=0.0, posinf=0.0, neginf=0.0)


def _counts(texts: Sequence[str], label_N: np.ndarray, classes: int) -> tuple[np.ndarray, list[str]]:
    """Texts [C, W] of each category that hold each word, and the words."""
    vectorizer = CountVectorizer(binary=True, max_features=_WORDS, min_df=min(_LEAST, max(1, len(texts))))
    try:
        found_NW = vectorizer.fit_transform(texts)
    except ValueError:  # no text has a word, or none that stands in enough texts
        return np.zeros((classes, 0)), []
    one_CN = csr_matrix((np.ones(len(texts)), (label_N, np.arange(len(texts)))), (classes, len(texts)))
    return (one_CN @ found_NW).toarray(), vectorizer.get_feature_names_out().tolist()
