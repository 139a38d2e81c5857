"""What changes while an encoder is tuned, and how that becomes a checkpoint and comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from training.moving_average import MovingAverage

History = list[dict[str, float]]
Told = Callable[[int, Mapping[str, float]], None]  # of an epoch, from 0, and what was measured in it


@dataclass(kw_only=True, eq=False)
class TuningState:
    """A network with its optimizer, and how far it has come: `history` has the finished epochs, `step` counts
    the optimizer's steps in the next one, of `steps`; `loss` and `weight` are sums over these."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage
    steps: int
    history: History = field(default_factory=list)
    step: int = 0
    loss: float = 0.0
    weight: float = 0.0
    best: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """The optimizer's steps from the beginning."""
        return len(self.history) * self.steps + self.step

    def take_step(self, *, clip: float) -> None:
        """Move the weights by their gradients, which are at most `clip` long (0: as long as they are)."""
        self.scaler.unscale_(self.optimizer)
        if clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def count(self, loss: float, weight: float) -> None:
        """Close a step."""
        self.step += 1
        self.loss += float(loss)
        self.weight += float(weight)

    def close_epoch(self, score: float) -> None:
        """Note an epoch; keep the network's weights when it is the best."""
        if score > max((epoch["validation_macro_f1"] for epoch in self.history), default=-1.0):
            self.best = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        loss = self.loss / self.weight
        self.history.append({"epoch": len(self.history), "train_loss": loss, "validation_macro_f1": score})
        self.step, self.loss, self.weight = 0, 0.0, 0.0

    def tensors(self) -> dict[str, torch.Tensor]:
        parts = {"network": self.network.state_dict(), "best": self.best, "average": self.average.mean}
        tensors = {f"{part}.{name}": t for part, state in parts.items() for name, t in state.items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
        return tensors

    def facts(self) -> dict[str, Any]:
        scaler = self.scaler.state_dict()
        return {name: getattr(self, name) for name in ("history", "step", "loss", "weight")} | {
            "scaler": scaler
        }

    def load(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Take over what `tensors` and `facts` gave."""
        self.network.load_state_dict(_below("network.", tensors))
        self.best = _below("best.", tensors)
        self.average.load(_below("average.", tensors))
        self.scaler.load_state_dict(facts["scaler"])
        self.history, self.step = facts["history"], facts["step"]
        self.loss, self.weight = facts["loss"], facts["weight"]
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in _below("optimizer.", tensors).items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = _laid_out_as(weights[int(number)], tensor)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _laid_out_as(weight: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    # The fused optimizer walks memory, not indices: moments must be channels_last where weights are.
    return torch.empty_like(weight).copy_(tensor) if tensor.shape == weight.shape else tensor


def _below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
