"""Fusion networks by name, and what one says of a batch.

Shapes: B products, D and E embedding widths, H hidden width, C categories, P = 3 presence patterns.
"""

from __future__ import annotations

import numpy as np
import torch

from aisle.feature_fusion import Add, Concat, CrossAttention, Gated
from aisle.fusion_net import FusionNet, FusionSettings
from aisle.late_fusion import ImageAlone, Mean, Product, Stacked, TextAlone, Weighted

__all__ = ["VARIANTS", "FusionNet", "FusionSettings", "build_fusion", "fusion_logits"]

VARIANTS: dict[str, type[FusionNet]] = {
    "text": TextAlone,
    "image": ImageAlone,
    "concat": Concat,
    "add": Add,
    "gated": Gated,
    "cross_attention": CrossAttention,
    "mean": Mean,
    "product": Product,
    "weighted": Weighted,
    "stacked": Stacked,
}


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
