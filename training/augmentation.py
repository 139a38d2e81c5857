"""Random changes of pictures that leave the product what it is, a whole batch at once.

Shapes: B pictures, C 3 colours, H = W = size.
"""

from __future__ import annotations

import torch
from torch.nn.functional import affine_grid, grid_sample

_AREA = (0.5, 1.0)  # share of the picture that a crop keeps
_ASPECT = (3 / 4, 4 / 3)  # stretch of a crop, width by height
_JITTER = 0.3  # brightness, contrast and saturation change by up to this share
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


def augment(pixels_BCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random resized crop, mirror and colour jitter; float32 0 to 255 in, the same out.

    Each picture draws its own numbers from `generator`, on the CPU whatever the device of the pixels.
    """
    return _jitter(_crop(pixels_BCHW, generator), generator)


def _crop(pixels_BCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random resized crop and mirror (Szegedy et al., 2015), as one affine sampling a picture."""
    count = len(pixels_BCHW)
    area_B = _uniform(count, *_AREA, generator)
    low, high = torch.tensor(_ASPECT).log().tolist()
    stretch_B = _uniform(count, low, high, generator).exp().sqrt()
    side_B2 = torch.stack([area_B.sqrt() * stretch_B, area_B.sqrt() / stretch_B], dim=1).clamp_max(1)
    shift_B2 = (1 - side_B2) * torch.rand(count, 2, generator=generator).mul(2).sub(1)
    mirror_B = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    theta_B23 = torch.zeros(count, 2, 3)
    theta_B23[:, 0, 0], theta_B23[:, 1, 1] = side_B2[:, 0] * mirror_B, side_B2[:, 1]
    theta_B23[:, :, 2] = shift_B2
    grid = affine_grid(theta_B23.to(pixels_BCHW.device), list(pixels_BCHW.shape), align_corners=False)
    return grid_sample(pixels_BCHW, grid, padding_mode="border", align_corners=False)


def _jitter(pixels_BCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    bright, contrast, saturation = (
        _uniform(len(pixels_BCHW), 1 - _JITTER, 1 + _JITTER, generator)
        .view(-1, 1, 1, 1)
        .to(pixels_BCHW.device)
        for _ in range(3)
    )
    grey_weights = pixels_BCHW.new_tensor(_GREY).view(1, 3, 1, 1)
    pixels_BCHW = pixels_BCHW * bright
    grey_B1HW = (pixels_BCHW * grey_weights).sum(1, keepdim=True)
    pixels_BCHW = torch.lerp(grey_B1HW.mean((2, 3), keepdim=True), pixels_BCHW, contrast)
    grey_B1HW = (pixels_BCHW * grey_weights).sum(1, keepdim=True)
    return torch.lerp(grey_B1HW, pixels_BCHW, saturation).clamp(0, 255)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low
