"""Vector scaling (Guo et al., 2017): a scale and a bias for each category, on top of a temperature.

A temperature cannot mend a network that says one category too often; this can, at the price of 2 C numbers
that must be learned. A Gaussian prior around "as it was" keeps them where the data say little: a category
that no product shows keeps its scale of 1 and nearly its bias of 0.
Shapes: B products, C categories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

PRIOR_SD = 0.5  # of scales (around 1) and biases (around 0)
_SCALES = (0.05, 20.0)


@dataclass(frozen=True, kw_only=True)
class VectorScaling:
    """`scale` and `bias` by category, of logits that were divided by their temperature."""

    scale: tuple[float, ...]
    bias: tuple[float, ...]

    def apply(self, logits_BC: np.ndarray) -> np.ndarray:
        scaled_BC: np.ndarray = logits_BC * np.array(self.scale) + np.array(self.bias)
        return scaled_BC


def fit_vector_scaling(logits_BC: np.ndarray, labels_B: np.ndarray) -> VectorScaling:
    """The scales and biases of least log-loss under the prior; `logits_BC` are divided by their temperature
    already."""
    products, classes = logits_BC.shape
    logits_BC = logits_BC.astype(np.float64)
    row_B = np.arange(products)

    def loss_and_slope(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        scale_C, bias_C = numbers[:classes], numbers[classes:]
        log_probability_BC = log_softmax(logits_BC * scale_C + bias_C, axis=1)
        error_BC = np.exp(log_probability_BC)
        error_BC[row_B, labels_B] -= 1
        away = np.concatenate([scale_C - 1, bias_C]) / PRIOR_SD
        loss = -log_probability_BC[row_B, labels_B].sum() + (away**2).sum() / 2
        slope = np.concatenate([(error_BC * logits_BC).sum(axis=0), error_BC.sum(axis=0)]) + away / PRIOR_SD
        return float(loss) / products, slope / products

    start = np.concatenate([np.ones(classes), np.zeros(classes)])
    bounds = [_SCALES] * classes + [(None, None)] * classes
    found = minimize(loss_and_slope, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return VectorScaling(scale=tuple(found[:classes].tolist()), bias=tuple(found[classes:].tolist()))
