"""How the answers of two modalities are combined: weights and stacks, fitted on products that neither
modality's model was trained on.

Shapes: N products, C categories, F = 2 C log-probabilities of both modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.model_selection import KFold

from aisle.late_fusion import FLOOR, Stacked

POWERS = np.geomspace(0.05, 2, 25)
PENALTIES = (0.1, 1.0, 10.0, 100.0)
FOLDS = 3  # that the penalty is chosen by
MIN_STACK = 20  # products that a stack wants


@dataclass(frozen=True, kw_only=True, eq=False)
class Said:
    """What two models say of labelled products: log-probabilities [N, C] each."""

    log_text_NC: np.ndarray
    log_image_NC: np.ndarray
    label_N: np.ndarray

    def __len__(self) -> int:
        return len(self.label_N)

    @classmethod
    def joined(cls, parts: Sequence[Said]) -> Said:
        return cls(
            log_text_NC=np.concatenate([said.log_text_NC for said in parts]),
            log_image_NC=np.concatenate([said.log_image_NC for said in parts]),
            label_N=np.concatenate([said.label_N for said in parts]),
        )

    def features(self) -> np.ndarray:
        """Float64 [N, F], as a stack reads them."""
        both_NF = np.concatenate([self.log_text_NC, self.log_image_NC], axis=1)
        return both_NF.clip(min=FLOOR).astype(np.float64)


def search_weights(said: Said) -> tuple[float, float]:
    """The powers (text, image) of a logarithmic pool with the least log-loss on these products, by a grid."""
    grid = [(float(text), float(image)) for text in POWERS for image in POWERS]
    return min(grid, key=lambda powers: _log_loss(_pooled(said, powers), said.label_N))


def _pooled(said: Said, powers: tuple[float, float]) -> np.ndarray:
    return powers[0] * said.log_text_NC + powers[1] * said.log_image_NC


def fit_stack(stacked: Stacked, said: Said) -> None:
    """Fit its logistic regression on these products, drawn towards the best pool: what few products can't
    show stays as the pool has it. With fewer than MIN_STACK products it stays what it is."""
    if len(said) < MIN_STACK:
        return
    weight_CF, bias_C = stack_weights(said)
    with torch.no_grad():
        stacked.stack.weight.copy_(torch.from_numpy(weight_CF))
        stacked.stack.bias.copy_(torch.from_numpy(bias_C))


def stack_weights(said: Said) -> tuple[np.ndarray, np.ndarray]:
    """Weights [C, F] and biases [C]; how far they may leave the pool is chosen by folds of these products."""
    features_NF, label_N = said.features(), said.label_N
    classes = said.log_text_NC.shape[1]
    text, image = search_weights(said)
    pool_CF = np.hstack([text * np.eye(classes), image * np.eye(classes)])
    folds = list(KFold(FOLDS, shuffle=True, random_state=27).split(label_N))

    def held_out_loss(penalty: float) -> float:
        total = 0.0
        for learn, ask in folds:
            weight_CF, bias_C = _regress(features_NF[learn], label_N[learn], pool_CF, penalty)
            total += len(ask) * _log_loss(features_NF[ask] @ weight_CF.T + bias_C, label_N[ask])
        return total

    return _regress(features_NF, label_N, pool_CF, min(PENALTIES, key=held_out_loss))


def _regress(
    features_NF: np.ndarray, label_N: np.ndarray, pool_CF: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression whose squared penalty is on the distance to `pool_CF` and on the biases."""
    shape, wanted_NC = pool_CF.shape, np.eye(len(pool_CF))[label_N]

    def loss(packed: np.ndarray) -> tuple[float, np.ndarray]:
        moved_CF, bias_C = packed[: pool_CF.size].reshape(shape), packed[pool_CF.size :]
        logits_NC = features_NF @ (pool_CF + moved_CF).T + bias_C
        slope_NC = softmax(logits_NC, axis=1) - wanted_NC
        value = _log_loss(logits_NC, label_N) * len(label_N) + penalty / 2 * (packed**2).sum()
        slope = np.concatenate([(slope_NC.T @ features_NF).ravel(), slope_NC.sum(axis=0)])
        return value, slope + penalty * packed

    found = minimize(loss, np.zeros(pool_CF.size + len(pool_CF)), jac=True, method="L-BFGS-B").x
    return pool_CF + found[: pool_CF.size].reshape(shape), found[pool_CF.size :]


def _log_loss(logits_NC: np.ndarray, label_N: np.ndarray) -> float:
    return float(-log_softmax(logits_NC, axis=1)[np.arange(len(label_N)), label_N].mean())
