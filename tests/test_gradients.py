"""The encoder without weights: which way edges run and where, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aisle.errors import EncoderError
from aisle.gradients import CELLS, DIM, ORIENTATIONS, OrientedGradients
from aisle.image import ImageEncoder, ImageSettings
from training.image_encoder import ImageTraining, Pictures, gradient_encoder, train_image_encoder

SIZE = 64


def half_dark(axis: int) -> np.ndarray:
    """Dark and light halves, left and right (axis 1) or above one another (0): uint8 [1, SIZE, SIZE, 3]."""
    pixels = np.full((SIZE, SIZE, 3), 240, dtype=np.uint8)
    pixels[tuple(slice(None, SIZE // 2) if a == axis else slice(None) for a in (0, 1))] = 20
    return pixels[None]


def cells(pixels_BHWC: np.ndarray) -> np.ndarray:
    """[O, G, G] of the first picture."""
    vectors = gradient_encoder(ImageSettings(size=pixels_BHWC.shape[1])).encode(pixels_BHWC)
    return vectors[0].reshape(ORIENTATIONS, CELLS, CELLS)


def test_an_edge_is_where_it_is_and_runs_as_it_runs() -> None:
    upright = cells(half_dark(axis=1))
    found = {tuple(map(int, at)) for at in np.argwhere(upright > 0.01)}
    assert found == {(0, row, column) for row in range(CELLS) for column in (3, 4)}
    lying = cells(half_dark(axis=0))
    # 90 degrees lie between two of nine orientations.
    assert {int(at[0]) for at in np.argwhere(lying > 0.01)} == {4, 5}
    assert {int(at[1]) for at in np.argwhere(lying > 0.01)} == {3, 4}


def test_a_plain_picture_has_no_edges() -> None:
    assert (cells(np.full((1, SIZE, SIZE, 3), 97, dtype=np.uint8)) == 0).all()


def test_dark_on_light_is_light_on_dark() -> None:
    np.testing.assert_allclose(cells(255 - half_dark(axis=1)), cells(half_dark(axis=1)), atol=1e-6)


def test_contrast_hardly_counts() -> None:
    faint = (half_dark(axis=1) // 4 + 100).astype(np.uint8)
    np.testing.assert_allclose(cells(faint), cells(half_dark(axis=1)), atol=0.01)


@pytest.mark.parametrize("size", [16, 50, 64, 224])
def test_any_size_gives_the_same_width(size: int) -> None:
    assert OrientedGradients()(torch.rand(2, 3, size, size)).shape == (2, DIM)


def test_a_picture_s_size_hardly_counts() -> None:
    large = half_dark(axis=1).repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(cells(large), cells(half_dark(axis=1)), atol=0.02)


def test_a_picture_is_encoded_alike_in_any_company() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE, 3), dtype=np.uint8)
    encoder = gradient_encoder(ImageSettings(size=SIZE))
    np.testing.assert_allclose(encoder.encode(pixels)[7], encoder.encode(pixels[7:8])[0], atol=1e-6)


def test_it_is_stored_and_loaded_like_any_other(tmp_path: Path) -> None:
    encoder = gradient_encoder(ImageSettings(size=SIZE))
    revision = encoder.save(tmp_path)
    loaded = ImageEncoder.load(tmp_path)
    assert (loaded.revision, loaded.weights, loaded.dim) == (revision, "none", DIM)
    np.testing.assert_array_equal(loaded.encode(half_dark(1)), encoder.encode(half_dark(1)))


def test_it_cannot_be_trained() -> None:
    training = ImageTraining(backbone="gradients", size=SIZE)
    pictures = Pictures(np.zeros((4, SIZE, SIZE, 3), dtype=np.uint8), np.arange(4), training.image)
    with pytest.raises(EncoderError, match="found backbone gradients, which has nothing to train"):
        train_image_encoder(pictures, pictures, training, classes=4)
