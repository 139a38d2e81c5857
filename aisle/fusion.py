"""Fusion networks: (text vector, image vector, two presence bits) to logits.

One interface: `forward(text_BD, image_BE, present_B2) -> logits_BC`. A modality that is absent has
presence 0 and its vector is not read, so "what text says alone" is the same network with the image
taken away. Shapes: B products, D and E embedding widths, H hidden width, C categories.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from aisle.errors import BundleError


@dataclass(frozen=True, kw_only=True)
class FusionSettings:
    """Shape of a fusion network; saved in the bundle. `variant` is a key of VARIANTS."""

    variant: str = "gated"
    text_dim: int
    image_dim: int
    hidden_dim: int = 256
    classes: int
    dropout: float = 0.3

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise BundleError(f"fusion variant: found {self.variant!r}, wanted one of {sorted(VARIANTS)}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class FusionNet(nn.Module):
    """Common part of all variants: standardise each embedding, project it to H, fuse, classify.

    `mean` and `scale` buffers are measured on the training vectors, because encoders differ by
    orders of magnitude in the spread of their outputs.
    """

    text_mean: torch.Tensor
    text_scale: torch.Tensor
    image_mean: torch.Tensor
    image_scale: torch.Tensor

    def __init__(self, settings: FusionSettings) -> None:
        super().__init__()
        self.settings = settings
        hidden, dropout = settings.hidden_dim, settings.dropout
        self.text_projection = _projection(settings.text_dim, hidden, dropout)
        self.image_projection = _projection(settings.image_dim, hidden, dropout)
        for name, dim in (("text", settings.text_dim), ("image", settings.image_dim)):
            self.register_buffer(f"{name}_mean", torch.zeros(dim))
            self.register_buffer(f"{name}_scale", torch.ones(dim))

    def standardise(self, text_BD: torch.Tensor, image_BE: torch.Tensor) -> None:
        """Set the standardisation buffers from training vectors (present rows only)."""
        for name, rows in (("text", text_BD), ("image", image_BE)):
            if len(rows):
                getattr(self, f"{name}_mean").copy_(rows.mean(0))
                getattr(self, f"{name}_scale").copy_(rows.std(0, correction=0).clamp_min(1e-4))

    def forward(
        self, text_BD: torch.Tensor, image_BE: torch.Tensor, present_B2: torch.Tensor
    ) -> torch.Tensor:
        """Logits [B, C]; `present_B2` is float, 1 where (text, image) is there."""
        text_BH, image_BH = self.project(text_BD, image_BE)
        return self.fuse(text_BH * present_B2[:, :1], image_BH * present_B2[:, 1:], present_B2)

    def project(self, text_BD: torch.Tensor, image_BE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both modalities [B, H], whether they are there or not."""
        text_BH = self.text_projection((text_BD - self.text_mean) / self.text_scale)
        image_BH = self.image_projection((image_BE - self.image_mean) / self.image_scale)
        return text_BH, image_BH

    def fuse(self, text_BH: torch.Tensor, image_BH: torch.Tensor, present_B2: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] from the projected vectors; rows of absent modalities are zero."""
        raise NotImplementedError(f"{type(self).__name__} must define fuse()")


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


VARIANTS: dict[str, type[FusionNet]] = {"concat": Concat, "gated": Gated}


def build_fusion(settings: FusionSettings) -> FusionNet:
    """An untrained network of the variant that `settings` names."""
    return VARIANTS[settings.variant](settings)


@torch.inference_mode()
def fusion_logits(
    fusion: FusionNet, text_BD: np.ndarray, image_BE: np.ndarray, *, device: str = "cpu"
) -> np.ndarray:
    """Float32 logits [P, B, C] of the three presence patterns: projected once, fused in one pass of 3 B rows.

    The patterns stand in the order of `aisle.calibration.PATTERNS`: both, text alone, image alone.
    """
    rows = len(text_BD)
    if rows == 0:
        return np.zeros((3, 0, fusion.settings.classes), dtype=np.float32)
    text, image = torch.from_numpy(text_BD).to(device), torch.from_numpy(image_BE).to(device)
    text_BH, image_BH = fusion.project(text, image)
    nothing_BH = torch.zeros_like(text_BH)
    present_P2 = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]], device=device)
    logits = fusion.fuse(
        torch.cat([text_BH, text_BH, nothing_BH]),
        torch.cat([image_BH, nothing_BH, image_BH]),
        present_P2.repeat_interleave(rows, dim=0),
    )
    stacked: np.ndarray = logits.view(3, rows, -1).float().cpu().numpy()
    return stacked


def _projection(in_dim: int, hidden_dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(in_dim, hidden_dim),
        nn.GELU(),
        nn.LayerNorm(hidden_dim),
    )
