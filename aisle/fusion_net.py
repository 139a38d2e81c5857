"""What all fusion networks share: (text vector, image vector, two presence bits) to logits.

One interface: `forward(text_BD, image_BE, present_B2) -> logits_BC`. A modality that is absent has
presence 0 and its vector is not read, so "what text says alone" is the same network with the image
taken away. Shapes: B products, D and E embedding widths, H hidden width, C categories, P = 3 presence
patterns.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from aisle.errors import BundleError

ALONE = ("text", "image")  # baselines: one modality is read, the other never
FEATURE = ("concat", "add", "gated", "cross_attention", "linear")  # vectors are fused
LATE = ("mean", "product", "weighted", "stacked")  # the probabilities of two baselines are


@dataclass(frozen=True, kw_only=True)
class FusionSettings:
    """Shape of a fusion network; saved in the bundle. `variant` is one of ALONE, FEATURE and LATE,
    `modalities` those of ALONE that it has learned from: nothing else of a product is to be shown to it."""

    variant: str = "gated"
    text_dim: int
    image_dim: int
    hidden_dim: int = 256
    classes: int
    dropout: float = 0.3
    modalities: tuple[str, ...] = ALONE

    def __post_init__(self) -> None:
        object.__setattr__(self, "modalities", tuple(self.modalities))  # JSON has lists
        known = (*ALONE, *FEATURE, *LATE)
        if self.variant not in known:
            raise BundleError(f"fusion variant: found {self.variant!r}, wanted one of {', '.join(known)}")

    @property
    def reads(self) -> tuple[bool, bool]:
        """Whether (text, image) says anything to it."""
        text, image = (name in self.modalities and self.variant not in {*ALONE} - {name} for name in ALONE)
        return text, image

    def to_json(self) -> dict[str, Any]:
        """Without modalities where both are known: a bundle of before reads the same."""
        facts = asdict(self)
        if self.modalities == ALONE:
            del facts["modalities"]
        return facts


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
        self.text_projection: nn.Module = _projection(settings.text_dim, hidden, dropout)
        self.image_projection: nn.Module = _projection(settings.image_dim, hidden, dropout)
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

    def fuse_patterns(self, text_BH: torch.Tensor, image_BH: torch.Tensor) -> torch.Tensor:
        """Logits [P, B, C] of every product seen in all three ways: both, text alone, image alone. `fuse` on
        3 B rows; a variant that knows what an absent modality spares it has its own."""
        rows = len(text_BH)
        present_P2 = text_BH.new_tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        logits = self.fuse(
            torch.cat([text_BH, text_BH, torch.zeros_like(text_BH)]),
            torch.cat([image_BH, torch.zeros_like(image_BH), image_BH]),
            present_P2.repeat_interleave(rows, dim=0),
        )
        return logits.view(3, rows, -1)


def _projection(in_dim: int, hidden_dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(in_dim, hidden_dim),
        nn.GELU(),
        nn.LayerNorm(hidden_dim),
    )
