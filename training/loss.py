"""The loss that encoders are tuned by: cross-entropy with class weights, label smoothing and mixed targets.

Shapes: N examples, B a batch, C categories.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import log_softmax


def balanced_weights(label_N: np.ndarray, classes: int, balance: float) -> torch.Tensor:
    """Float32 [C], of mean 1 over the examples: by the effective number of a class's examples (Cui et al.,
    2019), with `balance` as its beta: 0 counts all examples alike, 1 all classes. A class without examples
    has 0."""
    count_C = np.bincount(label_N, minlength=classes).astype(np.float64)
    seen_C = np.maximum(count_C, 1)
    number_C = seen_C if balance == 1 else (1 - balance**seen_C) / (1 - balance)
    weight_C = np.where(count_C > 0, 1 / number_C, 0.0)
    return torch.from_numpy(weight_C * count_C.sum() / max((weight_C * count_C).sum(), 1e-12)).float()


def weighted_cross_entropy(
    logits_BC: torch.Tensor, target_BC: torch.Tensor, weight_C: torch.Tensor, smoothing: float
) -> torch.Tensor:
    """The sum over the batch, to be divided by the sum of `weight_C` over its targets; a row of `target_BC`
    adds up to 1. With one target a row that is torch's CrossEntropyLoss."""
    smooth_BC = (1 - smoothing) * target_BC + smoothing / target_BC.shape[1]
    return -(smooth_BC * weight_C * log_softmax(logits_BC.float(), dim=1)).sum()
