"""Gradient-boosted trees over the probabilities of both modalities. They are compared with, not served: a
bundle's head is one network, and trees would be a second engine in it.

Shapes: N products, C categories, F = 2 C log-probabilities.
"""

from __future__ import annotations

import numpy as np

from training.combiners import Said

_ROUNDS = 200
_FLOOR = 1e-4  # of a probability: logarithms of less would rule


class Boosting:
    """LightGBM, fitted on what models say of products that they were not trained on."""

    def __init__(self, said: Said, *, classes: int, seed: int) -> None:
        import lightgbm  # here, because it takes half a second that other commands need not wait

        settings = {
            "objective": "multiclass",
            "num_class": classes,
            "learning_rate": 0.05,
            "num_leaves": 7,
            "min_data_in_leaf": max(2, min(20, len(said) // 50)),
            "lambda_l2": 1.0,
            "feature_fraction": 0.5,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }
        rows = lightgbm.Dataset(said.features(), label=said.label_N)
        self._trees = lightgbm.train(settings, rows, num_boost_round=_ROUNDS)

    def logits(self, said: Said) -> np.ndarray:
        """Log-probabilities [N, C]."""
        if not len(said):
            return np.zeros((0, said.log_text_NC.shape[1]))
        probabilities_NC = np.asarray(self._trees.predict(said.features()))
        logits: np.ndarray = np.log(probabilities_NC.clip(min=_FLOOR))
        return logits

    @property
    def size_bytes(self) -> int:
        """In LightGBM's own text format."""
        return len(self._trees.model_to_string().encode())
