"""What an encoder is tuned on, and how. Shapes: B examples at once, C categories."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn

from aisle.errors import EncoderError


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """Facts about one run.

    `batch_size` examples make a step of the optimizer, `micro_batch` of them at once (0: all that a process
    has of a step). The learning rate rises over the first `warmup` share of all steps and then falls to 0 as
    a cosine; each block of the encoder has `layer_decay` times the rate of the one behind it. `patience` is
    the number of epochs without a better validation macro-F1 after which tuning stops. `class_balance` is the
    beta of training/loss.py, `ema` the decay of the weights' moving average, which is then what is validated
    and kept; `clip` the longest gradient; both are off at 0. `recompute` saves memory for time.
    """

    epochs: int = 30
    patience: int = 10
    batch_size: int = 32
    micro_batch: int = 0
    learning_rate: float = 2e-3
    layer_decay: float = 1.0
    warmup: float = 0.15
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    class_balance: float = 1.0
    dropout: float = 0.2
    clip: float = 0.0
    ema: float = 0.0
    precision: str = "auto"
    recompute: bool = False
    seed: int = 27

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_size"):
            _check(self, name, getattr(self, name) >= 1, "1 or more")
        for name in ("micro_batch", "learning_rate", "weight_decay", "clip", "seed"):
            _check(self, name, 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in ("warmup", "label_smoothing", "dropout", "ema"):
            _check(self, name, 0 <= getattr(self, name) < 1, "0 or more and less than 1")
        _check(self, "class_balance", 0 <= self.class_balance <= 1, "0 to 1")
        _check(self, "layer_decay", 0 < self.layer_decay <= 1, "more than 0, at most 1")


def _check(settings: TuneSettings, name: str, is_right: bool, wanted: str) -> None:
    if not is_right:
        raise EncoderError(f"tuning {name}: found {getattr(settings, name)}, wanted {wanted}")


class Examples(Protocol):
    """Labelled texts or pictures by position."""

    label_N: np.ndarray

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """A hash of all that the network is shown."""

    def read(
        self, chunks: Sequence[np.ndarray], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(inputs [B, ...], labels [B]) of each chunk of positions, without what cannot be read."""


class Lesson(Protocol):
    """What is tuned, and on what. `kind` names the encoder, `shown` what it is shown; `network` is `encoder`
    and `head`, inputs to logits [B, C]; fewer than `least` examples at once teach it nothing."""

    kind: str
    shown: str
    classes: int
    least: int

    @property
    def encoder(self) -> nn.Module: ...

    @property
    def head(self) -> nn.Module: ...

    @property
    def network(self) -> nn.Module: ...

    @property
    def train(self) -> Examples: ...

    @property
    def validation(self) -> Examples: ...

    def show(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the network is shown of examples as they were read."""

    def vary(
        self, inputs: torch.Tensor, target_BC: torch.Tensor, chance: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same at random in training, and what is to be answered. torch's own chance is seeded too."""
