"""The image encoder on disk, its vectors, and training one: tiny pictures, real backbones."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from rich.progress import Progress

from aisle.backbone import build_backbone
from aisle.errors import BundleError, CatalogError, EncoderError
from aisle.image import ImageEncoder, ImageSettings
from aisle.manifest import write_manifest
from training.image_encoder import (
    ImageTraining,
    Pictures,
    train_image_encoder,
    untrained_image_encoder,
)

SIZE = 32
TINY = ImageTraining(size=SIZE, epochs=3, batch_size=16)


def encoder_of(image_settings: ImageSettings, seed: int = 0) -> ImageEncoder:
    torch.manual_seed(seed)
    model, _ = build_backbone("mobilenet_v3_small")
    return ImageEncoder(model, image_settings, backbone="mobilenet_v3_small", weights="catalogue")


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    return encoder_of(ImageSettings(size=SIZE))


def pixels_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def test_vectors_do_not_depend_on_the_batch(encoder: ImageEncoder) -> None:
    pixels = pixels_of(40)
    together = encoder.encode(pixels)
    alone = np.concatenate([encoder.encode(pixels[i : i + 1]) for i in range(40)])
    assert (together.shape, together.dtype) == ((40, 576), np.float32)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_no_picture_gives_no_vector(encoder: ImageEncoder) -> None:
    assert encoder.encode(pixels_of(0)).shape == (0, 576)


def test_pixels_of_another_size_are_refused(encoder: ImageEncoder) -> None:
    with pytest.raises(EncoderError, match=r"found uint8 \[1, 16, 16, 3\], wanted uint8 \[B, 32, 32, 3\]"):
        encoder.encode(np.zeros((1, 16, 16, 3), dtype=np.uint8))
    with pytest.raises(EncoderError, match="found float32"):
        encoder.encode(np.zeros((1, SIZE, SIZE, 3), dtype=np.float32))


def test_saved_and_loaded_encoder_gives_the_same_bytes(encoder: ImageEncoder, tmp_path: Path) -> None:
    revision = encoder.save(tmp_path / "encoder")
    loaded = ImageEncoder.load(tmp_path / "encoder")
    pixels = pixels_of(3)
    assert loaded.encode(pixels).tobytes() == encoder.encode(pixels).tobytes()
    assert (loaded.revision, loaded.settings, loaded.weights) == (revision, encoder.settings, "catalogue")
    assert loaded.save(tmp_path / "again") == revision


def test_revision_changes_with_settings_and_weights(tmp_path: Path) -> None:
    revisions = {
        encoder_of(ImageSettings(size=SIZE)).save(tmp_path / "a"),
        encoder_of(ImageSettings(size=SIZE, trim_white=False)).save(tmp_path / "b"),
        encoder_of(ImageSettings(size=64)).save(tmp_path / "c"),
        encoder_of(ImageSettings(size=SIZE), seed=1).save(tmp_path / "d"),
    }
    assert len(revisions) == 4


def test_damaged_weights_are_refused(encoder: ImageEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(BundleError, match="model.safetensors: found sha256"):
        ImageEncoder.load(tmp_path)


def test_weights_of_another_backbone_are_refused(encoder: ImageEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    facts = json.loads((tmp_path / "encoder.json").read_text())
    (tmp_path / "encoder.json").write_text(json.dumps(facts | {"backbone": "resnet50"}))
    write_manifest(tmp_path)
    with pytest.raises(BundleError, match="model.safetensors: does not fit"):
        ImageEncoder.load(tmp_path)


def shapes(count: int, seed: int) -> tuple[list[bytes], np.ndarray]:
    """JPEGs of red discs (0) and blue bars (1) on white, each somewhere else."""
    rng = np.random.default_rng(seed)
    label_N = rng.integers(0, 2, count)
    pictures = []
    for label in label_N:
        picture = Image.new("RGB", (48, 48), "white")
        left, top = rng.integers(0, 16, 2).tolist()
        box = (left, top, left + 30, top + 30)
        if label == 0:
            ImageDraw.Draw(picture).ellipse(box, fill=(200, 30, 30))
        else:
            ImageDraw.Draw(picture).rectangle(box, fill=(30, 30, 200))
        file = io.BytesIO()
        picture.save(file, "JPEG")
        pictures.append(file.getvalue())
    return pictures, label_N


def pictures(count: int, seed: int, cache_bytes: int = 2**20) -> Pictures:
    return Pictures(*shapes(count, seed), TINY.image, cache_bytes=cache_bytes)


def quiet() -> Progress:
    return Progress(disable=True)


def test_training_learns_to_tell_shapes_apart() -> None:
    settings = ImageTraining(size=SIZE, epochs=12, batch_size=16)
    encoder, history = train_image_encoder(
        pictures(96, 0), pictures(48, 1), settings, classes=2, progress=quiet()
    )
    assert max(epoch["validation_macro_f1"] for epoch in history) > 0.9
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert (encoder.weights, encoder.dim, encoder.revision) == ("catalogue", 576, "")


class StoppingProgress(Progress):
    """Ctrl-C after so many pictures."""

    def __init__(self, after: int) -> None:
        super().__init__(disable=True)
        self.left = after

    def advance(self, task_id, advance=1):  # type: ignore[no-untyped-def]
        self.left -= advance
        if self.left < 0:
            raise KeyboardInterrupt
        super().advance(task_id, advance)


def test_a_killed_run_resumes_to_the_very_same_weights(tmp_path: Path) -> None:
    train, validation = pictures(40, 0), pictures(16, 1)
    whole, history = train_image_encoder(train, validation, TINY, classes=2, progress=quiet())
    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        train_image_encoder(
            train, validation, TINY, classes=2, work=work, progress=StoppingProgress(after=100)
        )
    resumed, history_resumed = train_image_encoder(
        train, validation, TINY, classes=2, work=work, progress=StoppingProgress(after=40)
    )
    assert history_resumed == history
    assert resumed.save(tmp_path / "resumed") == whole.save(tmp_path / "whole")


def test_a_finished_run_is_answered_from_its_checkpoint_and_other_settings_start_anew(
    tmp_path: Path,
) -> None:
    train, validation = pictures(40, 0), pictures(16, 1)
    first, _ = train_image_encoder(train, validation, TINY, classes=2, work=tmp_path, progress=quiet())
    again, _ = train_image_encoder(
        train, validation, TINY, classes=2, work=tmp_path, progress=StoppingProgress(after=0)
    )
    assert again.encode(pixels_of(2)).tobytes() == first.encode(pixels_of(2)).tobytes()
    other = ImageTraining(size=SIZE, epochs=1, batch_size=16, seed=1)
    _, history = train_image_encoder(train, validation, other, classes=2, work=tmp_path, progress=quiet())
    assert len(history) == 1


def test_new_photos_under_the_old_names_start_anew(tmp_path: Path) -> None:
    def on_disk(seed: int) -> Pictures:
        paths = [tmp_path / f"{i}.jpg" for i in range(16)]
        for path, source in zip(paths, shapes(16, seed)[0], strict=True):
            path.write_bytes(source)
        return Pictures(paths, np.arange(16) % 2, TINY.image)

    settings = ImageTraining(size=SIZE, epochs=1, batch_size=16)
    old = on_disk(0)
    train_image_encoder(old, old, settings, classes=2, work=tmp_path / "work", progress=quiet())
    new = on_disk(2)
    with pytest.raises(KeyboardInterrupt):  # it trains, instead of taking the old checkpoint
        train_image_encoder(
            new, new, settings, classes=2, work=tmp_path / "work", progress=StoppingProgress(after=0)
        )


def test_the_same_pictures_in_another_place_are_the_same(tmp_path: Path) -> None:
    sources, label_N = shapes(4, 0)
    moved = []
    for i, source in enumerate(sources):
        moved.append(tmp_path / f"moved-{i}.jpg")
        moved[-1].write_bytes(source)
    here = Pictures(sources, label_N, TINY.image).fingerprint()
    assert Pictures(moved, label_N, TINY.image).fingerprint() == here
    assert Pictures(moved, 1 - label_N, TINY.image).fingerprint() != here
    assert Pictures(moved, label_N, ImageSettings(size=64)).fingerprint() != here


def test_an_untrained_encoder_is_made_of_its_seed(tmp_path: Path) -> None:
    revisions = [
        untrained_image_encoder(ImageTraining(size=SIZE, seed=seed)).save(tmp_path / str(i))
        for i, seed in enumerate((1, 1, 2))
    ]
    assert revisions[0] == revisions[1] != revisions[2]


def test_training_stops_early_when_nothing_gets_better() -> None:
    train = Pictures(pixels_of(8), np.arange(8) % 2, TINY.image)
    settings = ImageTraining(size=SIZE, epochs=50, patience=2, batch_size=8, learning_rate=0.0)
    _, history = train_image_encoder(train, train, settings, classes=2, progress=quiet())
    scores = [epoch["validation_macro_f1"] for epoch in history]
    assert len(history) == int(np.argmax(scores)) + 3


def test_pictures_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    good, _ = shapes(3, 0)
    (tmp_path / "good.jpg").write_bytes(good[0])
    sources: list[bytes | Path] = [good[1], b"no picture", tmp_path / "good.jpg", tmp_path / "absent.jpg"]
    mixed = Pictures(sources, np.array([4, 5, 6, 7]), TINY.image)
    with ThreadPoolExecutor(2) as pool:
        read = list(mixed.read([np.array([0, 1]), np.array([1, 3]), np.array([2])], pool))
    assert [labels.tolist() for _, labels in read] == [[4], [], [6]]
    assert [tuple(pixels.shape) for pixels, _ in read] == [(count, 3, SIZE, SIZE) for count in (1, 0, 1)]
    assert mixed.unreadable == 2


def test_no_readable_picture_at_all_is_an_error() -> None:
    bad = Pictures([b"x", b"y"], np.array([0, 1]), TINY.image)
    with pytest.raises(CatalogError, match="training pictures: found none that can be read"):
        train_image_encoder(bad, bad, TINY, classes=2, progress=quiet())


def test_decoded_pixels_are_kept_only_within_the_budget() -> None:
    kept, decoded_again = pictures(2, 0), pictures(2, 0, cache_bytes=2 * SIZE * SIZE * 3 - 1)
    assert kept[0] is kept[0]
    assert decoded_again[0] is not decoded_again[0]
    assert np.array_equal(kept[1], decoded_again[1])
