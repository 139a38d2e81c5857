"""Fusion of probabilities: each modality decides alone, then their answers are combined.

Shapes: B products, H hidden width, C categories, P = 3 presence patterns.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import log_softmax

from aisle.fusion_net import FusionNet, FusionSettings

FLOOR = -10.0  # least log-probability that a stack reads: surer answers are all the same to it


class Alone(FusionNet):
    """One modality; the other has no weights and is never read. The baselines, and the parts of `Late`."""

    modality: str

    def __init__(self, settings: FusionSettings) -> None:
        super().__init__(settings)
        other = "image" if self.modality == "text" else "text"
        setattr(self, f"{other}_projection", _Nothing(settings.hidden_dim))
        self.head = _head(settings)

    def fuse(self, text_BH: torch.Tensor, image_BH: torch.Tensor, present_B2: torch.Tensor) -> torch.Tensor:
        logits_BC: torch.Tensor = self.head(text_BH if self.modality == "text" else image_BH)
        return logits_BC


class TextAlone(Alone):
    modality = "text"


class ImageAlone(Alone):
    modality = "image"


class Late(FusionNet):
    """Two heads and a rule. A product with one modality gets that one's answer.

    `temperature_2` makes both heads as sure as they may be before they are combined: measured on
    validation, never on what the heads were trained on.
    """

    temperature_2: torch.Tensor

    def __init__(self, settings: FusionSettings) -> None:
        super().__init__(settings)
        self.text_head, self.image_head = _head(settings), _head(settings)
        self.register_buffer("temperature_2", torch.ones(2))

    def fuse(self, text_BH: torch.Tensor, image_BH: torch.Tensor, present_B2: torch.Tensor) -> torch.Tensor:
        text_BC, image_BC = self._say(text_BH, image_BH)
        one_BC = torch.where(present_B2[:, :1] > 0, text_BC, image_BC)
        both_B1 = present_B2.prod(dim=1, keepdim=True)
        return torch.where(both_B1 > 0, self.combine(text_BC, image_BC), one_BC)

    def fuse_patterns(self, text_BH: torch.Tensor, image_BH: torch.Tensor) -> torch.Tensor:
        text_BC, image_BC = self._say(text_BH, image_BH)
        return torch.stack([self.combine(text_BC, image_BC), text_BC, image_BC])

    def _say(self, text_BH: torch.Tensor, image_BH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities [B, C] of each."""
        text_BC = log_softmax(self.text_head(text_BH) / self.temperature_2[0], dim=1)
        return text_BC, log_softmax(self.image_head(image_BH) / self.temperature_2[1], dim=1)

    def combine(self, text_BC: torch.Tensor, image_BC: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] from both log-probabilities."""
        raise NotImplementedError(f"{type(self).__name__} must define combine()")


class Mean(Late):
    """The mean of both probabilities."""

    def combine(self, text_BC: torch.Tensor, image_BC: torch.Tensor) -> torch.Tensor:
        return torch.logaddexp(text_BC, image_BC)


class Product(Late):
    """Their product: right where the modalities err independently and categories are equally likely."""

    def combine(self, text_BC: torch.Tensor, image_BC: torch.Tensor) -> torch.Tensor:
        return text_BC + image_BC


class Weighted(Late):
    """A logarithmic pool: the product with a power each, searched on validation (Genest & Zidek, 1986)."""

    weight_2: torch.Tensor

    def __init__(self, settings: FusionSettings) -> None:
        super().__init__(settings)
        self.register_buffer("weight_2", torch.ones(2))

    def combine(self, text_BC: torch.Tensor, image_BC: torch.Tensor) -> torch.Tensor:
        return self.weight_2[0] * text_BC + self.weight_2[1] * image_BC


class Stacked(Late):
    """A logistic regression over both log-probabilities; before it is fitted it is the product."""

    def __init__(self, settings: FusionSettings) -> None:
        super().__init__(settings)
        self.stack = nn.Linear(2 * settings.classes, settings.classes)
        with torch.no_grad():
            self.stack.weight.copy_(torch.eye(settings.classes).repeat(1, 2))
            self.stack.bias.zero_()

    def combine(self, text_BC: torch.Tensor, image_BC: torch.Tensor) -> torch.Tensor:
        logits_BC: torch.Tensor = self.stack(torch.cat([text_BC, image_BC], dim=1).clamp_min(FLOOR))
        return logits_BC


class _Nothing(nn.Module):
    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.new_zeros(len(rows), self.hidden_dim)


def _head(settings: FusionSettings) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(settings.hidden_dim),
        nn.Dropout(settings.dropout),
        nn.Linear(settings.hidden_dim, settings.classes),
    )
