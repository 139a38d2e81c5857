"""The cheap columns of a product."""

from __future__ import annotations

import numpy as np

from aisle.columns import brightness_of


def test_brightness_is_the_mean_over_every_fourth_line_from_the_second() -> None:
    pixels_HWC = np.zeros((16, 16, 3), dtype=np.uint8)
    assert brightness_of(pixels_HWC) == 0.0
    pixels_HWC[[1, 9]] = 255
    assert brightness_of(pixels_HWC) == 0.5
    pixels_HWC[:] = 255
    assert brightness_of(pixels_HWC) == 1.0


def test_brightness_of_photos_is_their_mean() -> None:
    chance = np.random.default_rng(27)
    for _ in range(20):
        soft_HWC = chance.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(28, axis=0).repeat(28, axis=1)
        assert abs(brightness_of(soft_HWC) - soft_HWC.mean() / 255) < 1e-9
