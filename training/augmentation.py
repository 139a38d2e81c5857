"""Random changes of pictures that leave the product what it is, a whole batch at once.

Shapes: B pictures, K 3 colours, H = W = size, C categories.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.functional import affine_grid, grid_sample
from torchvision.transforms.v2 import CutMix, MixUp, RandAugment

from aisle.errors import EncoderError

MIXES = ("none", "mixup", "cutmix", "either")
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Which changes, and how large.

    A crop keeps at least `crop_area` of the picture, stretched by at most `stretch`; `rotation` is in degrees
    to either side; `flip` mirrors every other picture; `jitter` changes brightness, contrast and saturation
    by up to that share. `rand_ops` changes of RandAugment (Cubuk et al., 2020) come on top, at
    `rand_magnitude` of 30. `mix` blends pairs of pictures and of their answers: mixup (Zhang et al., 2018),
    cutmix (Yun et al., 2019), or either by lot, with a share from Beta(`mix_alpha`, `mix_alpha`).
    """

    crop_area: float = 0.5
    stretch: float = 4 / 3
    rotation: float = 0.0
    flip: bool = True
    jitter: float = 0.3
    rand_ops: int = 0
    rand_magnitude: int = 9
    mix: str = "none"
    mix_alpha: float = 0.4

    def __post_init__(self) -> None:
        for name, is_right, wanted in (
            ("crop_area", 0 < self.crop_area <= 1, "more than 0, at most 1"),
            ("stretch", 1 <= self.stretch < math.inf, "1 or more"),
            ("rotation", 0 <= self.rotation <= 180, "0 to 180 degrees"),
            ("jitter", 0 <= self.jitter < 1, "0 or more and less than 1"),
            ("rand_ops", self.rand_ops >= 0, "0 or more"),
            ("rand_magnitude", 0 <= self.rand_magnitude <= 30, "0 to 30"),
            ("mix", self.mix in MIXES, f"one of {', '.join(MIXES)}"),
            ("mix_alpha", 0 < self.mix_alpha < math.inf, "more than 0"),
        ):
            if not is_right:
                raise EncoderError(f"augmentation {name}: found {getattr(self, name)!r}, wanted {wanted}")


USUAL = Augmentation()


def augment(
    pixels_BKHW: torch.Tensor, generator: torch.Generator, settings: Augmentation = USUAL
) -> torch.Tensor:
    """Changed pictures, each by numbers of its own; uint8 (or float, 0 to 255) in, float32 0 to 255 out.

    Numbers come from `generator`, on the CPU whatever the device of the pixels; RandAugment's come from
    torch's own, which `generator` seeds.
    """
    if settings.rand_ops:
        pixels_BKHW = _rand_augment(pixels_BKHW, generator, settings)
    return _jitter(_crop(pixels_BKHW.float(), generator, settings), generator, settings.jitter)


def mix(
    pixels_BKHW: torch.Tensor, target_BC: torch.Tensor, generator: torch.Generator, settings: Augmentation
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and answers (rows that add up to 1), each blended with its neighbour's by `settings.mix`."""
    if settings.mix == "none" or len(pixels_BKHW) < 2:
        return pixels_BKHW, target_BC
    is_cut = settings.mix == "cutmix"
    if settings.mix == "either":
        is_cut = bool(torch.rand(1, generator=generator) < 0.5)
    blend = (CutMix if is_cut else MixUp)(alpha=float(settings.mix_alpha))
    with _seeded_by(generator):
        pixels_BKHW, target_BC = blend(pixels_BKHW, target_BC)
    return pixels_BKHW, target_BC


def _rand_augment(
    pixels_BKHW: torch.Tensor, generator: torch.Generator, settings: Augmentation
) -> torch.Tensor:
    change = RandAugment(settings.rand_ops, settings.rand_magnitude)
    with _seeded_by(generator):
        return torch.stack([change(picture) for picture in pixels_BKHW.to(torch.uint8)])


@contextmanager
def _seeded_by(generator: torch.Generator) -> Iterator[None]:
    """torch's own chance begins where `generator` says, and goes on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        yield


def _crop(pixels_BKHW: torch.Tensor, generator: torch.Generator, settings: Augmentation) -> torch.Tensor:
    """Random resized crop (Szegedy et al., 2015), rotation and mirror, as one affine sampling a picture."""
    count = len(pixels_BKHW)
    area_B = _uniform(count, settings.crop_area, 1.0, generator)
    bound = math.log(settings.stretch)
    stretch_B = _uniform(count, -bound, bound, generator).exp().sqrt()
    side_B2 = torch.stack([area_B.sqrt() * stretch_B, area_B.sqrt() / stretch_B], dim=1).clamp_max(1)
    shift_B2 = (1 - side_B2) * torch.rand(count, 2, generator=generator).mul(2).sub(1)
    mirror_B = torch.where(torch.rand(count, generator=generator) < 0.5 * settings.flip, -1.0, 1.0)
    angle_B = _uniform(count, -settings.rotation, settings.rotation, generator).deg2rad()
    theta_B23 = torch.zeros(count, 2, 3)
    theta_B23[:, 0, 0], theta_B23[:, 0, 1] = side_B2[:, 0] * angle_B.cos(), -side_B2[:, 0] * angle_B.sin()
    theta_B23[:, 1, 0], theta_B23[:, 1, 1] = side_B2[:, 1] * angle_B.sin(), side_B2[:, 1] * angle_B.cos()
    theta_B23[:, :, 0] *= mirror_B[:, None]
    theta_B23[:, :, 2] = shift_B2
    grid = affine_grid(theta_B23.to(pixels_BKHW.device), list(pixels_BKHW.shape), align_corners=False)
    return grid_sample(pixels_BKHW, grid, padding_mode="border", align_corners=False)


def _jitter(pixels_BKHW: torch.Tensor, generator: torch.Generator, most: float) -> torch.Tensor:
    bright, contrast, saturation = (
        _uniform(len(pixels_BKHW), 1 - most, 1 + most, generator).view(-1, 1, 1, 1).to(pixels_BKHW.device)
        for _ in range(3)
    )
    grey_weights = pixels_BKHW.new_tensor(_GREY).view(1, 3, 1, 1)
    pixels_BKHW = pixels_BKHW * bright
    grey_B1HW = (pixels_BKHW * grey_weights).sum(1, keepdim=True)
    pixels_BKHW = torch.lerp(grey_B1HW.mean((2, 3), keepdim=True), pixels_BKHW, contrast)
    grey_B1HW = (pixels_BKHW * grey_weights).sum(1, keepdim=True)
    return torch.lerp(grey_B1HW, pixels_BKHW, saturation).clamp(0, 255)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low
