"""Fusion of vectors: both modalities are mixed before anything is decided.

Shapes: B products, D and E embedding widths, H hidden width, C categories, P = 3 presence patterns, S slots
that a vector is seen as, W = H / S their width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from aisle.errors import BundleError
from aisle.fusion_net import FusionNet, FusionSettings

SLOTS = 8


class Concat(FusionNet):
    """Both projections side by side with the presence bits, through one hidden layer."""

    def __init__(self, settings: FusionSettings) -> None:
        super().__init__(settings)
        hidden = settings.hidden_dim
        self.head = nn.Sequential(
            nn.Linear(2 * hidden + 2, hidden),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(hidden, settings.classes),
        )

    def fuse(self, text_BH: torch.Tensor, image_BH: torch.Tensor, present_B2: torch.Tensor) -> torch.Tensor:
        logits_BC: torch.Tensor = self.head(torch.cat([text_BH, image_BH, present_B2], dim=1))
        return logits_BC


class Add(FusionNet):
    """The sum of what is there, through one layer."""

    def __init__(self, settings: FusionSettings) -> None:
        super().__init__(settings)
        self.head = nn.Sequential(
            nn.LayerNorm(settings.hidden_dim),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden_dim, settings.classes),
        )

    def fuse(self, text_BH: torch.Tensor, image_BH: torch.Tensor, present_B2: torch.Tensor) -> torch.Tensor:
        logits_BC: torch.Tensor = self.head(text_BH + image_BH)
        return logits_BC


class Gated(FusionNet):
    """Gated multimodal unit: a learned gate mixes the modalities feature by feature.

    After Arevalo et al., "Gated Multimodal Units for Information Fusion" (2017); the gate is forced
    to the modality that is there when the other is absent.
    """

    def __init__(self, settings: FusionSettings) -> None:
        super().__init__(settings)
        hidden = settings.hidden_dim
        self.gate = nn.Linear(2 * hidden + 2, hidden)
        self.head = nn.Sequential(
            nn.LayerNorm(hidden), nn.Dropout(settings.dropout), nn.Linear(hidden, settings.classes)
        )

    def fuse(self, text_BH: torch.Tensor, image_BH: torch.Tensor, present_B2: torch.Tensor) -> torch.Tensor:
        gate_BH = torch.sigmoid(self.gate(torch.cat([text_BH, image_BH, present_B2], dim=1)))
        has_text_B1, has_image_B1 = present_B2[:, :1], present_B2[:, 1:]
        text_share_BH = gate_BH * has_text_B1 * has_image_B1 + has_text_B1 * (1 - has_image_B1)
        image_share_BH = (1 - gate_BH) * has_text_B1 * has_image_B1 + has_image_B1 * (1 - has_text_B1)
        mixed_BH = text_share_BH * text_BH + image_share_BH * image_BH
        logits_BC: torch.Tensor = self.head(mixed_BH)
        return logits_BC

    def fuse_patterns(self, text_BH: torch.Tensor, image_BH: torch.Tensor) -> torch.Tensor:
        # One modality alone passes a gate that is forced: only both together need its sums.
        both_BH = torch.cat([text_BH, image_BH, text_BH.new_ones(len(text_BH), 2)], dim=1)
        mixed_BH = torch.lerp(image_BH, text_BH, torch.sigmoid(self.gate(both_BH)))
        return torch.stack([self.head(seen_BH) for seen_BH in (mixed_BH, text_BH, image_BH)])


class CrossAttention(FusionNet):
    """Co-attention: each modality asks the other, and keeps itself (Lu et al., "ViLBERT", 2019).

    The feature store holds one vector a modality, not its tokens or patches, so what attends is its
    projection, seen as SLOTS slots. An absent modality answers nothing. Raises BundleError when
    `hidden_dim` is no multiple of SLOTS.
    """

    def __init__(self, settings: FusionSettings) -> None:
        super().__init__(settings)
        hidden = settings.hidden_dim
        if hidden % SLOTS:
            raise BundleError(f"cross_attention hidden_dim: found {hidden}, wanted a multiple of {SLOTS}")
        self.slot_2SW = nn.Parameter(torch.randn(2, SLOTS, hidden // SLOTS) * 0.02)
        self.text_asks, self.image_asks = (_Ask(hidden // SLOTS) for _ in range(2))
        self.head = nn.Sequential(
            nn.LayerNorm(2 * hidden),
            nn.Linear(2 * hidden, hidden),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(hidden, settings.classes),
        )

    def fuse(self, text_BH: torch.Tensor, image_BH: torch.Tensor, present_B2: torch.Tensor) -> torch.Tensor:
        text_BSW = text_BH.unflatten(1, (SLOTS, -1))
        image_BSW = image_BH.unflatten(1, (SLOTS, -1))
        placed_text, placed_image = text_BSW + self.slot_2SW[0], image_BSW + self.slot_2SW[1]
        both_B11 = present_B2.prod(dim=1).view(-1, 1, 1)
        text_BSW = text_BSW + both_B11 * self.text_asks(placed_text, placed_image)
        image_BSW = image_BSW + both_B11 * self.image_asks(placed_image, placed_text)
        logits_BC: torch.Tensor = self.head(torch.cat([text_BSW, image_BSW], dim=1).flatten(1))
        return logits_BC


class Linear(FusionNet):
    """Three logistic regressions on the standardised vectors: of both side by side, and of each alone.

    No presence pattern pays for another, and the best weights are one point that needs no seed and no early
    stopping (training/regression.py): of a few hundred products more can be learned so than by a network.
    `hidden_dim` and `dropout` are not used.
    """

    def __init__(self, settings: FusionSettings) -> None:
        super().__init__(settings)
        self.text_projection, self.image_projection = nn.Identity(), nn.Identity()
        self.both = nn.Linear(settings.text_dim + settings.image_dim, settings.classes)
        self.text_alone = nn.Linear(settings.text_dim, settings.classes)
        self.image_alone = nn.Linear(settings.image_dim, settings.classes)

    def fuse(self, text_BH: torch.Tensor, image_BH: torch.Tensor, present_B2: torch.Tensor) -> torch.Tensor:
        logits_PBC = self.fuse_patterns(text_BH, image_BH)
        one_BC = torch.where(present_B2[:, :1] > 0, logits_PBC[1], logits_PBC[2])
        return torch.where(present_B2.prod(dim=1, keepdim=True) > 0, logits_PBC[0], one_BC)

    def fuse_patterns(self, text_BH: torch.Tensor, image_BH: torch.Tensor) -> torch.Tensor:
        both_BC = self.both(torch.cat([text_BH, image_BH], dim=1))
        return torch.stack([both_BC, self.text_alone(text_BH), self.image_alone(image_BH)])


class _Ask(nn.Module):
    """One head of attention: the slots of one modality ask those of the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.answer = nn.Linear(width, width), nn.Linear(width, 2 * width)

    def forward(self, asking_BSW: torch.Tensor, asked_BSW: torch.Tensor) -> torch.Tensor:
        key, value = self.answer(asked_BSW).chunk(2, dim=-1)
        return scaled_dot_product_attention(self.query(asking_BSW), key, value)
