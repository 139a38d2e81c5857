"""An exponential moving average of a network's weights (Polyak & Juditsky, 1992), batch norms included."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class MovingAverage:
    """`decay` is the share that a step keeps of what was; early steps keep less, so that the average does not
    drag the first weights along. With decay 0 it is the network itself."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        state = network.state_dict().items()  # the network's own memory, not copies
        self._live = {name: tensor for name, tensor in state if tensor.is_floating_point()} if decay else {}
        self.mean = {name: tensor.clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step `step`, counted from 0."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, tensor in self._live.items():
            self.mean[name].lerp_(tensor, share)

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """The network has the averaged weights in this block, and its own after it."""
        own = {name: tensor.clone() for name, tensor in self._live.items()}
        self._copy(self.mean)
        try:
            yield
        finally:
            self._copy(own)

    def load(self, mean: dict[str, torch.Tensor]) -> None:
        for name, tensor in self.mean.items():
            tensor.copy_(mean[name])

    def _copy(self, values: dict[str, torch.Tensor]) -> None:
        for name, tensor in self._live.items():
            tensor.copy_(values[name])
