"""Random changes of pictures: seeded, in range, each picture its own, and as large as was set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aisle.errors import EncoderError
from training.augmentation import Augmentation, augment, mix

SIZE = 32
STILL = Augmentation(crop_area=1.0, stretch=1.0, rotation=0.0, flip=False, jitter=0.0)
EVERYTHING = Augmentation(rotation=20, rand_ops=2)


def pictures(count: int) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def chance(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("settings", [Augmentation(), EVERYTHING])
def test_the_same_seed_changes_alike_and_another_does_not(settings: Augmentation) -> None:
    once, again, other = (augment(pictures(6), chance(seed), settings) for seed in (3, 3, 4))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_colours_stay_in_range() -> None:
    changed = augment(pictures(6), chance(3), EVERYTHING)
    assert (changed.dtype, changed.shape) == (torch.float32, (6, 3, SIZE, SIZE))
    assert (changed.min() >= 0) & (changed.max() <= 255)


@pytest.mark.parametrize("settings", [Augmentation(), Augmentation(rand_ops=1, rand_magnitude=20)])
def test_each_picture_is_changed_in_its_own_way(settings: Augmentation) -> None:
    changed = augment(pictures(1).repeat(4, 1, 1, 1), chance(0), settings)
    assert len({picture.numpy().tobytes() for picture in changed}) == 4


def test_nothing_set_changes_nothing() -> None:
    torch.testing.assert_close(augment(pictures(3), chance(0), STILL), pictures(3).float(), atol=0.1, rtol=0)


def test_rotation_turns_about_the_middle_and_by_no_more_than_was_set() -> None:
    bar = torch.zeros(200, 3, SIZE, SIZE)
    bar[:, :, 15:17, 2:30] = 255  # lying
    turned = augment(bar, chance(0), Augmentation(**{**vars(STILL), "rotation": 30.0}))
    ys, xs = torch.meshgrid(torch.arange(SIZE) - 15.5, torch.arange(SIZE) - 15.5, indexing="ij")
    light_BHW = turned.mean(1)
    total_B = light_BHW.sum((1, 2))
    xx_B = (light_BHW * xs**2).sum((1, 2)) / total_B
    yy_B = (light_BHW * ys**2).sum((1, 2)) / total_B
    xy_B = (light_BHW * xs * ys).sum((1, 2)) / total_B
    degrees_B = 0.5 * torch.atan2(2 * xy_B, xx_B - yy_B).rad2deg()  # of the longer axis
    assert 27 < degrees_B.abs().max() < 31
    assert 14 < degrees_B.abs().mean() < 16  # uniform over 0 to 30
    assert abs(float((degrees_B > 0).float().mean()) - 0.5) < 0.1


def test_half_of_the_pictures_are_mirrored() -> None:
    left = torch.zeros(400, 3, SIZE, SIZE)
    left[..., : SIZE // 2] = 255
    flipped = augment(left, chance(0), Augmentation(**{**vars(STILL), "flip": True}))
    share = float((flipped[:, 0, 0, 0] < 1).float().mean())
    assert 0.43 < share < 0.57


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "either"])
def test_mixed_answers_say_how_much_of_each_picture_is_there(kind: str) -> None:
    black_and_white = torch.zeros(2, 3, SIZE, SIZE)
    black_and_white[1] = 255
    for seed in range(8):
        mixed, target_BC = mix(black_and_white, torch.eye(2), chance(seed), Augmentation(mix=kind))
        share_of_white_B = mixed.mean((1, 2, 3)) / 255
        torch.testing.assert_close(share_of_white_B, target_BC[:, 1], atol=1e-5, rtol=0)
        torch.testing.assert_close(target_BC.sum(1), torch.ones(2))


def test_either_mixes_in_both_ways() -> None:
    black_and_white = torch.zeros(2, 3, SIZE, SIZE)
    black_and_white[1] = 255
    greys = set()
    for seed in range(12):
        mixed, _ = mix(black_and_white, torch.eye(2), chance(seed), Augmentation(mix="either", mix_alpha=4))
        greys.add(len(mixed[0].unique()) == 1)
    assert greys == {True, False}


def test_chance_drawn_for_pictures_leaves_torchs_own_alone() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    augment(pictures(2), chance(0), EVERYTHING)
    mix(pictures(2).float(), torch.eye(2), chance(0), Augmentation(mix="mixup"))
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("mix", "blend", "one of none, mixup"),
        ("rotation", 200.0, "0 to 180"),
        ("crop_area", 0.0, "at most 1"),
    ],
)
def test_settings_that_make_no_sense_are_named(name: str, value: object, wanted: str) -> None:
    with pytest.raises(EncoderError, match=f"augmentation {name}: found {value!r}, wanted .*{wanted}"):
        Augmentation(**{name: value})  # type: ignore[arg-type]
