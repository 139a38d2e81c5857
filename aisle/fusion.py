"""Fusion networks by name, and what one says of a batch.

Shapes: B products, D and E embedding widths, H hidden width, C categories, P = 3 presence patterns.
"""

from __future__ import annotations

import numpy as np
import torch

from aisle.feature_fusion import Add, Concat, CrossAttention, Gated, Linear
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
    "linear": Linear,
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
    """Float32 logits [P, B, C] of the three presence patterns: projected once, seen in three ways.

    The patterns stand in the order of `aisle.calibration.PATTERNS`: both, text alone, image alone.
    """
    if len(text_BD) == 0:
        return np.zeros((3, 0, fusion.settings.classes), dtype=np.float32)
    text, image = torch.from_numpy(text_BD).to(device), torch.from_numpy(image_BE).to(device)
    logits: np.ndarray = fusion.fuse_patterns(*fusion.project(text, image)).float().cpu().numpy()
    return logits
